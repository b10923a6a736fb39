"""The engine: masks, queue, model and fit for inputs that consist of parts. It knows no pixels and no files."""
