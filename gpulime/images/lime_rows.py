"""Rows of lime's explainer: images in their own dtype, the fill of their segments, and the function or module they go to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpulime import arrays
from gpulime import device as devices
from gpulime.engine.masked import Wanted
from gpulime.engine.model import Inputs, Predictor
from gpulime.engine.outputs import found
from gpulime.errors import GpulimeError, check
from gpulime.images.masked_images import MaskedImages
from gpulime.images.segments import from_labels

Array = np.ndarray[Any, np.dtype[Any]]
Classifier = nn.Module | Callable[[Array], Any]


def predictor(classifier_fn: Classifier) -> Predictor:
    """Make the Predictor of a function of (b, h, w, c) arrays, or of a module."""
    if isinstance(classifier_fn, nn.Module):
        return _LimeRows(classifier_fn, None, "float32", None)

    right = "classifier_fn must be a function (b, h, w, c) array -> (b, classes) probabilities, or an nn.Module"
    check(callable(classifier_fn), f"{right}; got {type(classifier_fn).__name__}")

    def model(rows: Tensor) -> Tensor:
        outputs = found(classifier_fn(rows.permute(0, 2, 3, 1).numpy()))
        array = arrays.numbers(outputs)
        try:
            if array is None:
                raise TypeError
            array = np.ascontiguousarray(array if array.dtype in (np.float32, np.float64) else array.astype(np.float64))
        except (TypeError, ValueError) as error:
            raise GpulimeError(f"classifier_fn must return (b, classes) probabilities; got {type(outputs).__name__}") from error
        return torch.from_numpy(array)

    called = _Function(model, None, "float32", None)
    called.memory_format = torch.channels_last  # the layout of (b, h, w, c) arrays
    return called


class _LimeRows(Predictor):
    """A model called with lime's rows."""

    def _look(self, outputs: Tensor, ends: Inputs) -> None:
        """Give no warnings: outputs are explained as they are."""


class _Function(_LimeRows):
    """A function, called without changes to gradients, autocast or the random state."""

    @contextmanager
    def inference(self, device: torch.device) -> Iterator[None]:
        devices.keep_memory()
        yield


def masked(key: int, image: Array, segments: Array, hide_color: Any, called: Predictor, labels: Wanted) -> MaskedImages:
    """Prepare an image for the engine, in its own dtype for a function and in the module's dtype for a module."""
    parts = from_labels(torch.from_numpy(np.unique(segments, return_inverse=True)[1].reshape(1, *segments.shape)))
    fill = hidden(image, parts.labels[0].numpy(), hide_color)
    if called.module is not None and image.dtype.kind in "iu":
        most = _white(image)
        image, fill = image / most, fill / most
    images, fills = (_tensor(array) for array in (image, fill))
    device = called.device(images)
    if called.module is not None:
        images, fills = devices.sent(images, device), devices.sent(fills, device)
        dtype = called.dtype(images)
        images, fills = (t.to(dtype).contiguous(memory_format=called.memory_format) for t in (images, fills))
    return MaskedImages(images, fills, parts.to(device), images, torch.full((1,), key, device=device), labels)


def _white(image: Array) -> int:
    """Integer that is scaled to 1 for a module: the dtype's maximum for uint8 and uint16, as in scikit-image, else 255."""
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        return int(np.iinfo(image.dtype).max)
    low, high = int(image.min()), int(image.max())
    inside = f"an image of {image.dtype} must run from 0 to 255 to be brought to [0, 1] for a module"
    check(low >= 0 and high <= 255, f"{inside}; got {low} to {high}: pass floats in the module's own range")
    return 255


def _tensor(image: Array) -> Tensor:
    """Convert an (h, w, c) array to a (1, c, h, w) tensor of the same memory layout, in native byte order."""
    try:
        return torch.from_numpy(np.array(image, dtype=image.dtype.newbyteorder("="), order="C")).permute(2, 0, 1)[None]
    except TypeError as error:
        raise GpulimeError(f"images must be of a dtype that PyTorch has; got {image.dtype}") from error


def hidden(image: Array, labels: Array, color: Any) -> Array:
    """Make the fill of hidden segments in the image's dtype; for integers, means are truncated, not rounded, as in lime.

    Parameters
    ----------
    image : (h, w, c)
    labels : (h, w), ids from 0 without gaps
    color : number, colour (c,), image, or None for the mean of each segment
    """
    fill = image.copy()
    if color is not None:
        try:
            fill[:] = color
        except ValueError as error:
            fits = f"must be a number, one per channel (c = {image.shape[2]}) or an image {image.shape}"
            raise GpulimeError(f"hide_color {fits}; got {color!r:.100}") from error
        return fill
    order = labels.argsort(axis=None, kind="stable")
    pixels, out = image.reshape(-1, image.shape[2])[order], fill.reshape(-1, image.shape[2])
    bounds = [0, *np.bincount(labels.ravel()).cumsum()]
    for start, stop in pairwise(bounds):
        out[order[start:stop]] = [channel.mean() for channel in pixels[start:stop].T]
    return fill
