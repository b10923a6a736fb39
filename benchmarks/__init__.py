"""Benchmarks of gpulime, beside other packages and beside the bare model: ``python -m benchmarks.run``."""
