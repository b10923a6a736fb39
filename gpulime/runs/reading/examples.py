"""Datasets: their examples by id, and the image, the target and the mask in an example."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, default_collate, default_convert

from gpulime import arrays, labels
from gpulime.errors import GpulimeError, check
from gpulime.runs.reading import pixels
from gpulime.runs.reading.label_maps import KEYS as MASK_KEYS
from gpulime.runs.reading.label_maps import label_map
from gpulime.runs.reading.pixels import DecodeError
from gpulime.runs.reading.sources import Item, check_ids

IMAGE_KEYS = ("image", "pixel_values", "img", "x")
TARGET_KEYS = ("label", "labels", "target", "targets", "class", "y")
DTYPES = torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64
ADAPT = "[(one[0], one[1]) for one in dataset] is such a dataset, and so is a class with __len__ and __getitem__"


class FormError(DecodeError):
    """An example without an image in a known place; the whole dataset likely has this form."""


@dataclass(frozen=True)
class Example:
    """The parts of an example, as in the dataset; ``mask_name`` is the mask's name in messages."""

    image: Any
    target: Any = None
    mask: Any = None
    mask_name: str = ""


def map_style(dataset: Any) -> Any:
    """Return the dataset, or the dataset of a DataLoader that returns its examples unchanged.

    Raises
    ------
    GpulimeError
        If the dataset has no examples, or cannot be indexed. A DataLoader must have the default sampler and ``collate_fn``,
        since the effect of any others would be lost.
    """
    if isinstance(dataset, DataLoader):
        in_order = type(dataset.sampler) is SequentialSampler and type(dataset.batch_sampler) in (BatchSampler, type(None))
        plain = in_order and dataset.collate_fn in (default_collate, default_convert)
        check(plain, "a DataLoader must have shuffle=False and no sampler or collate_fn of its own; pass its dataset instead")
        dataset = dataset.dataset
    fits = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and len(dataset) > 0
    kind = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
    check(fits, f"dataset must have a length above 0 and give its images by number; got {kind}")
    return dataset


def items(dataset: Any) -> list[Item]:
    """List the examples of a dataset by index; their ids are paths if the dataset has them."""
    samples = getattr(dataset, "samples", None) or getattr(dataset, "imgs", None)
    if isinstance(samples, list) and len(samples) == len(dataset) and all(_has_path(sample) for sample in samples):
        root = getattr(dataset, "root", ".")
        ids = [os.path.relpath(os.fsdecode(sample[0]), root) for sample in samples]
    else:
        ids = [str(i) for i in range(len(dataset))]
    found = [Item(name.encode("utf-8", "backslashreplace").decode(), str(i).encode()) for i, name in enumerate(ids)]
    check_ids(found)
    return found


def _has_path(sample: Any) -> bool:
    return isinstance(sample, tuple | list) and len(sample) > 0 and isinstance(sample[0], str | bytes | os.PathLike)


def parts(example: Any) -> Example:
    """Find the image, the target and the mask of an example.

    It is an image, a tuple or list of an image and more, or a mapping or named tuple with one of `IMAGE_KEYS`, and perhaps one
    of `TARGET_KEYS` and of `MASK_KEYS`. In a tuple the image may follow an index, and the target other facts: (index, image,
    label), (image, facts, label). A mask is a further item that holds integers (h, w).

    Raises
    ------
    FormError
        If there is no image, or more than one item may be the target.
    """
    if hasattr(example, "_fields") and not set(IMAGE_KEYS).isdisjoint(example._fields):
        example = example._asdict()
    if isinstance(example, Mapping):
        return _of_mapping(example)
    if isinstance(example, tuple | list):
        return _of_items(example)
    return Example(example)


def _of_mapping(example: Mapping[str, Any]) -> Example:
    image, target, mask = (next((key for key in keys if key in example), None) for keys in (IMAGE_KEYS, TARGET_KEYS, MASK_KEYS))
    if image is None:
        raise _no_image(example)
    if target is None:
        likely = [key for key in example if any(word in str(key).lower() for word in ("label", "target", "class"))]
        pair = f"[{{'image': one[{image!r}], 'label': one[{(likely or [''])[0]!r}]}} for one in dataset]"
        check_form(len(likely) <= 1, f"an example must have one label; got {', '.join(map(repr, likely))}: choose with {pair}")
        target = likely[0] if likely else None
    found = example[image]
    return Example(
        arrays.tensor(found) if isinstance(found, list) else found,
        None if target is None else example[target],
        None if mask is None else example[mask],
        mask or "",
    )


def _of_items(example: Sequence[Any]) -> Example:
    places = [i for i, item in enumerate(example) if _is_image(item)]
    if not places:
        if not example or not isinstance(example[0], Tensor | np.ndarray):
            raise _no_image(example)
        places = [0]  # of another shape, which the message names
    at, rest = places[0], range(places[0] + 1, len(example))
    check_form(
        len(example) != 2 or at == 0 or not _is_class(example[0]),
        f"an example must be an image or (image, target); got {_shown(example)}: is the first item its index or its target?",
    )
    target = next(iter(rest), None)
    if target is not None and not _is_class(example[target]):
        target = next((i for i in rest if _is_class(example[i])), target)
    mask = next((i for i in rest if i != target and label_map(example[i]) is not None), None)
    return Example(
        example[at],
        None if target is None else example[target],
        None if mask is None else example[mask],
        "" if mask is None else f"item {mask} of the example, which is used as a mask,",
    )


def _is_image(item: Any) -> bool:
    return isinstance(item, Image.Image) or (isinstance(item, Tensor | np.ndarray) and item.ndim == 3)


def _is_class(item: Any) -> bool:
    try:
        labels.plain(item)
    except GpulimeError:
        return False
    return not isinstance(item, str)  # a path or a caption


def tensor(image: Any, channels: int | None) -> Tensor:
    """The pixels of an example's image, (c, h, w); those of a tensor share its memory.

    Raises
    ------
    FormError
        If it is not a tensor (c, h, w), an array (h, w, c) or (h, w), or a PIL image with numbers of an image.
    DecodeError
        As `pixels.bands`.
    """
    if isinstance(image, np.ndarray):
        shape = image.shape
        ahead = image.ndim == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4
        turned = "is that (c, h, w)? torch.from_numpy(image) makes it a tensor, whose channels come first"
        check_form(not ahead, f"an image that is an array must be (h, w, c) or (h, w); got {shape}: {turned}")
    if isinstance(image, Image.Image | np.ndarray):
        return pixels.tensor(image, channels)
    kinds = "a tensor (c, h, w), a PIL image or an array (h, w, c)"
    if not isinstance(image, Tensor) or image.ndim != 3 or image.numel() == 0:
        raise FormError(f"an image must be {kinds}; got {tuple(image.shape) if isinstance(image, Tensor) else _shown(image)}")
    dense = image.layout is torch.strided and not image.is_meta
    check_form(dense, f"an image must be a dense tensor that holds its values; got {image.layout} on {image.device}")
    *others, last = (str(dtype).removeprefix("torch.") for dtype in DTYPES)
    check_form(image.dtype in DTYPES, f"an image must be {', '.join(others)} or {last}; got {image.dtype}")
    return image


def check_form(condition: bool, message: str) -> None:
    """Raise `FormError` unless ``condition`` holds."""
    if not condition:
        raise FormError(message)


def _no_image(example: Any) -> FormError:
    keys = f"a mapping with one of {', '.join(IMAGE_KEYS)}"
    return FormError(f"an example must be an image, (image, target), or {keys}; got {_shown(example)}. {ADAPT}")


def _shown(value: Any, depth: int = 2) -> str:
    """The form of an example."""
    name = type(value).__name__
    if isinstance(value, Mapping):
        return f"{name} with {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list) and depth and len(value) <= 8:
        return f"{name} of ({', '.join(_shown(item, depth - 1) for item in value)})"
    return f"{name} {tuple(value.shape)}" if isinstance(value, Tensor | np.ndarray) else name
