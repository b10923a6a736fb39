"""Reproductions of published results on judging explanations: ``python -m benchmarks.evaluation.NAME [--save]``."""
