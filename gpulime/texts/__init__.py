"""Texts: words as parts, strings and token ids as rows of a model."""
