"""Label maps that come with the images: integers (h, w), of a dataset, a folder of mask images or a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from gpulime.config import DataConfig
from gpulime.errors import GpulimeError, about, check
from gpulime.runs.reading import sources
from gpulime.runs.reading.decode import decode
from gpulime.runs.reading.pixels import DecodeError

SEGMENTER = "masks"  # in the column of that name
KEYS = ("mask", "segments")  # of a dataset's example
MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")  # of PIL images whose pixels are ids
LOSSLESS = (".png", ".npy", ".tif", ".tiff", ".bmp", ".pgm", ".gif")  # extensions of mask images

LabelMap = npt.NDArray[np.int64]
Masks = Callable[[str], Any]  # image_id -> label map, as `label_map` takes it


class LabelMapError(DecodeError):
    """A mask that is not a label map of its image; ``kind`` is the error_type of its row."""

    kind = "segments"


def label_map(value: Any) -> LabelMap | None:
    """A tensor, array or PIL image as (h, w) int64; None if it holds no integers. A leading dimension of 1 is dropped."""
    if isinstance(value, Image.Image):
        array = np.array(value) if value.mode in MODES else None  # the indices of a palette
    elif isinstance(value, Tensor):
        array = value.detach().cpu().numpy() if not (value.is_floating_point() or value.is_complex()) else None
    else:
        array = value if isinstance(value, np.ndarray) else None
    if array is None or array.dtype.kind not in "biu":
        return None
    array = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    return array.astype(np.int64) if array.ndim == 2 and array.size > 0 else None


def checked(value: Any, name: str, size: tuple[int, int]) -> LabelMap:
    """``value`` as the label map of an image of ``size`` (h, w); raises `LabelMapError` if it is none."""
    labels = label_map(value)
    if labels is None:
        raise LabelMapError(f"{name} must be integers (h, w) = {size}: a tensor, an array or a PIL image; got {_kind(value)}")
    if labels.shape != size:
        raise LabelMapError(f"{name} must have the image's size (h, w) = {size}; got {labels.shape}")
    return labels


@dataclass(frozen=True)
class MaskFolder:
    """Mask images by the ids of their images: the same path with a lossless extension."""

    folder: str
    files: Mapping[str, Sequence[bytes]]  # image id without extension -> candidate mask files
    limits: Mapping[str, float]  # max_megapixels and max_megabytes, as for images

    @classmethod
    def of(cls, folder: str, data: DataConfig) -> MaskFolder:
        """The masks in a folder and its subfolders; raises `GpulimeError` if there are none, or a folder cannot be read."""
        files: dict[str, list[bytes]] = {}
        with about(f"data.masks {folder!r}"):
            check(os.path.isdir(os.path.expanduser(folder)), "there is no such folder")
            try:
                found = list(sources.files_in(folder))
            except OSError as error:
                raise GpulimeError(f"cannot be read: {error}") from error
            for item in found:
                stem, ending = os.path.splitext(item.image_id)
                if ending.lower() in LOSSLESS:
                    files.setdefault(stem, []).append(item.path)
            check(bool(files), f"holds no mask ({', '.join(LOSSLESS)})")
        return cls(folder, files, {"max_megapixels": data.max_megapixels, "max_megabytes": data.max_megabytes})

    def check(self, image_ids: Sequence[str]) -> None:
        """Raise `GpulimeError` if none of the images has a mask here."""
        there = any(_stem(image_id) in self.files for image_id in image_ids)
        first, mask = image_ids[0], next(iter(self.files))
        check(there, f"data.masks {self.folder!r}: no image has a mask there; {first!r} needs {_stem(first)}.png, found {mask}")

    def __call__(self, image_id: str) -> Image.Image | npt.NDArray[Any]:
        """The mask of an image; raises `LabelMapError` unless there is one that can be read."""
        found = self.files.get(_stem(image_id), ())
        if len(found) != 1:
            names = ", ".join(os.fsdecode(os.path.basename(path)) for path in found) or "none"
            raise LabelMapError(
                f"one mask is needed, {_stem(image_id)}.png in {self.folder!r} or with another ending; found {names}"
            )
        try:
            if found[0].lower().endswith(b".npy"):
                return np.asarray(np.load(os.fsdecode(found[0]), allow_pickle=False))
            return decode(found[0], exif="ignore", **self.limits).picture
        except Exception as error:  # damaged, or removed meanwhile
            raise LabelMapError(f"its mask {os.fsdecode(found[0])!r} cannot be used: {error}") from error


def _stem(image_id: str) -> str:
    return os.path.splitext(image_id)[0]


def called(masks: Masks, image_id: str) -> tuple[Any, str]:
    """The label map of an image from ``masks``, and its name in messages; raises `LabelMapError` if there is none."""
    name = "the mask" if isinstance(masks, MaskFolder) else f"masks({image_id!r})"
    try:
        value = masks(image_id)
    except LabelMapError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise LabelMapError(f"{name} failed: {type(error).__name__}: {error}") from error
    if value is None:
        raise LabelMapError(f"{name} is None; it must be integers (h, w)")
    return value, name


def _kind(value: Any) -> str:
    if isinstance(value, Image.Image):
        return f"a PIL image of mode {value.mode}"
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor | np.ndarray) else type(value).__name__
