"""Notes: warnings about weak explanations."""

from __future__ import annotations

import math

HARDLY = 1e-4  # of a probability, or relative to the prediction for other outputs; a smaller spread gets a note


def note(spread: float, prediction: float, is_probability: bool) -> str | None:
    """A warning about the explanation of one label; None if there is none.

    Parameters
    ----------
    spread : float
        Weighted standard deviation of the output over the masked samples; NaN if all of these have weight 0.
    prediction : float
        The output for the whole image.
    is_probability : bool
        True if the output comes from a softmax or sigmoid.
    """
    if math.isnan(spread):
        return "the kernel gives every mask a weight of 0, so nothing is explained: use a larger kernel_width"
    if spread >= (HARDLY if is_probability else HARDLY * abs(prediction)) and spread > 0:
        return None
    said = f"this output hardly moves: its standard deviation over the samples is {spread:.1g}, its prediction {prediction:.3f}"
    return f"{said}; explain logits with activation: null" if is_probability else said


def few_samples(n_samples: int, k: int) -> str | None:
    """A warning about an explanation with fewer samples than twice its segments; None if there are enough."""
    if n_samples >= 2 * k:
        return None
    few = f"n_samples ({n_samples:,}) is below twice the number of segments (2 x {k:,})"
    return f"{few}: coefficients depend on the ridge penalty"
