"""Pixels: pictures and arrays of any depth become as many channels as the model takes, and a picture for reports.

Eight bits stay as they are. Deeper values are scaled to 0..1 as float32: 16 bits by 65535, never clipped, never cut to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms
from torch import Tensor

from gpulime.errors import GpulimeError
from gpulime.explanations.window import MOST_PLAIN, bounds, stretched, windowed

DEEP_GRAY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
DEPTHS = (np.uint8, np.uint16, np.float16, np.float32, np.float64)  # of arrays
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> the mode that a picture of eight bits is converted to
STRAIGHT = {"RGBa": "RGBA", "La": "LA", "RGBX": "RGB"}  # modes with few conversions in Pillow
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB in Pillow's gray
OUTSIDE = 1e-3  # beyond 0..1, for rounding

Array = npt.NDArray[Any]


class DecodeError(GpulimeError):
    """An image that cannot be used; ``kind`` is the error_type of its row."""

    kind = "decode"


class TooLargeError(DecodeError):
    """An image with more pixels or bytes than the run allows."""

    kind = "too_large"


class ChannelsError(DecodeError):
    """An image with another number of channels than the model takes."""

    kind = "channels"


class NonFiniteError(DecodeError):
    """An image with values that are NaN or infinite."""

    kind = "non_finite"


def tensor(image: Image.Image | Array, channels: int | None = None) -> Tensor:
    """The pixels (c, h, w) of a picture or an array (h, w) or (h, w, c), as `bands`: uint8, or float32 if they are deeper."""
    return torch.from_numpy(stacked(bands(image, channels))).permute(2, 0, 1)


def stacked(pictures: list[Image.Image]) -> Array:
    """The pixels (h, w, c) of `bands`."""
    return np.dstack([np.asarray(picture) for picture in pictures])


def bands(image: Image.Image | Array, channels: int | None = None) -> list[Image.Image]:
    """Split the image into pictures that Pillow resizes without loss: one RGB, or an L or F for each channel.

    An array (h, w) or (h, w, c) is uint8, uint16 or float; a PIL image of mode F lies in 0..1. RGB becomes gray for one of
    ``channels``, gray becomes RGB for 3, and alpha is kept for 4, else dropped without blending. By default a gray picture has
    1, any other 3, and an array keeps all channels.

    Raises
    ------
    ChannelsError
        If the image has another number of channels, and there is no usual conversion.
    DecodeError
        If the dtype, the shape or the range is different.
    """
    if isinstance(image, np.ndarray):
        return _of_array(image, channels)
    if image.mode in DEEP_GRAY or image.mode == "F":
        return _of_array(_deep_gray(image), channels)
    return _of_eight_bits(image, channels)


def check_unit(array: Array) -> None:
    """Raise `DecodeError` unless floats lie in 0..1."""
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        raise NonFiniteError(f"{bad} of its {array.size} values are NaN or infinite")
    if array.min() < -OUTSIDE or array.max() > 1 + OUTSIDE:
        raise DecodeError(
            f"has floating-point values from {array.min():.6g} to {array.max():.6g}; they must lie in 0..1: "
            "scale them, or save them with 8 or 16 bits"
        )


def _deep_gray(picture: Image.Image) -> Array:
    """Gray (h, w) in 0..1 of a picture with more than eight bits."""
    values = np.asarray(picture)
    if picture.mode == "F":
        check_unit(values)
        return values
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 65535:
        raise DecodeError(f"has gray values from {low} to {high}; 16 bits end at 65535")
    return values.astype(np.float32) / 65535


def _of_eight_bits(picture: Image.Image, channels: int | None) -> list[Image.Image]:
    if channels == len(picture.getbands()) and picture.mode in ("LA", "RGBX"):  # RGBX: a TIFF with a fourth band of any meaning
        return list(picture.split())
    if picture.mode == "LAB":
        picture = _rgb_of_lab(picture)
    if picture.mode in STRAIGHT:
        picture = picture.convert(STRAIGHT[picture.mode])
    if picture.mode == "P" and "transparency" in picture.info:  # other conversions make Pillow warn of dropped data
        picture = picture.convert("RGBA")
    wanted = (1 if picture.mode == "L" else 3) if channels is None else channels
    if wanted not in MODES:
        raise ChannelsError(f"has {_channels(len(picture.getbands()))}; {_taken(wanted)}")
    converted = picture.convert(MODES[wanted])
    return [converted] if wanted == 3 else list(converted.split())


def _rgb_of_lab(picture: Image.Image) -> Image.Image:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(picture, ImageCms.buildTransform(lab, rgb, "LAB", "RGB"))
    assert converted is not None  # not in place, so never None
    return converted


def _of_array(array: Array, channels: int | None) -> list[Image.Image]:
    if array.dtype.type not in DEPTHS or array.ndim not in (2, 3) or array.size == 0:
        raise DecodeError(f"must be an array (h, w) or (h, w, c) of uint8, uint16 or floats; it is {array.dtype} {array.shape}")
    array = array[:, :, None] if array.ndim == 2 else array
    have = array.shape[2]
    if channels is not None and channels != have and {channels, have} != {1, 3}:
        first = ". Is that (c, h, w)? It must be (h, w, c)" if array.shape[0] in (1, 3, 4, channels) else ""
        raise ChannelsError(f"has {_channels(have)}, as an array {array.shape}; {_taken(channels)}{first}")
    if array.dtype == np.uint8 and have == 3:
        return _of_eight_bits(Image.fromarray(np.ascontiguousarray(array)), channels)
    if array.dtype != np.uint8:
        array = array.astype(np.float32) / (65535 if array.dtype.type is np.uint16 else 1)
    if channels == 1 and have == 3:
        array = (array @ LUMA)[:, :, None]
    pictures = [Image.fromarray(np.ascontiguousarray(array[:, :, i])) for i in range(array.shape[2])]
    return pictures * 3 if (have, channels) == (1, 3) else pictures


def _channels(count: int) -> str:
    return f"{count} channel{'s' if count != 1 else ''}"


def _taken(count: int) -> str:
    return f"the model takes {count} (data.channels, or channels= in Python, if it takes another number)"


@dataclass(frozen=True)
class Shown:
    """A picture (h, w, 3) uint8; ``how`` is empty if it shows the image's values as they are."""

    pixels: npt.NDArray[np.uint8]
    how: str = ""


def shown(pixels: Tensor, bands: Sequence[int] | None = None) -> Shown:
    """Make a picture of an image (c, h, w), uint8 or floats in 0..1.

    Up to four channels are shown as a photograph, gray or RGB, with a window if they are deep and use little of their range
    (`gpulime.explanations.window`). Of more channels three are shown, each from its 2nd to its 98th percentile: the ``bands``,
    numbers from 1, for red, green and blue, or the first three. Missing bands are ignored.
    """
    c = len(pixels)
    if bands is not None and max(bands) > c:
        bands = None
    if c > MOST_PLAIN or bands is not None:
        bands = bands or (1, 2, 3)
        chosen = _unit(pixels[[band - 1 for band in bands]])
        how = f"bands {', '.join(map(str, bands))} of {c}, each from its 2nd to its 98th percentile"
        return Shown(_bytes(windowed(chosen, *bounds(chosen))), how)
    plain = pixels[:1].expand(3, -1, -1) if c < 3 else pixels[:3]
    if pixels.dtype == torch.uint8:
        return Shown(plain.permute(1, 2, 0).numpy())
    unit = plain.clamp(0, 1)[None].float()
    window = stretched(unit)
    if window is unit:
        return Shown(_bytes(unit[0]))
    low, high = (float(bound) for bound in bounds(unit))
    return Shown(_bytes(window[0]), f"values from {low:.3g} to {high:.3g} of 1, the 2nd to the 98th percentile")


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()


def _bytes(unit: Tensor) -> npt.NDArray[np.uint8]:
    """(c, h, w) in [0, 1] as (h, w, c) uint8."""
    found: npt.NDArray[np.uint8] = (unit.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return found
