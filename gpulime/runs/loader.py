"""Items -> pixels: what reads one image, and how those that are read become batches."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from gpulime import inputs
from gpulime.device import out_of_memory
from gpulime.errors import check
from gpulime.masks import key
from gpulime.runs import pixels
from gpulime.runs.label_maps import KEYS as MASK_KEYS
from gpulime.runs.label_maps import SEGMENTER, Masks, called, checked, label_map
from gpulime.runs.pictures import Decoded
from gpulime.runs.pixels import DecodeError, TooLargeError
from gpulime.runs.sources import Item, Source
from gpulime.runs.transform import Transform

DTYPES = torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64  # of a dataset's images

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
    error, kind : the message and its kind ('decode', 'too_large', ...)
    hints : `TURNED` for an ignored rotation tag, `CROPPED` if the crop keeps less than `KEPT` of the picture, `CUT` for colours
        of 16 bits, of which 8 were read
    """

    item: Item
    pixels: Tensor | None = None
    sha256: str | None = None
    segments: npt.NDArray[np.int64] | None = None
    segmenter: str | None = None
    error: str | None = None
    kind: str | None = None
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
    """Reads a map-style dataset of tensors or PIL images, with or without a target; the images keep their units.

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
            example = self.dataset[number]
            read = _read(item, example, self.channels)
            value, name = _mask_of(example) if self.masks is None else called(self.masks, item.image_id)
            return read if value is None or read.pixels is None else with_mask(read, value, name)
        except DecodeError as error:
            return Read(item, error=str(error), kind=error.kind)
        except (Exception, SystemExit) as error:  # any code may stand behind a dataset, and any kind of tensor come from it
            return Read(item, error=f"{type(error).__name__}: {error}", kind=_kind_of(error))


def _kind_of(error: BaseException) -> str:
    return "out_of_memory" if out_of_memory(error) else DecodeError.kind


def _read(item: Item, example: Any, channels: int | None = None) -> Read:
    image, target = (*example, None, None)[:2] if isinstance(example, tuple | list) else (example, None)
    if isinstance(image, Image.Image):
        image = pixels.tensor(image, channels)
    if not isinstance(image, Tensor) or image.ndim != 3 or image.numel() == 0:
        what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        return Read(item, error=f"an image must be a tensor (c, h, w) or a PIL image; got {what}", kind="decode")
    if image.layout is not torch.strided or image.is_meta:
        message = f"an image must be a dense tensor that holds its values; got {image.layout} on {image.device}"
        return Read(item, error=message, kind="decode")
    if image.dtype not in DTYPES:
        *others, last = (str(dtype).removeprefix("torch.") for dtype in DTYPES)
        return Read(item, error=f"an image must be {', '.join(others)} or {last}; got {image.dtype}", kind="decode")
    values = torch.empty(image.shape, dtype=image.dtype)  # a plain tensor, whatever subclass the dataset has
    values.copy_(image.detach())  # before anything looks at it: the dataset may fill the same memory with its next image
    bad = 0 if values.dtype == torch.uint8 else int((~values.isfinite()).sum())
    item = replace(item, target=_index(target))
    if bad:
        message = f"{bad} of its {values.numel()} values are NaN or infinite"
        return Read(item, error=message, kind="non_finite")
    return Read(item, values, hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest())


def _mask_of(example: Any) -> tuple[Any, str]:
    """The mask of an example and how a message calls it: a third item that holds integers (h, w), or a value by its key."""
    if isinstance(example, Mapping):
        key = next((key for key in MASK_KEYS if key in example), None)
        return (None, "") if key is None else (example[key], key)
    third = example[2] if isinstance(example, tuple | list) and len(example) > 2 else None
    return (None if label_map(third) is None else third), "the third item, which is used as a mask,"


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


def _index(target: Any) -> int | None:
    """A class index given as an int, a NumPy number or a tensor of one; None for anything else."""
    try:
        array = np.asarray(target.cpu() if isinstance(target, Tensor) else target)
    except (TypeError, ValueError, RuntimeError):  # lists of several lengths, tensors that NumPy does not know
        return None
    return int(array.reshape(())) if array.size == 1 and array.dtype.kind in "iu" else None


Group = tuple[list[Read], inputs.Batch | None]


def batches(reads: Sequence[Read], labels: str, in_unit: bool, keep: Sequence[int] = ()) -> Iterator[Group]:
    """All of ``reads`` in order: those of one shape and dtype as a batch, those that could not be read without one.

    Parameters
    ----------
    reads : sequence of Read
    labels : str
        "top", "target" or "top+target".
    in_unit : bool
        Whether uint8 images are brought to [0, 1] here, so that a fill counts in it too.
    keep : sequence of int
        Ids of segments that are never hidden.
    """
    for kind, group in itertools.groupby(reads, _kind):
        run = list(group)
        yield run, None if kind is None else _batch(run, labels, in_unit, keep)


def _kind(read: Read) -> Any:
    return None if read.pixels is None else (read.pixels.shape, read.pixels.dtype, read.segments is None)


def _batch(reads: list[Read], labels: str, in_unit: bool, keep: Sequence[int]) -> inputs.Batch:
    images = torch.stack([read.pixels for read in reads if read.pixels is not None])
    targets = [read.item.target for read in reads]
    maps = [read.segments for read in reads if read.segments is not None]
    check(len(maps) in (0, len(reads)), f"{len(maps)} of {len(reads)} images have label maps; all must have one, or none")
    return inputs.Batch(
        images=images / 255 if in_unit and images.dtype == torch.uint8 else images,
        labels=None if labels == "top" else torch.tensor([-1 if target is None else target for target in targets]),
        segments=torch.from_numpy(np.stack(maps)) if maps else None,
        keys=torch.tensor([key(read.item.image_id) for read in reads]),
        top=labels != "target",
        keep=keep,
    )
