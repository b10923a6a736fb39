"""Random numbers of a neighbourhood, drawn in lime's order: cells of columns, then values inside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpulime.tables.bins import Array, Random

FEW = 12  # entries up to which comparing with each is faster than a binary search


def cumulative(frequencies: Any) -> Array:
    """Cumulative probabilities (m,) of frequencies (m,), as NumPy's ``choice`` computes them."""
    sums: Array = (np.asarray(frequencies) / float(sum(frequencies))).cumsum()
    sums /= sums[-1]
    return sums


def chosen(random: Random, cumulatives: Sequence[Array], s: int) -> Array:
    """Choose an entry of each column s times, (d, s) int64: equal to ``random.choice`` for one column after the other."""
    uniform = random.random_sample((len(cumulatives), s))
    return np.array([_entry(sums, row) for sums, row in zip(cumulatives, uniform, strict=True)], dtype=np.int64).reshape(-1, s)


def _entry(sums: Array, uniform: Array) -> Array:
    """The entries whose shares hold the numbers ``uniform`` (s,)."""
    if len(sums) > FEW:
        return sums.searchsorted(uniform, side="right")
    found = np.zeros(len(uniform), dtype=np.int64)
    for least in sums[:-1]:
        found += uniform >= least
    return found


def gaussian(random: Random, s: int, mean: Array, scale: Array) -> Array:
    """Draw s rows (s, d) of normal numbers with ``mean`` and ``scale`` (d,)."""
    found = random.standard_normal((s, len(scale)))
    found *= scale
    found += mean
    return found


def of_key(seed: int, key: int) -> Random:
    """The random state of one row, a pure function of the explainer's seed and the row's key."""
    words = [number % 2**64 for number in (seed, key)]
    return np.random.RandomState(np.random.PCG64(np.random.SeedSequence(words)))
