"""Convergence: the error of explanations by forwards, for every sampler and estimator."""
