"""Inputs as they are read; readers of single images: files, and the examples of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpulime import labels
from gpulime.config import DataConfig
from gpulime.device import out_of_memory
from gpulime.errors import GpulimeError
from gpulime.images.normalisation import Normalisation
from gpulime.runs.reading import examples
from gpulime.runs.reading.decode import Decoded, decode
from gpulime.runs.reading.examples import FormError
from gpulime.runs.reading.label_maps import SEGMENTER, Masks, called, checked
from gpulime.runs.reading.pixels import DecodeError, Shown, TooLargeError, shown
from gpulime.runs.reading.sources import PHOTOGRAPHS, Item
from gpulime.runs.reading.transform import Transform

MOST_TARGET = 2**31 - 1  # of the column ``target``
# Hints: a rotation tag is ignored, the crop keeps less than `KEPT` of the picture's area, 8 of 16 bits were read.
TURNED, CROPPED, CUT = "turned", "cropped", "cut"
KEPT = 0.25

Picture = Callable[[Mapping[str, Any]], Shown | None]  # of a row, as the model saw it


@dataclass(frozen=True)
class Read:
    """One input, or the reason for its failure."""

    item: Item
    pixels: Tensor | None = None  # (c, h, w), uint8 or float; None if there is an ``error``
    sha256: str | None = None  # of the file, or of the pixels if there is no file
    content: Any = None  # of another kind: a text, or the numbers of a table's row
    segments: npt.NDArray[np.int64] | None = None  # (h, w); None if the explainer segments
    segmenter: str | None = None  # "masks" if the segments came with the image
    target: Any = None  # as in the dataset, for `gpulime.labels.of_image`; for a file, the item's
    no_target: str | None = None  # reason if the dataset's value is not a target
    classes: Sequence[int] = ()  # of the target, once the number of classes is known
    error: str | None = None
    kind: str | None = None  # of the error: 'decode', 'too_large' ...
    is_misfit: bool = False  # true if the dataset's examples have an unknown form
    hints: tuple[str, ...] = ()


def load(item: Item, data: DataConfig) -> Decoded:
    """Read one image; raises `DecodeError`, whose ``kind`` is 'decode' or 'too_large'."""
    if item.path:
        return decode(item.path, max_megapixels=data.max_megapixels, max_megabytes=data.max_megabytes, exif=data.exif)
    if item.image_id not in PHOTOGRAPHS:  # the id of a foreign row
        raise DecodeError(f"is none of scikit-image's photographs {', '.join(PHOTOGRAPHS)}")
    import skimage.data

    array = getattr(skimage.data, item.image_id)()
    return Decoded(array, hashlib.sha256(array.tobytes()).hexdigest())


@dataclass(frozen=True)
class FileReader:
    """Read files within the limits of ``data``, through the model's transform; pixels and fill are in [0, 1]."""

    data: DataConfig
    transform: Transform
    masks: Masks | None = None
    in_unit: ClassVar[bool] = True

    def __call__(self, item: Item) -> Read:
        """Read one item; a file that is not an image becomes a `Read` with its error."""
        try:
            decoded = load(item, self.data)
            self._check_enlarged(decoded.size)
            found = torch.from_numpy(self.transform(decoded.picture)).permute(2, 0, 1)
            read = Read(item, found, decoded.sha256, hints=self._hints(decoded))
            return read if self.masks is None else self._masked(read, self.masks, decoded.size)
        except DecodeError as error:
            return Read(item, error=str(error), kind=error.kind)
        except Exception as error:  # one bad image fails alone
            return Read(item, error=f"{type(error).__name__}: {error}", kind=_kind_of(error))

    def _masked(self, read: Read, masks: Masks, size: tuple[int, int]) -> Read:
        """Add the mask as segments; it has the size of the file's picture, and is resized and cropped with it."""
        labels = checked(*called(masks, read.item.image_id), size[::-1])
        return replace(read, segments=self.transform.of_labels(labels), segmenter=SEGMENTER)

    def _hints(self, decoded: Decoded) -> tuple[str, ...]:
        shown = {TURNED: decoded.turned, CROPPED: self.transform.kept(decoded.size) < KEPT, CUT: decoded.cut}
        return tuple(hint for hint, shows in shown.items() if shows)

    def _check_enlarged(self, size: tuple[int, int]) -> None:
        """Fail if a thin picture would become too large when its shorter side is resized."""
        enlarged = ((self.transform.resize or min(size)) / min(size)) ** 2 * size[0] * size[1] / 1e6
        if enlarged > self.data.max_megapixels:
            raise TooLargeError(
                f"has {size[0]} x {size[1]} pixels and {enlarged:.0f} megapixels when its shorter side is resized to "
                f"{self.transform.resize}; data.max_megapixels allows {self.data.max_megapixels:g}"
            )


@dataclass(frozen=True)
class DatasetReader:
    """Read a map-style dataset with examples that `examples.parts` knows; images keep their units.

    A PIL image gets as many ``channels`` as the model takes, if that is known. With ``in_unit`` a fill is in [0, 1].
    """

    dataset: Any
    channels: int | None = None
    masks: Masks | None = None
    in_unit: bool = False

    def __call__(self, item: Item) -> Read:
        """Read the example with the index in the item's path; any error becomes that of its image."""
        number, item = int(item.path), replace(item, path=b"")
        try:
            example = examples.parts(self.dataset[number])
            read = with_target(_read(item, examples.tensor(example.image, self.channels)), example.target)
            given = (example.mask, example.mask_name)
            value, name = given if self.masks is None else called(self.masks, item.image_id)
            return read if value is None or read.pixels is None else with_mask(read, value, name)
        except DecodeError as error:
            return Read(item, error=str(error), kind=error.kind, is_misfit=isinstance(error, FormError))
        except (Exception, SystemExit) as error:  # a dataset may run any code and return any kind of tensor
            return Read(item, error=f"{type(error).__name__}: {error}", kind=_kind_of(error))


def _kind_of(error: BaseException) -> str:
    return "out_of_memory" if out_of_memory(error) else DecodeError.kind


def _read(item: Item, image: Tensor) -> Read:
    values = torch.empty(image.shape, dtype=image.dtype)  # a plain tensor instead of the dataset's subclass
    values.copy_(image.detach())  # before any use, since the dataset may reuse its memory for the next image
    bad = 0 if values.dtype == torch.uint8 else int((~values.isfinite()).sum())
    if bad:
        message = f"{bad} of its {values.numel()} values are NaN or infinite"
        return Read(item, error=message, kind="non_finite")
    return Read(item, values, hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest())


def with_target(read: Read, target: Any) -> Read:
    """Add the target, or the reason why it is invalid."""
    if target is None:
        return read
    try:
        plain = labels.plain(target)
    except GpulimeError as error:
        return replace(read, no_target=str(error))
    known = type(plain) is int and 0 <= plain <= MOST_TARGET  # so that the row of a failed image has it, too
    return replace(read, target=plain, item=replace(read.item, target=plain) if known else read.item)


def with_mask(read: Read, value: Any, name: str) -> Read:
    """Add the mask as segments; raises `LabelMapError` unless it is a map of integers of the image's size."""
    assert read.pixels is not None
    h, w = read.pixels.shape[1:]
    return replace(read, segments=checked(value, name, (h, w)), segmenter=SEGMENTER)


def pictures_of(
    reader: FileReader | DatasetReader | None, bands: Sequence[int] | None = None, normalisation: Normalisation | None = None
) -> Picture:
    """Make a function from a row to its picture as the model saw it; None if the image is missing or has changed."""
    if reader is None:
        return lambda row: None
    listed = examples.items(reader.dataset) if isinstance(reader, DatasetReader) else None
    numbers = None if listed is None else {item.image_id: item for item in listed}

    def picture(row: Mapping[str, Any]) -> Shown | None:
        item = Item(row["image_id"], row["path"]) if numbers is None else numbers.get(row["image_id"])
        if item is None or row.get("image_sha256") is None:  # a foreign row, which may name any file of this machine
            return None
        read = reader(item)
        if read.pixels is None or read.sha256 != row["image_sha256"]:  # its segments would lie on another picture
            return None
        if numbers is None:
            return shown(read.pixels, bands)
        unit = read.pixels / 255 if read.pixels.dtype == torch.uint8 else read.pixels
        return shown(unit if normalisation is None else normalisation.pictures(unit), bands)

    return picture
