"""Gaussian smoothing of images before segmentation: `scipy.ndimage.gaussian_filter` along h and w."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def smoothed(images: Tensor, sigma: float | np.floating) -> Tensor:
    """Smooth each channel of images; the image is mirrored at its borders, edge pixels included.

    Parameters
    ----------
    images : (n, c, h, w) float32
    sigma : float
        In pixels; 0 leaves the images as they are. The kernel ends at 4 sigma. A NumPy float is squared in its own precision.

    Returns
    -------
    (n, c, h, w) float32, summed in float64 in SciPy's order and rounded after each direction
    """
    if sigma == 0:
        return images
    radius, factor = int(4 * float(sigma) + 0.5), float(-0.5 / (sigma * sigma))
    weights = [math.exp(factor * (x * x)) for x in range(-radius, 1)]
    total = math.fsum(weights) + math.fsum(weights[:-1])
    for axis in (2, 3):
        images = _along(images, axis, [weight / total for weight in weights])
    return images


def _along(images: Tensor, axis: int, weights: list[float]) -> Tensor:
    """Convolve with a symmetric kernel, given from its end to its centre."""
    radius, size = len(weights) - 1, images.shape[axis]
    place = torch.arange(-radius, size + radius, device=images.device) % (2 * size)
    padded = images.double().index_select(axis, torch.minimum(place, 2 * size - 1 - place))
    sums = padded.narrow(axis, radius, size) * weights[-1]
    for i, weight in enumerate(weights[:-1]):
        sums += (padded.narrow(axis, i, size) + padded.narrow(axis, 2 * radius - i, size)) * weight
    return sums.float()
