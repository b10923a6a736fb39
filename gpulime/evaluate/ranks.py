"""Ranks of units of an input: segments by coefficient or the mean of a map, pixels in buckets of equal area."""

from __future__ import annotations

import torch
from torch import Tensor


def order(values: Tensor, counts: Tensor) -> Tensor:
    """Order units by value, the largest first; equal values by number.

    Parameters
    ----------
    values : (n, l, k) float
    counts : (n,) int64
        Units of each input, at most k.

    Returns
    -------
    (n, l, k) int64
        Numbers of units; those beyond an input's count are last.
    """
    beyond = torch.arange(values.shape[-1], device=values.device) >= counts[:, None, None]
    return values.masked_fill(beyond, -torch.inf).argsort(dim=-1, descending=True, stable=True)


def segment_means(maps: Tensor, segments: Tensor, k: int) -> Tensor:
    """Means of maps in each segment.

    Parameters
    ----------
    maps : (n, l, h, w) float
    segments : (n, h, w) integers in [0, k)

    Returns
    -------
    (n, l, k) float64; the map's least value for a segment without pixels
    """
    n, l = maps.shape[:2]
    where, flat = segments.flatten(1).long(), maps.flatten(2).double()
    low = flat.amin(-1, keepdim=True)  # subtracted, so that all means of a constant map are equal
    sums = torch.zeros(n, l, k, dtype=torch.float64, device=maps.device)
    sums.scatter_add_(2, where[:, None].expand(n, l, -1), flat - low)
    return low + sums / sizes(segments, k).clamp(min=1)[:, None]


def painted(values: Tensor, segments: Tensor) -> Tensor:
    """Maps (n, l, h, w) of the values (n, l, k) of segments (n, h, w); 0 for pixels with the label k, which are kept."""
    padded = torch.nn.functional.pad(values, (0, 1))
    where = segments.flatten(1).long()[:, None].expand(-1, padded.shape[1], -1)
    return padded.gather(2, where).view(*padded.shape[:2], *segments.shape[1:])


def sizes(segments: Tensor, k: int) -> Tensor:
    """Pixels of each segment, (n, k) float64, of label maps (n, h, w) in [0, k)."""
    where = segments.flatten(1).long()
    ones = torch.ones_like(where, dtype=torch.float64)
    return torch.zeros(len(where), k, dtype=torch.float64, device=where.device).scatter_add_(1, where, ones)


def buckets(maps: Tensor, steps: int) -> Tensor:
    """Divide pixels into buckets of equal area by their rank: 0 holds the largest values, ``steps - 1`` the smallest.

    Equal values are taken row by row, so a map that is constant within regions has no order of pixels there.

    Parameters
    ----------
    maps : (n, l, h, w) float
    steps : int
        Buckets, at most h * w.

    Returns
    -------
    (n, l, h, w) int64
    """
    pixels = maps.shape[2] * maps.shape[3]
    ranked = maps.flatten(2).argsort(dim=-1, descending=True, stable=True)
    number = torch.arange(pixels, device=maps.device) * steps // pixels
    return torch.empty_like(ranked).scatter_(2, ranked, number.expand_as(ranked)).view(maps.shape)
