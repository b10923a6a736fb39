"""Entropy of maps: the complexity that the efficient randomisation test compares."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 100


def entropies(maps: Tensor, bins: int = BINS) -> Tensor:
    """Entropy of the histogram of each map's values between its lowest and highest; NaN for a constant map.

    Hedström et al., "Sanity Checks Revisited: An Exploration to Repair the Model Parameter Randomisation Test", 2023.

    Parameters
    ----------
    maps : (..., h, w)
    bins : int

    Returns
    -------
    (...) float64, in nats, from 0 to log(bins)
    """
    values = maps.double().flatten(-2)
    low, high = (bound[..., None] for bound in values.aminmax(dim=-1))
    scaled = (values - low) / (high - low)
    where = (scaled * bins).nan_to_num(0).long().clamp(0, bins - 1)
    counts = torch.zeros(*values.shape[:-1], bins, dtype=torch.float64, device=maps.device)
    shares = counts.scatter_add(-1, where, torch.ones_like(values)) / values.shape[-1]
    found = -torch.special.xlogy(shares, shares).sum(-1)
    return torch.where(scaled.isfinite().all(-1), found, torch.nan)
