"""The pictures of a page as data URIs: a photograph, and the colours of an explanation to lay over it."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

# Blue and orange stay apart for every common kind of colour blindness, on photographs and on either theme.
FOR = "#2b7fff"
AGAINST = "#ff7a1a"
DEEPEST = 0.75  # opacity of the strongest segment, in [0, 1]
OUTLINE = (255, 255, 255, 110)  # red, green, blue, alpha

# The longer side in pixels. Pictures within these bounds stay as they are.
PICTURE_SIDES = (160, 320)
OVERLAY_SIDE = 480


def picture_uri(picture: npt.NDArray[np.uint8]) -> str:
    """A photograph as a JPEG; large ones shrunk, tiny ones enlarged with their pixels kept sharp.

    Parameters
    ----------
    picture : ndarray
        (h, w, 3) uint8
    """
    image = Image.fromarray(picture)
    side = max(image.size)
    smallest, largest = PICTURE_SIDES
    if not smallest <= side <= largest:
        h, w = (max(1, round(length * largest / side)) for length in picture.shape[:2])
        image = image.resize((w, h), Image.Resampling.LANCZOS if side > largest else Image.Resampling.NEAREST)
    return _uri(image, "JPEG", quality=85, optimize=True)


def overlay_uri(labels: npt.NDArray[np.integer[Any]], coefficients: npt.NDArray[np.floating[Any]]) -> str:
    """The segments of one label as a transparent PNG: hue by sign, opacity by size, thin outlines.

    Parameters
    ----------
    labels : ndarray
        (h, w) integers in [0, k)
    coefficients : ndarray
        (k,) finite; the largest magnitude gets the deepest colour
    """
    largest = np.abs(coefficients).max(initial=0.0)
    shades = np.rint(127 * coefficients / (largest or 1.0)).astype(int) + 128  # 1 ... 255, and 128 is transparent
    labels = _resample(labels)
    pixels = np.where(_outlines(labels), 0, shades[labels]).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.putpalette(_palette(), "RGBA")
    return _uri(image, "PNG", optimize=True)


def centre(labels: npt.NDArray[np.integer[Any]], segment: int) -> tuple[float, float]:
    """A point inside a segment near its middle, as (across, down) in [0, 1] of the picture."""
    points = np.argwhere(labels == segment)
    middle = points[np.square(points - points.mean(axis=0)).sum(axis=1).argmin()]
    down, across = (middle + 0.5) / labels.shape
    return float(across), float(down)


def _resample(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    """Nearest neighbours on a grid of one size for all pictures, so that their outlines are equally thin."""
    sizes = [max(1, round(n * OVERLAY_SIDE / max(labels.shape))) for n in labels.shape]
    rows, columns = (np.arange(size) * n // size for size, n in zip(sizes, labels.shape, strict=True))
    resampled: npt.NDArray[np.integer[Any]] = labels[np.ix_(rows, columns)]
    return resampled


def _outlines(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """True on the last pixel before another segment begins, to the right or below."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def _palette() -> bytes:
    """256 colours as RGBA: the outline, 127 shades against, nothing, 127 shades for."""
    palette = np.empty((256, 4), dtype=np.uint8)
    palette[:128, :3] = ImageColor.getrgb(AGAINST)
    palette[128:, :3] = ImageColor.getrgb(FOR)
    palette[:, 3] = np.rint(255 * DEEPEST * np.abs(np.arange(256) - 128) / 127)
    palette[0] = OUTLINE
    return palette.tobytes()


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
