"""Explanations: the results that people hold, and how they are shown."""
