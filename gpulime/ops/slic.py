"""SLIC superpixels, with the ids that `skimage.segmentation.slic` gives.

K-means over colour and place from a regular grid of centres; each centre competes for the pixels of a window around it
(R. Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods, TPAMI 2012); then a pass in raster
order joins parts that are too small to a neighbour and cuts parts that are too large.

The last bits of its distances decide to which of two centres a pixel belongs. One pixel can make a part too small, and one
part shifts all later ids. So arithmetic is scikit-image's: float32, rounded after each step, a
centre the quotient of a sum that runs over its pixels in raster order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.errors import check
from gpulime.ops import source
from gpulime.ops.gaussian import smoothed
from gpulime.ops.lab import rgb2lab, rgb2lab_reference

# Compiled for as many channels as images have, gray shown as RGB; above 4, 26 and 30 the kernel works differently.
VARIANTS = tuple({"CHANNELS": str(c)} for c in (2, 3, 4, 5, 26, 27, 31, 256))

MOST_CHANNELS = 256
_WARPS, _ROWS = 8, 4  # of a block, and of 32 pixels that a warp assigns: as kernels/slic.cu has them
_CONNECT_THREADS = 256


class Start(NamedTuple):
    """Initial centres of k-means for images of one size.

    Attributes
    ----------
    places : (k, 2) float32, row and column of each centre
    weight : factor of the squared distance in pixels, a float32
    reach : rows and columns from a window's centre to its edge
    """

    places: Tensor
    weight: float
    reach: tuple[int, int]

    def centres(self, n: int, c: int) -> Tensor:
        """(n, k, 2 + c) float32: row, column and, for the first round, no colour."""
        return torch.nn.functional.pad(devices.read_here(self.places), (0, c)).repeat(n, 1, 1)

    def sizes(self, h: int, w: int, min_size_factor: float, max_size_factor: float) -> tuple[int, int]:
        """The fewest and the most pixels of a segment."""
        average = h * w / len(self.places)
        least, most = int(min_size_factor * average), int(max_size_factor * average)
        check(most >= 1, f"max_size_factor = {max_size_factor} leaves segments of {average:g} pixels none")
        return least, most


def slic(
    images: Tensor,
    n_segments: int = 100,
    compactness: float = 10.0,
    max_num_iter: int = 10,
    sigma: float = 0.0,
    min_size_factor: float = 0.5,
    max_size_factor: float = 3.0,
    enforce_connectivity: bool = True,
) -> Tensor:
    """Segment images by SLIC, on the device where they are, without waiting for it.

    Parameters
    ----------
    images : (n, c, h, w) float32, finite
        Three channels are RGB and compared in Lab, one is gray RGB, others are compared as they are. The Explainer refuses NaN
        and infinity, as scikit-image does; they are not checked here, since the check would wait for the device, and
        labels of such an image are meaningless.
    n_segments : int
        About how many segments an image gets.
    compactness : float, positive
        The weight of place against colour.
    max_num_iter : int
        Rounds of k-means.
    sigma : float
        Of a Gaussian that smooths the colours first.
    min_size_factor, max_size_factor : float
        The fewest and the most pixels of a segment, as parts of the average.
    enforce_connectivity : bool
        Make segments connected and of those sizes, which gives ids from 0 without gaps.

    Returns
    -------
    (n, h, w) int32 labels, those of scikit-image with ``start_label=0``

    Raises
    ------
    GpulimeError
        For images of another dtype or rank, or options that make no sense.
    """
    _check(images, n_segments, compactness, sigma)
    if not source.available(images.device):
        return slic_reference(
            images, n_segments, compactness, max_num_iter, sigma, min_size_factor, max_size_factor, enforce_connectivity
        )
    features = _features(images, compactness, sigma, rgb2lab)
    n, h, w, c = features.shape
    start = _start(h, w, n_segments, images.device)
    k = len(start.places)

    def launch(name: str, grid: int, block: tuple[int, ...], *args: Tensor | int | float) -> None:
        defines = {"CHANNELS": str(c)}
        source.launch("slic.cu", name, (grid,), block, args, defines=defines, device=images.device)

    centres = start.centres(n, c)
    labels = torch.full((n, h, w), -1, dtype=torch.int32, device=images.device)
    strays = torch.zeros(n, dtype=torch.int32, device=images.device)
    tiles, block = n * math.ceil(h / (_WARPS * _ROWS)) * math.ceil(w / 32), (32 * _WARPS,)
    for round_ in range(max_num_iter):
        if round_:
            updates = n * math.ceil(k / _WARPS)
            launch("slic_update", updates, block, features, labels, strays, centres, h, w, k, *start.reach)
        launch("slic_assign", tiles, block, features, centres, labels, strays, h, w, k, *start.reach, start.weight)
    if not enforce_connectivity:
        return labels

    min_size, max_size = start.sizes(h, w, min_size_factor, max_size_factor)
    max_size = min(max_size, h * w + 1)  # no part comes to more
    connected, queue = (devices.empty(n, h, w, dtype=torch.int32, device=images.device) for _ in range(2))
    around = devices.empty(n, h, w, dtype=torch.uint8, device=images.device)
    launch("slic_connect", n, (_CONNECT_THREADS,), labels, connected, around, queue, h, w, min_size, max_size)
    return connected


def slic_reference(
    images: Tensor,
    n_segments: int = 100,
    compactness: float = 10.0,
    max_num_iter: int = 10,
    sigma: float = 0.0,
    min_size_factor: float = 0.5,
    max_size_factor: float = 3.0,
    enforce_connectivity: bool = True,
) -> Tensor:
    """The definition, one image and one centre at a time; runs on any device."""
    _check(images, n_segments, compactness, sigma)
    features = _features(images, compactness, sigma, rgb2lab_reference)
    n, h, w, c = features.shape
    start = _start(h, w, n_segments, images.device)
    maps = torch.full((n, h, w), -1, dtype=torch.int32, device=images.device)
    for image, labels, centres in zip(features, maps, start.centres(n, c), strict=True):
        for round_ in range(max_num_iter):
            _assign(image, _means(image, labels, len(centres)) if round_ else centres, labels, start)
    if not enforce_connectivity:
        return maps
    sizes = start.sizes(h, w, min_size_factor, max_size_factor)
    return torch.stack([torch.tensor(_connected(labels.tolist(), *sizes)) for labels in maps]).view(n, h, w).to(maps)


def _check(images: Tensor, n_segments: int, compactness: float, sigma: float) -> None:
    check(images.dtype == torch.float32, f"images must be float32; got {images.dtype}")
    check(images.ndim == 4 and images.numel() > 0, f"images must be (n, c, h, w), none of them 0; got {tuple(images.shape)}")
    # The kernel counts pixels in 32 bits, up to 165 rows beyond the last.
    small = images[0, 0].numel() < 2**30 and max(images.shape[2:]) < 2**22
    check(small, f"images must have fewer than 2**30 pixels, and 2**22 a row or column; got {tuple(images.shape[2:])}")
    check(images.shape[1] <= MOST_CHANNELS, f"images must have at most {MOST_CHANNELS} channels; got {images.shape[1]}")
    check(n_segments >= 1, f"n_segments must be at least 1; got {n_segments}")
    check(0 < compactness < math.inf, f"compactness must be positive; got {compactness}")
    check(0 <= sigma < math.inf, f"sigma must be at least 0; got {sigma}")


@lru_cache(maxsize=32)
def _start(h: int, w: int, n_segments: int, device: torch.device) -> Start:
    """Made once for images of a size, since a copy to the device would wait for it."""
    rows, columns = _grid(h, w, n_segments)
    y, x = torch.arange(h, dtype=torch.float32)[rows], torch.arange(w, dtype=torch.float32)[columns]
    places = torch.cartesian_prod(y, x)
    # The weight follows the requested grid, the windows the grid of the actual number of centres.
    step = np.float32(max(rows.step, columns.step))
    down, across = _grid(h, w, len(places))
    reach = 2 * down.step, 2 * across.step
    return Start(places.to(device), float(np.float32(1 / float(step * step))), reach)


def _grid(h: int, w: int, points: int) -> tuple[slice, slice]:
    """Rows and columns of about that many points at equal distances, at most every pixel (`skimage.util.regular_grid`)."""
    if h * w <= points:
        return slice(0, None, 1), slice(0, None, 1)
    short, long = sorted((h, w))
    steps = [(h * w / points) ** 0.5] * 2
    if short < steps[0]:  # one point along a short axis
        steps = [float(short), long / points]
    of_short, of_long = (slice(int(step // 2), None, round(step)) for step in steps)
    return (of_short, of_long) if h <= w else (of_long, of_short)


def _features(images: Tensor, compactness: float, sigma: float, to_lab: Callable[[Tensor], Tensor]) -> Tensor:
    """Colours by which pixels are compared: (n, h, w, c) float32, stretched to [0, 1], in Lab, smoothed."""
    n, c, h, w = images.shape
    low, high = (bound.view(n, 1, 1, 1) for bound in images.flatten(1).aminmax(dim=1))
    span = torch.where(high > low, high - low, 1)
    colours = (images - low) / span
    colours = to_lab(colours.expand(n, 3, h, w)) if c in (1, 3) else colours
    return (smoothed(colours, np.float32(sigma)) * (1 / compactness)).permute(0, 2, 3, 1).contiguous()


def _assign(features: Tensor, centres: Tensor, labels: Tensor, start: Start) -> None:
    """Give each pixel the label of the nearest centre whose window contains it, the first of several."""
    h, w = labels.shape
    nearest = torch.full((h, w), torch.inf, device=labels.device)
    y, x = (torch.arange(size, dtype=torch.float32, device=labels.device) for size in (h, w))
    windows = zip(_windows(centres[:, 0], start.reach[0], h), _windows(centres[:, 1], start.reach[1], w), strict=True)
    for k, window in enumerate(windows):
        rows, columns = window
        apart = (centres[k, 0] - y[rows]).square()[:, None] + (centres[k, 1] - x[columns]).square()
        colour = torch.zeros_like(apart)
        for squares in (features[window] - centres[k, 2:]).square().unbind(2):
            colour += squares
        distance = apart * start.weight + colour
        closer = distance < nearest[window]
        nearest[window] = torch.where(closer, distance, nearest[window])
        labels[window] = labels[window].masked_fill(closer, k)


def _windows(centres: Tensor, reach: int, size: int) -> Iterator[slice]:
    """The windows of all centres along one axis; a centre without pixels (NaN) has an empty one."""
    first, last = (centres - reach).clamp(min=0), (centres + reach + 1).clamp(max=size)
    return map(slice, *(bound.nan_to_num(0).long().tolist() for bound in (first, last)))


def _means(features: Tensor, labels: Tensor, k: int) -> Tensor:
    """(k, 2 + c): the mean place and colour of each label's pixels, summed in raster order; NaN if there are none."""
    h, w, _ = features.shape
    y, x = (torch.arange(size, dtype=torch.float32, device=features.device) for size in (h, w))
    points = torch.cat([y.repeat_interleave(w)[:, None], x.repeat(h)[:, None], features.flatten(0, 1)], 1)
    own, inside = labels.flatten().long(), labels.flatten() >= 0
    sums = np.zeros((k, points.shape[1]), np.float32)
    np.add.at(sums, own[inside].cpu().numpy(), points[inside].cpu().numpy())  # one after the other
    counts = torch.bincount(own[inside], minlength=k)
    return torch.from_numpy(sums).to(points) / counts[:, None]


def _connected(labels: list[list[int]], min_size: int, max_size: int) -> list[int]:
    """Labels of connected parts, row by row: from 0 in raster order, small parts joined to a neighbour.

    A part is grown breadth first, right, left, down and up, and ends at ``max_size``. If it is too small, it joins the
    last labelled neighbour that was met.
    """
    h, w = len(labels), len(labels[0])
    old = [label for row in labels for label in row]
    new, count = [-1] * len(old), 0
    for first, label in enumerate(old):
        if label < 0 or new[first] >= 0:
            continue
        new[first] = beside = count
        part, visited = [first], 0
        while visited < len(part) < max_size:
            pixel = part[visited]
            y, x = divmod(pixel, w)
            for inside, at in ((x + 1 < w, pixel + 1), (x > 0, pixel - 1), (y + 1 < h, pixel + w), (y > 0, pixel - w)):
                if not inside:
                    continue
                if old[at] == label and new[at] < 0:
                    new[at] = count
                    part.append(at)
                    if len(part) == max_size:
                        break
                elif new[at] >= 0 and new[at] != count:
                    beside = new[at]
            visited += 1
        if len(part) < min_size:
            for pixel in part:
                new[pixel] = beside
        else:
            count += 1
    return new
