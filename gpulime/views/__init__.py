"""Views of a run: the report, exported files, the comparison of two runs."""
