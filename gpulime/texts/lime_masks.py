"""Masks of lime's text explainer, from NumPy's stateful RandomState."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def lime_masks(random: np.random.RandomState, s: int, k: int) -> Array:
    """Draw the masks (s, k) bool of a text with k parts, bit for bit as lime: True if a part is shown.

    The number of hidden parts is uniform in 1 ... k; then as many parts are taken without replacement, which NumPy does by
    shuffling all k. Sample 0 shows everything.
    """
    hidden = np.concatenate([[0], random.randint(1, k + 1, s - 1)])
    order = np.tile(np.arange(k), (s, 1))
    for row in order[1:]:
        random.shuffle(row)
    masks = np.empty((s, k), bool)
    np.put_along_axis(masks, order, np.arange(k) >= hidden[:, None], 1)
    return masks
