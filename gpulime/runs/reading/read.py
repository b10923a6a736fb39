"""Items -> pixels: what reads one image, and how those that are read become batches."""

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
    """One image as it was read, or why it could not be.

    Attributes
    ----------
    item : Item
    pixels : (c, h, w) tensor, uint8 or float; None where ``error`` says why
    sha256 : hex digest of the file, or of the pixels where there is no file
    segments : (h, w) int64 array; None where the explainer segments
    segmenter : "masks" if the segments came with the image
    target : what `gpulime.labels.of_image` takes, as a dataset gives it; a file's is the item's
    no_target : why what the dataset gives is no target
    classes : of the target, once the number of classes is known
    error, kind : the message and its kind ('decode', 'too_large', ...)
    is_misfit : whether the dataset's examples are of a form that is not known
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
    """Reads the items of a source through the model's transform; a run over files counts in [0, 1], its fill too."""

    source: Source
    transform: Transform
    masks: Masks | None = None
    in_unit: ClassVar[bool] = True

    def __call__(self, item: Item) -> Read:
        """Read one item; a file that is no image becomes a `Read` with its error."""
        try:
            decoded = self.source.load(item)
            self._check_enlarged(decoded.size)
            found = torch.from_numpy(self.transform(decoded.picture)).permute(2, 0, 1)
            read = Read(item, found, decoded.sha256, hints=self._hints(decoded))
            return read if self.masks is None else self._masked(read, self.masks, decoded.size)
        except DecodeError as error:
            return Read(item, error=str(error), kind=error.kind)
        except Exception as error:  # one image never ends a run, whatever is wrong with it
            return Read(item, error=f"{type(error).__name__}: {error}", kind=_kind_of(error))

    def _masked(self, read: Read, masks: Masks, size: tuple[int, int]) -> Read:
        """With its mask as segments, which has the size of the file's picture and is resized and cropped as this is."""
        labels = checked(*called(masks, read.item.image_id), size[::-1])
        return replace(read, segments=self.transform.of_labels(labels), segmenter=SEGMENTER)

    def _hints(self, decoded: Decoded) -> tuple[str, ...]:
        shown = {TURNED: decoded.turned, CROPPED: self.transform.kept(decoded.size) < KEPT, CUT: decoded.cut}
        return tuple(hint for hint, shows in shown.items() if shows)

    def _check_enlarged(self, size: tuple[int, int]) -> None:
        """A thin picture, resized by its shorter side, may become as large as any."""
        enlarged = ((self.transform.resize or min(size)) / min(size)) ** 2 * size[0] * size[1] / 1e6
        if enlarged > self.source.max_megapixels:
            raise TooLargeError(
                f"has {size[0]} x {size[1]} pixels and {enlarged:.0f} megapixels when its shorter side is resized to "
                f"{self.transform.resize}; data.max_megapixels allows {self.source.max_megapixels:g}"
            )


@dataclass(frozen=True)
class DatasetReader:
    """Reads a map-style dataset whose examples `examples.parts` knows; the images keep their units.

    A PIL image gets as many ``channels`` as the model takes, if that is known. With ``in_unit`` a fill counts in [0, 1].
    """

    dataset: Any
    channels: int | None = None
    masks: Masks | None = None
    in_unit: bool = False

    def __call__(self, item: Item) -> Read:
        """Read the example whose number is the item's path; whatever goes wrong there becomes an error of that image."""
        number, item = int(item.path), replace(item, path=b"")
        try:
            example = examples.parts(self.dataset[number])
            read = with_target(_read(item, examples.tensor(example.image, self.channels)), example.target)
            given = (example.mask, example.mask_name)
            value, name = given if self.masks is None else called(self.masks, item.image_id)
            return read if value is None or read.pixels is None else with_mask(read, value, name)
        except DecodeError as error:
            return Read(item, error=str(error), kind=error.kind, is_misfit=isinstance(error, FormError))
        except (Exception, SystemExit) as error:  # any code may stand behind a dataset, and any kind of tensor come from it
            return Read(item, error=f"{type(error).__name__}: {error}", kind=_kind_of(error))


def _kind_of(error: BaseException) -> str:
    return "out_of_memory" if out_of_memory(error) else DecodeError.kind


def _read(item: Item, image: Tensor) -> Read:
    values = torch.empty(image.shape, dtype=image.dtype)  # a plain tensor, whatever subclass the dataset has
    values.copy_(image.detach())  # before anything looks at it: the dataset may fill the same memory with its next image
    bad = 0 if values.dtype == torch.uint8 else int((~values.isfinite()).sum())
    if bad:
        message = f"{bad} of its {values.numel()} values are NaN or infinite"
        return Read(item, error=message, kind="non_finite")
    return Read(item, values, hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest())


def with_target(read: Read, target: Any) -> Read:
    """The same image with its target, or with the reason why that is none."""
    if target is None:
        return read
    try:
        plain = labels.plain(target)
    except GpulimeError as error:
        return replace(read, no_target=str(error))
    known = type(plain) is int and 0 <= plain <= MOST_TARGET  # then the row of an image that fails has it too
    return replace(read, target=plain, item=replace(read.item, target=plain) if known else read.item)


def with_mask(read: Read, value: Any, name: str) -> Read:
    """The same image with its mask as segments.

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
    """All of ``reads`` in order: those of one shape and dtype as a batch, those that could not be read without one.

    Parameters
    ----------
    reads : sequence of Read
    wanted : str or sequence of int
        "top", "target" or "top+target", or the same classes for each image.
    in_unit : bool
        Whether uint8 images are brought to [0, 1] here, so that a fill counts in it too.
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
