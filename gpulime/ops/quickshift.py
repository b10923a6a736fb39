"""Quickshift superpixels, with the ids that `skimage.segmentation.quickshift` gives.

Each pixel is a point of colour and place. Its density is a sum of Gaussians over a window; its parent is the nearest point
of higher density there; a pixel without one within ``max_dist`` is a root, and a segment is a root with its descendants
(A. Vedaldi and S. Soatto, Quick shift and kernel methods for mode seeking, ECCV 2008).

In flat regions densities differ in their last bits, which decide the roots and so every id. So the sums are computed as in
scikit-image: float32, each term an exponential in float64, added in raster order and rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.errors import check, whole
from gpulime.ops import source
from gpulime.ops.gaussian import smoothed
from gpulime.ops.lab import rgb2lab, rgb2lab_reference

Place = tuple[Any, ...]  # of a tensor whose last dimensions are h and w

# Compiled for as many channels as images have, gray shown as RGB; above 32 the kernel keeps none of them in registers.
VARIANTS = tuple({"CHANNELS": str(c)} for c in (2, 3, 4, 5, 32, 33, 256))

_BLOCK = (32, 8)  # pixels of a block, along w and h: neighbours share cached parts of their windows
_THREADS = 256


def quickshift(
    images: Tensor, ratio: float = 0.2, kernel_size: float = 4.0, max_dist: float = 200.0, sigma: float = 0.0, rng: int = 42
) -> Tensor:
    """Segment images by quickshift, on the device where they are, without waiting for it.

    Parameters
    ----------
    images : (n, c, h, w) float32, in [0, 1]
        Three channels are RGB and compared in Lab, one is gray RGB, others are compared as they are. The Explainer refuses NaN
        and infinity. They are not checked here, since the check would wait for the device; labels of such an image are
        meaningless.
    ratio : float
        The weight of colour against place.
    kernel_size : float, at least 1
        The width of the Gaussian in pixels; the window reaches three times as far.
    max_dist : float
        A parent is no farther than this in colour and place together.
    sigma : float
        Of a Gaussian that smooths the colours first.
    rng : int
        The seed of the noise that breaks ties between densities.

    Returns
    -------
    (n, h, w) int32 labels, from 0 without gaps in each image, in raster order of the roots

    Raises
    ------
    GpulimeError
        For images of another dtype or rank, or options that make no sense.
    """
    _check(images, kernel_size, sigma, rng)
    if not source.available(images.device):
        return quickshift_reference(images, ratio, kernel_size, max_dist, sigma, rng)
    n, _, h, w = images.shape
    features = _features(images, ratio, sigma, rgb2lab).contiguous()
    scale, radius = _window(kernel_size, h, w)

    def launch(name: str, grid: int, block: tuple[int, ...], *args: Tensor | int | float) -> None:
        defines = {"CHANNELS": str(features.shape[1])}
        source.launch("quickshift.cu", name, (grid,), block, args, defines=defines, device=images.device)

    density = devices.empty(n, h, w, dtype=torch.float32, device=images.device)
    parents, roots = (devices.empty(n, h, w, dtype=torch.int32, device=images.device) for _ in range(2))
    tiles = n * math.ceil(h / _BLOCK[1]) * math.ceil(w / _BLOCK[0])
    launch("densities", tiles, _BLOCK, features, noise(h, w, rng, images.device), density, h, w, radius, scale)
    launch("parents", tiles, _BLOCK, features, density, parents, h, w, radius, float(max_dist))
    launch("roots", math.ceil(n * h * w / _THREADS), (_THREADS,), parents, roots, n, h * w)
    return _numbered(roots.flatten(1)).view(n, h, w)


def quickshift_reference(
    images: Tensor, ratio: float = 0.2, kernel_size: float = 4.0, max_dist: float = 200.0, sigma: float = 0.0, rng: int = 42
) -> Tensor:
    """The definition, one offset of the window at a time; runs on any device."""
    _check(images, kernel_size, sigma, rng)
    n, _, h, w = images.shape
    features = _features(images, ratio, sigma, rgb2lab_reference)
    scale, radius = _window(kernel_size, h, w)

    density = noise(h, w, rng, images.device).expand(n, h, w).clone()
    for here, there, offset in _offsets(h, w, radius):
        terms = (_squares(features[here], features[there], offset) * scale).double().exp()
        density[here] = (density[here].double() + terms).float()

    own = torch.arange(h * w, device=images.device).view(1, h, w)
    parents, nearest = own.repeat(n, 1, 1), torch.full_like(density, torch.inf)
    for here, there, offset in _offsets(h, w, radius):
        squares = _squares(features[here], features[there], offset)
        closer = (density[there] > density[here]) & (squares < nearest[here])
        nearest[here] = torch.where(closer, squares, nearest[here])
        parents[here] = torch.where(closer, own[there], parents[here])
    roots = torch.where(nearest.sqrt() > float(np.float32(max_dist)), own, parents).flatten(1)
    for _ in range((h * w).bit_length()):  # each round doubles the distance to the known ancestor
        roots = roots.gather(1, roots)
    return _numbered(roots).view(n, h, w)


def _check(images: Tensor, kernel_size: float, sigma: float, rng: int) -> None:
    check(images.dtype == torch.float32, f"images must be float32; got {images.dtype}")
    check(images.ndim == 4 and images.numel() > 0, f"images must be (n, c, h, w), none of them 0; got {tuple(images.shape)}")
    check(images[0, 0].numel() < 2**31, f"images must have fewer than 2**31 pixels; got {tuple(images.shape[2:])}")
    check(1 <= kernel_size < math.inf, f"kernel_size must be at least 1; got {kernel_size}")
    check(0 <= sigma < math.inf, f"sigma must be at least 0; got {sigma}")
    whole("rng", rng, 0)


def _features(images: Tensor, ratio: float, sigma: float, to_lab: Callable[[Tensor], Tensor]) -> Tensor:
    """Colours by which pixels are compared: (n, c, h, w) float32, in Lab, smoothed."""
    n, c, h, w = images.shape
    colours = to_lab(images.expand(n, 3, h, w)) if c in (1, 3) else images
    return smoothed(colours, sigma) * ratio


def _window(kernel_size: float, h: int, w: int) -> tuple[float, int]:
    """The factor of squared distances in the Gaussian's exponent, a float32, and the window's radius."""
    size = np.float32(kernel_size)
    return float(np.float32(-0.5 / float(size * size))), min(math.ceil(np.float32(3) * size), max(h, w))


def noise(h: int, w: int, rng: int, device: torch.device) -> Tensor:
    """Initial densities, (h, w) float32: scikit-image's noise for images of this size, drawn once."""
    return devices.read_here(_noise(h, w, rng, device))


@lru_cache(maxsize=32)
def _noise(h: int, w: int, rng: int, device: torch.device) -> Tensor:
    drawn = np.random.default_rng(rng).normal(scale=0.00001, size=(h, w))
    return torch.from_numpy(drawn.astype(np.float32)).to(device)


def _offsets(h: int, w: int, radius: int) -> Iterator[tuple[Place, Place, tuple[int, int]]]:
    """Each offset of the window, in raster order, after the pixels that have a neighbour there and those neighbours."""
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if abs(dy) < h and abs(dx) < w:
                here = ..., slice(max(-dy, 0), h - max(dy, 0)), slice(max(-dx, 0), w - max(dx, 0))
                there = ..., slice(max(dy, 0), h + min(dy, 0)), slice(max(dx, 0), w + min(dx, 0))
                yield here, there, (dy, dx)


def _squares(features: Tensor, others: Tensor, offset: tuple[int, int]) -> Tensor:
    """Squared distances in colour and place, (n, h, w) float32: the channels' one by one, then those of rows and columns."""
    apart = torch.zeros_like(features[:, 0])
    for squares in (features - others).square().unbind(1):
        apart += squares
    return apart + offset[0] ** 2 + offset[1] ** 2


def _numbered(roots: Tensor) -> Tensor:
    """Labels (n, pixels) int32 from the root of each pixel: roots count from 0 in raster order."""
    is_root = roots == torch.arange(roots.shape[1], dtype=roots.dtype, device=roots.device)
    return is_root.cumsum(1, dtype=torch.int32).sub_(1).gather(1, roots.long())
