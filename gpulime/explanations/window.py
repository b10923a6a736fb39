"""A window for deep pictures that use a small part of their range, which would look black to people and segmenters.

The model's input is never changed, nor are pictures of eight bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_PLAIN = 4  # channels of a photograph: gray, gray and alpha, RGB, RGBA; of more, three bands are shown
LOW, HIGH = 0.02, 0.98  # percentiles of a picture's values: they become 0 and 1
NARROW = 1 / 8  # between them, in [0, 1]: 12 bits in 16 are 1/16
EIGHT_BITS, ROUNDING = 255, 0.01  # levels, and what arithmetic in float32 leaves of one


def stretched(pictures: Tensor) -> Tensor:
    """Give narrow pictures a window from their 2nd to their 98th percentile; the others stay as they are.

    A picture is narrow if these are less than `NARROW` apart and its values are not the levels of eight bits. On a GPU the host
    waits for the pictures, (n, c, h, w) floats in [0, 1]; they are returned themselves if none is narrow.
    """
    levels = pictures * EIGHT_BITS
    deep = ((levels - levels.round()).abs().flatten(1).amax(1) > ROUNDING).nonzero().flatten()
    if not len(deep):
        return pictures
    low, high = bounds(pictures[deep])
    narrow = (high > low) & (high - low < NARROW)
    if not narrow.any():
        return pictures
    where, result = deep[narrow], pictures.clone()
    result[where] = windowed(pictures[where], low[narrow], high[narrow])
    return result


def bounds(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The 2nd and the 98th percentile of each of the pictures (n, ...): (n,) and (n,)."""
    flat = pictures.flatten(1)
    last = flat.shape[1] - 1
    low, high = (flat.kthvalue(1 + round(part * last), 1).values for part in (LOW, HIGH))
    return low, high


def windowed(pictures: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Pictures (n, ...) with their window (n,), (n,) brought to [0, 1]."""
    shape = (-1, *[1] * (pictures.ndim - 1))
    low, high = low.view(shape), high.view(shape)
    return ((pictures - low) / (high - low).clamp(min=torch.finfo(high.dtype).tiny)).clamp(0, 1)
