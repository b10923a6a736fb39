"""The picture of an image's channels, and a description of changes to its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpulime.explanations.window import MOST_PLAIN, bounds, stretched, windowed


@dataclass(frozen=True)
class Shown:
    """A picture (h, w, 3) uint8; ``how`` is empty if it shows the image's values as they are."""

    pixels: npt.NDArray[np.uint8]
    how: str = ""


def shown(pixels: Tensor, bands: Sequence[int] | None = None) -> Shown:
    """Make a picture of an image.

    Parameters
    ----------
    pixels : (c, h, w) uint8, or floats in 0..1
        Up to four channels are shown as a photograph, gray or RGB, with a window if they are deep and use little of their range
        (`gpulime.explanations.window`). Of more channels three are shown, each from its 2nd to its 98th percentile.
    bands : three numbers from 1, optional
        The bands for red, green and blue; by default the first three. Missing ones are ignored.
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
