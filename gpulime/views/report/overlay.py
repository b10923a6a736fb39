"""The pictures of a page as data URIs: a photograph, and the overlay of an explanation's colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from gpulime.explanations import shades
from gpulime.explanations.shades import AGAINST, FOR

OUTLINE = (255, 255, 255, 150)  # red, green, blue, alpha

# A palette has 256 entries: one per segment, one for all further segments, and one for outlines.
MOST_SEGMENTS = 254

# The longer side in pixels. Pictures within these bounds are not resized.
PICTURE_SIDES = (160, 320)
PICTURE_QUALITY = 72
OVERLAY_SIDE = 320
HATCH_SIDE = 160  # stripes hide the coarser edges


def picture_uri(picture: npt.NDArray[np.uint8]) -> str:
    """A photograph (h, w, 3) as a JPEG; large ones shrunk, tiny ones enlarged with their pixels kept sharp."""
    image = Image.fromarray(picture)
    side = max(image.size)
    smallest, largest = PICTURE_SIDES
    if not smallest <= side <= largest:
        h, w = (max(1, round(length * largest / side)) for length in picture.shape[:2])
        image = image.resize((w, h), Image.Resampling.LANCZOS if side > largest else Image.Resampling.NEAREST)
    return shades.uri(image, quality=PICTURE_QUALITY)


def kept(coefficients: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.integer[Any]]:
    """The segments that get an entry of the palette, by their ids in rising order: all if they fit.

    If there are more than `MOST_SEGMENTS`, each label in turn keeps its strongest by the coefficients (l, k).
    """
    k = coefficients.shape[1]
    if k <= MOST_SEGMENTS:
        return np.arange(k)
    best_rank = np.argsort(np.argsort(-np.abs(coefficients), axis=1, kind="stable"), axis=1, kind="stable").min(axis=0)
    return np.sort(np.argsort(best_rank, kind="stable")[:MOST_SEGMENTS])


def overlay_uri(
    labels: npt.NDArray[np.integer[Any]],
    ids: npt.NDArray[np.integer[Any]],
    coefficients: npt.NDArray[np.floating[Any]],
    faded: npt.NDArray[np.bool_] | None = None,
) -> str:
    """The segments (h, w) as a palette PNG, coloured for one label: hue by sign, opacity by size, thin outlines.

    ``faded`` is true for entries whose sign is not certain.

    Pixels are indices of segments: entry i of the palette is segment ``ids[i]``, with ``coefficients[i]`` as printed, so
    another label needs only another palette. The last entry is for outlines, the one before it for segments not in ``ids``.
    """
    rest = len(ids)
    entries = np.full(int(labels.max(initial=0)) + 1, rest, np.uint8)
    entries[ids] = np.arange(len(ids))
    (labels,) = shades.resized([labels], OVERLAY_SIDE, OVERLAY_SIDE)  # one size, so that all outlines are equally thin
    pixels = entries[labels]
    pixels[shades.outlines(labels)] = rest + 1
    image = Image.fromarray(pixels)
    image.putpalette(_palette(coefficients, faded), "RGBA")
    return shades.uri(image, "PNG")


def hatch_uri(labels: npt.NDArray[np.integer[Any]], hatched: npt.NDArray[np.integer[Any]]) -> str:
    """A mask for the hatching of a page: a PNG that is opaque in the segments ``hatched`` of (h, w), else transparent."""
    (labels,) = shades.resized([labels], HATCH_SIDE, HATCH_SIDE)
    image = Image.fromarray(np.isin(labels, hatched).astype(np.uint8))
    image.putpalette(bytes([0, 0, 0, 0, 0, 0, 0, 255]), "RGBA")
    return shades.uri(image, "PNG")


def centre(labels: npt.NDArray[np.integer[Any]], segment: int) -> tuple[float, float]:
    """A point inside a segment near its middle, as (across, down) in [0, 1] of the picture."""
    across, down = shades.centre(labels, segment)
    return (across + 0.5) / labels.shape[1], (down + 0.5) / labels.shape[0]


def _palette(coefficients: npt.NDArray[np.floating[Any]], faded: npt.NDArray[np.bool_] | None) -> bytes:
    """A colour per segment as RGBA, then transparent, then the outline; page.js does the same for other labels."""
    palette = np.zeros((len(coefficients) + 2, 4), dtype=np.uint8)
    palette[:-2, :3] = np.where(coefficients[:, None] > 0, ImageColor.getrgb(FOR), ImageColor.getrgb(AGAINST))
    opacity = np.abs(coefficients) / (np.abs(coefficients).max(initial=0.0) or 1.0)
    palette[:-2, 3] = np.rint(255 * (opacity if faded is None else opacity * np.where(faded, shades.FADED, 1)))
    palette[-1] = OUTLINE
    return palette.tobytes()
