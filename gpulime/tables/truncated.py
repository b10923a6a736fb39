"""Truncated normal numbers from uniform ones, equal to SciPy's ``truncnorm.rvs`` bit for bit.

SciPy computes the log of the probability of each number's interval; here each interval has it once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log1p, log_ndtr, logsumexp, ndtr, ndtri_exp

Array = np.ndarray[Any, np.dtype[Any]]


class Intervals:
    """Intervals of the standard normal distribution.

    Parameters
    ----------
    low, high : (m,) float64, the ends of each
    """

    def __init__(self, low: Array, high: Array) -> None:
        self.left = low < 0
        self.sign = np.where(self.left, 1.0, -1.0)
        # In the right tail the mirrored interval is used: numbers near 1 have few digits left.
        self.start = np.where(self.left, log_ndtr(low), log_ndtr(-high))
        self.mass = _log_mass(low, high)

    def quantiles(self, which: Array, uniform: Array) -> Array:
        """Quantiles (t,) of intervals ``which`` (t,) at probabilities ``uniform`` (t,) in [0, 1)."""
        with np.errstate(divide="ignore"):  # a probability of 0
            part = np.where(self.left[which], np.log(uniform), np.log1p(-uniform))
        part += self.mass[which]
        start = self.start[which]
        most = np.maximum(start, part)
        np.minimum(start, part, out=part)
        part -= most
        found: Array = ndtri_exp(np.log1p(np.exp(part, out=part), out=part) + most)
        found *= self.sign[which]
        return found


def _log_mass(low: Array, high: Array) -> Array:
    """Logs (m,) of the probabilities of intervals, by the formula that suits each side of 0."""
    turned = low > 0
    a, b = np.where(turned, -high, low), np.where(turned, -low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.real(logsumexp([log_ndtr(b) + 0j, log_ndtr(a) + np.pi * 1j], axis=0))
        central = log1p(-ndtr(a) - ndtr(-b))
    mass: Array = np.where(b <= 0, tail, central)
    return mass
