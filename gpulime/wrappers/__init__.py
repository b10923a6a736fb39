"""Wrappers of other libraries, under lime's names."""
