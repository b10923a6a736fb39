"""Reading: files and datasets become the pixels, labels and segments of a batch."""
