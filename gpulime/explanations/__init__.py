"""Explanations: the results, and their pictures and pages."""
