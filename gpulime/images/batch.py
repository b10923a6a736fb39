"""Batch of images as users pass it, checked and moved to the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime import arrays
from gpulime import device as devices
from gpulime import labels as classes
from gpulime.classes import Names
from gpulime.errors import GpulimeError, check, stage


@dataclass(frozen=True)
class Batch:
    """Images to explain together.

    Attributes
    ----------
    images : (n, c, h, w) float or uint8
    labels : as for `gpulime.labels.of_batch`, optional
        Classes to explain; by default the ones with the highest output.
    segments : (n, h, w) integers, optional
        Label maps, in place of the segmenter's.
    keys : (n,) int64, optional
        ``gpulime.key(image_id)`` of each image; 0 by default.
    top : bool
        If True, the classes with the highest output are explained too, before ``labels``.
    extra : tuple of tensors (n, ...)
        Further inputs of the model: each masked row gets the entries of its image.
    keep : int or several, optional
        Ids of segments that are never hidden.

    A label of -1 pads shorter rows. In its place the image's first label is explained again, which costs no forward.
    """

    images: Any
    labels: Any = None
    segments: Any = None
    keys: Any = None
    top: bool = False
    extra: Any = ()
    keep: Any = None

    def __len__(self) -> int:
        return len(self.images)

    @stage("image")
    def as_tensors(self, names: Names | None = None) -> Batch:
        """Convert images and extra to tensors, and labels to (n, l) int64 or None; labels may be ``names`` of classes.

        Raises
        ------
        GpulimeError
            Unless images are (n, c, h, w), floating or uint8, extra is a tuple of tensors (n, ...), and labels are valid.
        """
        images = arrays.tensor(self.images) if isinstance(self.images, np.ndarray) else self.images
        check(isinstance(images, Tensor), f"images must be a tensor (n, c, h, w); got {type(self.images).__name__}")
        assert images is not None
        check(images.ndim == 4, f"images must be (n, c, h, w); got {tuple(images.shape)}")
        check(images.numel() > 0, f"images must be (n, c, h, w), none of them 0; got {tuple(images.shape)}")
        known = images.is_floating_point() or images.dtype == torch.uint8
        check(known, f"images must be floating or uint8; got {images.dtype}")
        labels = None if self.labels is None else classes.of_batch(self.labels, len(images), names)
        return replace(self, images=images, labels=labels, extra=self._extra())

    @stage("image")
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of the images; (0, 1) for uint8. The host waits for images on a GPU.

        Raises
        ------
        GpulimeError
            If a value is NaN or infinite; the message names the first such image.
        """
        images = self.images.detach()
        if images.dtype == torch.uint8:
            return 0.0, 1.0
        low, high = torch.stack(images.aminmax()).tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = (~images.isfinite()).flatten(1).sum(1).tolist()
            first = next(i for i, count in enumerate(bad) if count)
            raise GpulimeError(f"image {first}: {bad[first]} of its {images[0].numel()} values are NaN or infinite")
        return low, high

    @stage("image")
    def highest_label(self) -> tuple[int, int] | None:
        """Image with the highest label, and that label. The host waits for labels on a GPU.

        Raises
        ------
        GpulimeError
            If a label is negative; -1 is allowed as padding, if the image has another label or its top classes are explained.
        """
        if self.labels is None:
            return None
        labels = self.labels
        low, first, high, place = torch.stack([labels.amin(), labels[:, 0].amin(), labels.max(), labels.argmax()]).tolist()
        check(low >= classes.NONE and (self.top or first >= 0), f"labels must not be negative; got {low}")
        return place // labels.shape[1], high

    @stage("image")
    def on(self, device: torch.device) -> Batch:
        """Move the batch to ``device``: float images, (n, l) int64 labels or None, int64 keys.

        Raises
        ------
        GpulimeError
            If a tensor has the wrong rank, shape or dtype.
        """
        n, _, h, w = self.images.shape
        keys = torch.zeros(n, dtype=torch.int64) if self.keys is None else arrays.keys(self.keys, n)
        segments = None if self.segments is None else arrays.tensor(self.segments)
        if self.segments is not None:
            fits = segments is not None and segments.shape == (n, h, w)
            check(fits, f"segments must be (n, h, w) = {(n, h, w)}; got {_kind(self.segments)}")
        images = devices.sent(self.images.detach(), device)
        if images.dtype == torch.uint8:
            # Divided by a tensor: for a number, a GPU multiplies by its reciprocal, and the last bit can change segments.
            images = images / torch.full((), 255, dtype=torch.float32, device=device)
        return Batch(
            images=images if images.dtype == torch.float64 else images.float(),
            labels=None if self.labels is None else devices.sent(self.labels, device),
            segments=None if segments is None else devices.sent(segments, device),
            keys=None if keys is None else devices.sent(keys, device),
            top=self.top or self.labels is None,
            extra=tuple(devices.sent(tensor.detach(), device) for tensor in self.extra),
            keep=self.keep,
        )

    def part(self, where: slice) -> Batch:
        """Select images by a slice."""
        labels, segments, keys = (None if t is None else t[where] for t in (self.labels, self.segments, self.keys))
        extra = tuple(tensor[where] for tensor in self.extra)
        return Batch(self.images[where], labels, segments, keys, self.top, extra, self.keep)

    def _extra(self) -> tuple[Tensor, ...]:
        is_tuple = isinstance(self.extra, tuple | list)
        check(is_tuple, lambda: f"extra must be a tuple of tensors such as (meta,); got {type(self.extra).__name__}")
        n, checked = len(self.images), []
        for i, given in enumerate(self.extra):
            tensor = arrays.tensor(given)
            if tensor is None:
                raise GpulimeError(f"extra[{i}] must be a tensor (n, ...) with n = {n}; got {type(given).__name__}")
            fits = tensor.shape[:1] == (n,)
            check(fits, f"extra[{i}] must be (n, ...) with n = {n}; got {tuple(tensor.shape)}")
            checked.append(tensor)
        return tuple(checked)


def outside_unit(low: float, high: float) -> str | None:
    """Warning for images with values from ``low`` to ``high``; None if these lie in [0, 1]."""
    if low >= -1e-3 and high <= 1 + 1e-3:
        return None
    return (
        f"images have values from {low:.3g} to {high:.3g}, outside [0, 1]: if they are already normalised, pass "
        "normalized=True with mean and std; if they are in 0..255, pass them as uint8"
    )


def channels_behind(images: Tensor) -> str | None:
    """Warning for images that look like (n, h, w, c); None for others."""
    if images.shape[3] in (1, 3, 4) and images.shape[1] > 4 < images.shape[2]:
        shape = tuple(images.shape)
        return f"images are {shape}: is that (n, h, w, c)? They must be (n, c, h, w): pass images.permute(0, 3, 1, 2)"
    return None


def _kind(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if hasattr(value, "shape") else type(value).__name__
