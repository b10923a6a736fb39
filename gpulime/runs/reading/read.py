"""Readers of single images, and batches of their results."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpulime import labels
from gpulime.device import out_of_memory
from gpulime.engine.masks import key
from gpulime.errors import GpulimeError, check
from gpulime.images import batch
from gpulime.runs.reading import examples
from gpulime.runs.reading.decode import Decoded
from gpulime.runs.reading.examples import FormError
from gpulime.runs.reading.label_maps import SEGMENTER, Masks, called, checked
from gpulime.runs.reading.pixels import DecodeError, TooLargeError
from gpulime.runs.reading.sources import Item, Source
from gpulime.runs.reading.transform import Transform

MOST_TARGET = 2**31 - 1  # of the column ``target``
TURNED, CROPPED, CUT = "turned", "cropped", "cut"  # hints
KEPT = 0.25  # of a picture's area


@dataclass(frozen=True)
class Read:
    """One image, or the reason for its failure.

    Attributes
    ----------
    item : Item
    pixels : (c, h, w) tensor, uint8 or float; None if there is an ``error``
    sha256 : hex digest of the file, or of the pixels if there is no file
    segments : (h, w) int64 array; None if the explainer segments
    segmenter : "masks" if the segments came with the image
    target : as in the dataset, for `gpulime.labels.of_image`; for a file, the item's
    no_target : reason if the dataset's value is not a target
    classes : of the target, once the number of classes is known
    error, kind : the message and its kind ('decode', 'too_large', ...)
    is_misfit : true if the dataset's examples have an unknown form
    hints : `TURNED` for an ignored rotation tag, `CROPPED` if the crop keeps less than `KEPT` of the picture, `CUT` for colours
        of 16 bits, of which 8 were read
    """

    item: Item
    pixels: Tensor | None = None
    sha256: str | None = None
    segments: npt.NDArray[np.int64] | None = None
    segmenter: str | None = None
    target: Any = None
    no_target: str | None = None
    classes: Sequence[int] = ()
    error: str | None = None
    kind: str | None = None
    is_misfit: bool = False
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileReader:
    """Read items of a source through the model's transform; pixels and fill are in [0, 1]."""

    source: Source
    transform: Transform
    masks: Masks | None = None
    in_unit: ClassVar[bool] = True

    def __call__(self, item: Item) -> Read:
        """Read one item; a file that is not an image becomes a `Read` with its error."""
        try:
            decoded = self.source.load(item)
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
        if enlarged > self.source.max_megapixels:
            raise TooLargeError(
                f"has {size[0]} x {size[1]} pixels and {enlarged:.0f} megapixels when its shorter side is resized to "
                f"{self.transform.resize}; data.max_megapixels allows {self.source.max_megapixels:g}"
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
    """Add the mask as segments.

    Raises
    ------
    LabelMapError
        Unless ``value`` is a map of integers of the image's size.
    """
    assert read.pixels is not None
    h, w = read.pixels.shape[1:]
    return replace(read, segments=checked(value, name, (h, w)), segmenter=SEGMENTER)


Group = tuple[list[Read], batch.Batch | None]


def batches(reads: Sequence[Read], wanted: str | Sequence[int], in_unit: bool, keep: Sequence[int] = ()) -> Iterator[Group]:
    """Group ``reads`` in order: reads of one shape and dtype get a batch, failed reads get none.

    Parameters
    ----------
    reads : sequence of Read
    wanted : str or sequence of int
        "top", "target" or "top+target", or the same classes for each image.
    in_unit : bool
        Scale uint8 images to [0, 1] here, so that a fill is in [0, 1], too.
    keep : sequence of int
        Ids of segments that are never hidden.
    """
    for kind, group in itertools.groupby(reads, _kind):
        run = list(group)
        yield run, None if kind is None else _batch(run, wanted, in_unit, keep)


def _kind(read: Read) -> Any:
    return None if read.pixels is None else (read.pixels.shape, read.pixels.dtype, read.segments is None)


def _batch(reads: list[Read], wanted: str | Sequence[int], in_unit: bool, keep: Sequence[int]) -> batch.Batch:
    images = torch.stack([read.pixels for read in reads if read.pixels is not None])
    classes = [read.classes if isinstance(wanted, str) else wanted for read in reads]
    maps = [read.segments for read in reads if read.segments is not None]
    check(len(maps) in (0, len(reads)), f"{len(maps)} of {len(reads)} images have label maps; all must have one, or none")
    return batch.Batch(
        images=images / 255 if in_unit and images.dtype == torch.uint8 else images,
        labels=None if wanted == "top" else labels.padded(classes),
        segments=torch.from_numpy(np.stack(maps)) if maps else None,
        keys=torch.tensor([key(read.item.image_id) for read in reads]),
        top=wanted in ("top", "top+target"),
        keep=keep,
    )
