"""What gpulime costs and what it is worth: ``python -m benchmarks.run``."""
