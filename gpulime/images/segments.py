"""Segment pictures; ids run from 0 without gaps, and ``Segments.ids`` maps them to the segmenter's own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.device import installed
from gpulime.errors import GpulimeError, about, check, stage
from gpulime.ops import quickshift, slic, source
from gpulime.segments import CPU, SEGMENTERS, Array, Felzenszwalb, Grid, Quickshift, Segmenter, Slic

_TABLE = 4096  # ids below this are renumbered by a table; if any id is outside, by sorting


@dataclass(frozen=True)
class Segments:
    """Segments of n images."""

    labels: Tensor  # (n, h, w) int32, from 0 without gaps in each image; its count for pixels that are never hidden
    counts: Tensor  # (n,) int64, number of segments of each image
    ids: Tensor  # (n, k) int64, the segmenter's id of each segment; -1 beyond an image's count
    keeps: bool = False  # True if some pixels may never be hidden; then k is one more than the largest count
    sizes: Tensor | None = None  # the counts on the CPU, if they are known there

    @property
    def most(self) -> int:
        """Largest number of segments of any image."""
        return self.ids.shape[1] - self.keeps

    def part(self, where: slice) -> Segments:
        """Select images by a slice."""
        sizes = None if self.sizes is None else self.sizes[where]
        return replace(self, labels=self.labels[where], counts=self.counts[where], ids=self.ids[where], sizes=sizes)

    def to(self, device: torch.device) -> Segments:
        """Move to another device."""
        labels, counts, ids = (devices.sent(tensor, device) for tensor in (self.labels, self.counts, self.ids))
        return Segments(labels, counts, ids, self.keeps, self.sizes)


OPS: dict[type, Callable[..., Tensor]] = {Slic: slic.slic, Quickshift: quickshift.quickshift}


def on_device(segmenter: Segmenter, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """Function that segments (n, c, h, w) float32 pictures on ``device``; None if they are segmented one by one on the CPU."""
    if isinstance(segmenter, Grid):
        return lambda pictures: segmenter.labels(len(pictures), pictures.shape[2], pictures.shape[3], pictures.device)
    op = OPS.get(type(segmenter))
    # Quickshift in plain PyTorch is a few thousand operations for all pictures together, so a GPU does it without CuPy, too.
    if op is not None and (source.available(device) or (op is quickshift.quickshift and device.type == "cuda")):
        return partial(op, **dataclasses.asdict(segmenter))  # type: ignore[arg-type]
    return None


def describe(segmenter: Segmenter, device: torch.device = CPU) -> str:
    """Describe backend, name and options in one line, by which a run refuses rows of another segmenter."""
    name = next((name for name, kind in SEGMENTERS.items() if isinstance(segmenter, kind)), None)
    if name is None:
        return getattr(segmenter, "__qualname__", None) or type(segmenter).__qualname__
    if isinstance(segmenter, Grid):
        backend = "torch"
    else:
        package = "gpulime" if on_device(segmenter, device) else "scikit-image"
        backend = f"{package} {installed(package)}"
    options = ", ".join(f"{option}={value!r}" for option, value in dataclasses.asdict(segmenter).items())  # type: ignore[arg-type]
    return f"{backend} {name}({options})"


@stage("segments")
def segment(segmenter: Segmenter, pictures: Tensor, number: int = 0, keep: Sequence[int] = ()) -> Segments:
    """Segment each image.

    Parameters
    ----------
    segmenter : as returned by `resolve`
    pictures : (n, c, h, w) float tensor in [0, 1], on any device
        For scikit-image and callables, one channel is repeated as RGB, as in lime.
    number : int
        Number of the first image, for messages.
    keep : sequence of int
        As for `from_labels`.

    Returns
    -------
    Segments, on the device of ``pictures``
    """
    n = len(pictures)
    if isinstance(segmenter, Grid) and not keep:
        return _grid(segmenter, pictures)
    if (labels_of := on_device(segmenter, pictures.device)) is not None:
        with about(f"segments {describe(segmenter, pictures.device)}"):
            return from_labels(labels_of(pictures.float()), keep, number)
    arrays = np.ascontiguousarray(pictures.permute(0, 2, 3, 1).cpu().numpy())

    def one(i: int) -> Array:
        return segment_one(segmenter, arrays[i], f"image {number + i}")

    if isinstance(segmenter, Slic | Quickshift | Felzenszwalb):
        with ThreadPoolExecutor(min(n, os.cpu_count() or 1)) as pool:
            labels = list(pool.map(one, range(n)))
    else:  # a user's callable may not be thread-safe
        labels = [one(i) for i in range(n)]
    return from_labels(torch.from_numpy(np.stack(labels)), keep, number).to(pictures.device)


def _grid(segmenter: Grid, pictures: Tensor) -> Segments:
    """Segments of a grid, whose numbers are known, so that the host does not wait for a GPU to count them."""
    (n, _, h, w), device = pictures.shape, pictures.device
    k = min(segmenter.rows, h) * min(segmenter.columns, w)
    ids = torch.arange(k, device=device).expand(n, k).contiguous()
    return Segments(segmenter.labels(n, h, w, device), torch.full((n,), k, device=device), ids, sizes=torch.full((n,), k))


@stage("segments")
def segment_one(segmenter: Segmenter, array: Array, name: str = "image") -> Array:
    """Segment one (h, w, c) array with values in [0, 1]; returns the segmenter's own labels (h, w) int64.

    Raises
    ------
    GpulimeError
        If the segmenter raises, or returns anything but (h, w) integers.
    """
    h, w, c = array.shape
    if isinstance(segmenter, Grid):
        labels = segmenter.labels(1, h, w, CPU)[0].numpy()
    else:
        try:
            labels = np.asarray(segmenter(array.repeat(3, axis=2) if c == 1 else array))
        except (Exception, SystemExit) as error:  # scikit-image's error for a bad option, or any error of a callable
            raise GpulimeError(f"{name}: segments {describe(segmenter)} failed: {type(error).__name__}: {error}") from error
    with about(f"{name}: segments {describe(segmenter)}"):
        check(labels.shape == (h, w), f"must return (h, w) = {(h, w)} labels; got {labels.shape}")
        check(labels.dtype.kind in "iu", f"must return integer labels; got {labels.dtype}")
    return labels.astype(np.int64)


@stage("segments")
def from_labels(labels: Tensor, keep: Sequence[int] = (), number: int = 0) -> Segments:
    """Renumber the segments of label maps from 0 without gaps, in the order of their ids.

    Parameters
    ----------
    labels : (n, h, w) integer tensor; any ids, including negative ones and gaps
    keep : sequence of int
        Ids of pixels that are never hidden: they form no segment, and get the image's count as label.
    number : int
        Number of the first image, for messages.

    Raises
    ------
    GpulimeError
        If ``labels`` is not an integer tensor of rank 3, or ``keep`` leaves an image without segments.
    """
    integer = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    check(integer, f"segments must be integer labels; got {labels.dtype}")
    check(labels.ndim == 3 and labels.numel() > 0, f"segments must be (n, h, w); got {tuple(labels.shape)}")
    if keep:
        return _keeping(labels.long(), keep, number)
    flat = labels.flatten(1).long()
    n, room = len(flat), min(flat.shape[1], _TABLE)
    # The range of ids and the numbers of segments are read together, so that the host waits for a GPU once.
    present = torch.zeros(n, room, dtype=torch.bool, device=flat.device).scatter_(1, flat.clamp(0, room - 1), True)
    counts = present.sum(1)
    low, high, *sizes = torch.cat([torch.stack(flat.aminmax()), counts]).tolist()
    if low < 0 or high >= room:
        return _by_rank(flat, labels.shape)
    k = max(sizes)
    position = present.cumsum(1, dtype=torch.int32) - 1
    names = torch.arange(room, device=flat.device).expand(n, room)
    ids = names.new_full((n, k + 1), -1).scatter_(1, position.where(present, k).long(), names)  # column k takes absent ids
    return Segments(position.gather(1, flat).view(labels.shape), counts, ids[:, :k].contiguous(), sizes=torch.tensor(sizes))


def _keeping(labels: Tensor, keep: Sequence[int], number: int) -> Segments:
    """`from_labels` with kept pixels: they get a new highest id, which is numbered last and not counted as a segment."""
    kept = torch.isin(labels, torch.tensor(keep, device=labels.device))
    numbered = from_labels(labels.where(~kept, labels.masked_fill(kept, -1).max() + 1))
    counts = numbered.counts - kept.flatten(1).any(1).long()
    sizes = counts.cpu()
    most = int(sizes.max())
    if not sizes.all():
        first = number + int(sizes.argmin())
        raise GpulimeError(f"image {first}: keep = {list(keep)} leaves no segment that could be hidden")
    ids = torch.nn.functional.pad(numbered.ids, (0, most + 1 - numbered.ids.shape[1]), value=-1)
    beyond = torch.arange(most + 1, device=ids.device) >= counts[:, None]
    return Segments(numbered.labels, counts, ids.masked_fill(beyond, -1), keeps=True, sizes=sizes)


@stage("segments")
def kept_ids(keep: Any) -> tuple[int, ...]:
    """Convert ``keep`` to segment ids: an int, several (a list, a set, an array, a tensor), or None.

    Raises
    ------
    GpulimeError
        If ``keep`` is anything else.
    """
    if keep is None:
        return ()
    try:
        ids = torch.as_tensor(list(keep) if isinstance(keep, set | frozenset) else keep).flatten()
    except (TypeError, ValueError, RuntimeError):
        ids = torch.empty(1)
    integer = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    check(integer or ids.numel() == 0, lambda: f"keep must be a segment id or several, whole numbers; got {keep!r:.100}")
    return tuple(ids.tolist())


def _by_rank(flat: Tensor, shape: torch.Size) -> Segments:
    """`from_labels` for any ids, (n, pixels) int64, by sorting, which takes several times as long."""
    ordered, order = flat.sort(1)
    position = torch.zeros_like(flat)
    position[:, 1:] = (ordered.diff() != 0).cumsum(1)
    counts = position[:, -1] + 1
    sizes = counts.cpu()
    ids = flat.new_full((len(flat), int(sizes.max())), -1).scatter_(1, position, ordered)
    return Segments(torch.empty_like(flat).scatter_(1, order, position).view(shape).int(), counts, ids, sizes=sizes)
