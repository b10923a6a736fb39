"""Label maps that come with the images: integers (h, w), of a dataset, a folder of mask images or a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from gpulime.runs.pixels import DecodeError

SEGMENTER = "masks"  # in the column of that name
KEYS = ("mask", "segments")  # of a dataset's example
MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")  # of PIL images whose pixels are ids

LabelMap = npt.NDArray[np.int64]
Masks = Callable[[str], Any]  # image_id -> label map, as `label_map` takes it


class LabelMapError(DecodeError):
    """What came with an image is no label map of it; ``kind`` is the error_type of its row."""

    kind = "segments"


def label_map(value: Any) -> LabelMap | None:
    """A tensor, array or PIL image as (h, w) int64; None if it is no map of integers. Its first dimension may be 1."""
    if isinstance(value, Image.Image):
        array = np.array(value) if value.mode in MODES else None  # of a palette the indices
    elif isinstance(value, Tensor):
        array = value.detach().cpu().numpy() if not (value.is_floating_point() or value.is_complex()) else None
    else:
        array = value if isinstance(value, np.ndarray) else None
    if array is None or array.dtype.kind not in "biu":
        return None
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    return array.astype(np.int64) if array.ndim == 2 and array.size > 0 else None


def checked(value: Any, size: tuple[int, int], name: str) -> LabelMap:
    """``value`` as the label map of an image.

    Parameters
    ----------
    value : anything
    size : (h, w) of the image
    name : str, how a message calls it

    Raises
    ------
    LabelMapError
        Unless it is a map of integers of that size.
    """
    labels = label_map(value)
    if labels is None:
        raise LabelMapError(f"{name} must be integers (h, w) = {size}: a tensor, an array or a PIL image; got {_kind(value)}")
    if labels.shape != size:
        raise LabelMapError(f"{name} must have the image's size (h, w) = {size}; got {labels.shape}")
    return labels


def called(masks: Masks, image_id: str) -> tuple[Any, str]:
    """The label map of an image as ``masks`` gives it, and how a message calls it.

    Raises
    ------
    LabelMapError
        If there is none.
    """
    name = f"masks({image_id!r})"
    try:
        value = masks(image_id)
    except LabelMapError:
        raise
    except Exception as error:  # any code of the user's
        raise LabelMapError(f"{name} failed: {type(error).__name__}: {error}") from error
    if value is None:
        raise LabelMapError(f"{name} is None; it must be integers (h, w)")
    return value, name


def _kind(value: Any) -> str:
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}"
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor | np.ndarray) else type(value).__name__
