"""Similarity of two maps: rank correlations, structural similarity, and rank correlation of histograms of gradients.

As in Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, and the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.errors import check

CELL = 16  # pixels along a side of a cell of HOG
BLOCK = 3  # cells along a side of a block of HOG
WINDOW = 11  # pixels along a side of the Gaussian window of SSIM


def similarities(maps: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Compare maps with others, pair by pair.

    Parameters
    ----------
    maps, others : (..., h, w) float

    Returns
    -------
    dict of name -> (...) float64
        1 for equal maps. "spearman_abs": rank correlation of absolute values; "spearman": of values; "ssim": structural
        similarity of maps that are scaled to [0, 1], with a Gaussian window; "hog": rank correlation of histograms of oriented
        gradients of the scaled maps, in cells of 16 pixels, or a third of a side if that is less. NaN if a map is constant or
        not finite, for "ssim" also if a side is below 11 pixels, and for "hog" if it is below 6 or all histograms are equal.

    Raises
    ------
    GpulimeError
        If the shapes differ.
    """
    check(
        maps.shape == others.shape, f"maps must have the same shape to be compared; got {(*maps.shape,)} and {(*others.shape,)}"
    )
    first, second = maps.detach().double(), others.detach().double()
    usable = _varies(first) & _varies(second)
    scaled = [_scaled(one) for one in (first, second)]
    found = {
        "spearman_abs": spearman(first.abs().flatten(-2), second.abs().flatten(-2)),
        "spearman": spearman(first.flatten(-2), second.flatten(-2)),
        "ssim": _each(ssim, scaled, usable),
        "hog": _each(hog, scaled, usable),
    }
    return {name: torch.where(usable, values, torch.nan) for name, values in found.items()}


def undefined(found: dict[str, Tensor]) -> dict[tuple[int, ...], str]:
    """A reason for each place in which a similarity is NaN, for maps that can be compared otherwise."""
    places = {name: [tuple(place) for place in values.isnan().nonzero().tolist()] for name, values in found.items()}
    return {place: f"{name} is not defined for such maps: too small or too even" for name in found for place in places[name]}


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of vectors (..., p): (...) float64; NaN if one is constant."""
    a, b = (average_ranks(one) for one in (first, second))
    a, b = (one - one.mean(-1, keepdim=True) for one in (a, b))
    return (a * b).sum(-1) / ((a * a).sum(-1) * (b * b).sum(-1)).sqrt()


def average_ranks(values: Tensor) -> Tensor:
    """Ranks from 0 of the values of vectors (..., p), the smallest first: float64; equal values share their mean rank."""
    ordered, order = values.sort(dim=-1)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    group = is_new.long().cumsum(-1) - 1
    place = torch.arange(values.shape[-1], dtype=torch.float64, device=values.device).expand(values.shape)
    sums, counts = (torch.zeros_like(place).scatter_add(-1, group, one) for one in (place, torch.ones_like(place)))
    return torch.zeros_like(place).scatter(-1, order, (sums / counts).gather(-1, group))


def ssim(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Structural similarity of maps (h, w) in [0, 1].

    The authors' code left the range of values at scikit-image's default for floats, 2 at the time; here it is 1.
    """
    from skimage.metrics import structural_similarity

    if min(first.shape) < WINDOW:
        return np.nan
    return float(structural_similarity(first, second, gaussian_weights=True, data_range=1.0))


def hog(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Rank correlation of the histograms of oriented gradients of maps (h, w)."""
    from skimage.feature import hog as histograms

    cell = min(CELL, min(first.shape) // BLOCK)
    if cell < 2:
        return np.nan
    given = {"pixels_per_cell": (cell, cell), "cells_per_block": (BLOCK, BLOCK)}
    a, b = (torch.from_numpy(histograms(one, **given)) for one in (first, second))
    return float(spearman(a, b))


def _varies(maps: Tensor) -> Tensor:
    """Tell for each map if it is finite and not constant."""
    flat = maps.flatten(-2)
    return flat.isfinite().all(-1) & (flat != flat[..., :1]).any(-1)


def _scaled(maps: Tensor) -> Tensor:
    low, high = (one[..., None, None] for one in maps.flatten(-2).aminmax(dim=-1))
    return (maps - low) / (high - low)


def _each(compare: Callable[..., float], pair: Sequence[Tensor], usable: Tensor) -> Tensor:
    """Numbers (...) of a comparison of single maps in NumPy; NaN unless usable."""
    first, second = (one[None].flatten(0, -3).cpu().numpy() for one in pair)
    pairs = zip(first, second, usable.flatten().tolist(), strict=True)
    numbers = [compare(a, b) if is_usable else np.nan for a, b, is_usable in pairs]
    return torch.tensor(numbers, dtype=torch.float64, device=usable.device).view(usable.shape)
