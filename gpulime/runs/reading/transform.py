"""Resize and crop a decoded picture for the model, by the model's own transform or the config."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as geometry

from gpulime.config import DataConfig, LimeConfig
from gpulime.errors import check
from gpulime.images import pretrained
from gpulime.images.pretrained import Both, channels_of
from gpulime.runs.reading.pixels import Array, bands, stacked


@dataclass(frozen=True)
class Transform:
    """Geometry in pixels, and the normalisation that the Explainer applies later."""

    resize: int | None = None  # the shorter side after resizing; None leaves the size
    crop: int | None = None  # side of the square cut out of the centre, padded with black; None does not crop
    interpolation: str = "bilinear"  # a value of torchvision's InterpolationMode
    mean: tuple[float, ...] | None = None  # per channel, for pixels in 0..1; None without normalisation
    std: tuple[float, ...] | None = None
    channels: int | None = None  # as many as the model takes; None makes a picture RGB and leaves an array as it is

    def __call__(self, picture: Image.Image | Array) -> Array:
        """The pixels (h, w, c), uint8 or float32 in 0..1, of a ``picture`` of any mode or an array, resized and cropped."""
        channels = 3 if self.channels is None and isinstance(picture, Image.Image) else self.channels
        pixels = stacked([self._moved(band) for band in bands(picture, channels)])
        # Bicubic interpolation overshoots; eight bits are clipped to 0 and 255 anyway.
        return pixels if pixels.dtype == np.uint8 else pixels.clip(0, 1)

    def of_labels(self, labels: Array) -> Array:
        """A label map (h, w) of any integers, resized and cropped as its picture is, by nearest neighbours; 0 beyond it."""
        ids, places = np.unique(labels, return_inverse=True)
        picture = Image.fromarray(1 + places.reshape(labels.shape).astype(np.int32))
        moved = replace(self, interpolation="nearest")._moved(picture)
        found: Array = np.concatenate([[0], ids])[np.asarray(moved)]
        return found

    def kept(self, size: tuple[int, int]) -> float:
        """The share of a picture's area that the crop keeps, given its width and height."""
        if self.crop is None:
            return 1.0
        scale = 1.0 if self.resize is None else self.resize / min(size)
        return math.prod(min(self.crop / (scale * side), 1.0) for side in size)

    def _moved(self, picture: Image.Image) -> Image.Image:
        if self.resize is not None:
            picture = geometry.resize(picture, [self.resize], InterpolationMode(self.interpolation))
        if self.crop is not None:
            picture = geometry.center_crop(picture, [self.crop])
        return picture


def choose(model: nn.Module, weights: Any, data: DataConfig, lime: LimeConfig) -> Transform:
    """The transform of a run: from the settings, and from the model for the rest.

    A ``model`` of timm and ``weights`` of torchvision bring their own.

    Raises
    ------
    GpulimeError
        If no size is set and the model brings none, if the crop does not fit into the resized picture, or if the model's own
        normalisation has not as many entries as its input has channels.
    """
    channels = data.channels or channels_of(model)
    own = of_torchvision(weights) or of_timm(model) or Transform()
    own = _with_normalisation(own, pretrained.recorded(model), channels)
    given: dict[str, Any] = {
        "resize": data.resize,
        "crop": data.crop,
        "interpolation": data.interpolation,
        "mean": _floats(lime.mean),
        "std": _floats(lime.std),
        "channels": channels,
    }
    chosen = replace(own, **{name: value for name, value in given.items() if value is not None})
    if data.factory is not None:  # the dataset has its own geometry
        chosen = replace(chosen, resize=None, crop=None)
    check(
        chosen.resize is not None or chosen.crop is not None or data.factory is not None,
        "the model's input size is unknown: set data.resize and data.crop together, such as --data.resize 256 "
        "--data.crop 224 (the shorter side, then the centre), and data.interpolation, lime.mean and lime.std if the model "
        "needs them",
    )
    entries = 1 if chosen.mean is None else len(chosen.mean)
    check(
        lime.mean is not None or entries in (1, channels or entries),
        f"the model's own normalisation has {entries} entries and its input {channels} channels: set lime.mean and lime.std",
    )
    if chosen.resize is not None and chosen.crop is not None:
        check(
            chosen.crop <= chosen.resize,
            f"data.crop must not be above data.resize; got {chosen.crop} and {chosen.resize} "
            f"(the model's own are {own.crop} and {own.resize})",
        )
    return chosen


def _with_normalisation(own: Transform, recorded: Both | None, channels: int | None) -> Transform:
    """``own``, with the model's recorded normalisation if it has none, reduced to one channel if there is one."""
    if own.mean is not None and own.std is not None:
        recorded = own.mean, own.std
    if recorded is None:
        return own
    mean, std = pretrained.for_channels(recorded, channels)
    return replace(own, mean=mean, std=std)


def of_torchvision(weights: Any) -> Transform | None:
    """The transform that comes with torchvision's ``weights`` (a member of a WeightsEnum); None if there is none."""
    if weights is None:
        return None
    preset = weights.transforms()  # torchvision's ImageClassification for all its classifiers
    return Transform(
        preset.resize_size[0],
        preset.crop_size[0],
        preset.interpolation.value,
        _floats(preset.mean),
        _floats(preset.std),
    )


def of_timm(model: nn.Module) -> Transform | None:
    """The geometry that timm records with its models; None for another model, and if it is not a square centre crop."""
    if "timm" not in sys.modules or not hasattr(model, "pretrained_cfg"):
        return None
    from timm.data import resolve_model_data_config

    settings = resolve_model_data_config(model)
    _, h, w = settings["input_size"]
    if h != w or settings["crop_mode"] != "center":
        return None
    return Transform(
        math.floor(h / settings["crop_pct"]),
        h,
        settings["interpolation"],
    )


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)
