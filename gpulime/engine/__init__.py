"""Engine: masks, queue, model and fit for inputs made of parts; it knows nothing of pixels or files."""
