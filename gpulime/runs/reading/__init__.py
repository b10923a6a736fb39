"""Reading: from files and datasets to the pixels, labels and segments of a batch."""
