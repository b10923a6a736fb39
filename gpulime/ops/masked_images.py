"""``gpulime::masked_images``: rows of the model's input, each an image with some of its segments hidden.

Equivalent to::

    shown = masks.gather(1, labels[index].flatten(1).long())       # (b, h*w)
    rows = torch.where(shown.view(b, 1, h, w), images[index], fills[index])

It is a torch.library op with a fake, so that torch.compile and CUDA graphs see it. It is defined by its schema:
``torch.library.custom_op`` would import torch._dynamo at the first call, more than a second of every new process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gpulime import device
from gpulime.errors import GpulimeError, check
from gpulime.ops import source

torch.library.define(
    "gpulime::masked_images",
    "(Tensor images, Tensor fills, Tensor labels, Tensor index, Tensor masks) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)

LABELS = {torch.uint8: "unsigned char", torch.uint16: "unsigned short", torch.int32: "int"}
MOST_SEGMENTS = 65_535

_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WORDS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}
VARIANTS = [{"BITS": bits, "LABEL": label} for bits in _WORDS.values() for label in LABELS.values()]

_THREADS, _BYTES = 256, 16  # of a block, of a thread's values
_GROUPS = (32, 16, 8, 4)  # rows of a block: the more, the less is read a row ...
_BLOCKS = 2048  # ... while there are enough blocks to keep a large GPU busy
_TABLE = 48 * 1024 - 256  # bytes of shared memory for the rows that show each segment, beside the kernel's own 256


def masked_images(images: Tensor, fills: Tensor, labels: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    """Compose masked rows: hidden segments show the fill.

    Images and fills come ready for the model, and the op only chooses, bit for bit, between two values.

    Parameters
    ----------
    images : (n, c, h, w), contiguous or channels_last (other strides are copied)
        A dtype of 1 to 8 bytes.
    fills : (n, c, h, w), like ``images``
    labels : (n, h, w) uint8, uint16 or int32, the segment of each pixel, in [0, k)
    index : (b,) int64, the image of each row, in [0, n)
    masks : (b, k) bool, True where a segment is shown; k up to 65,535

    Returns
    -------
    (b, c, h, w) tensor in the memory format of ``images``

    Raises
    ------
    GpulimeError
        If shapes, dtypes or devices do not fit together, or there are no rows.
    """
    _check_images(images, fills, labels)
    _check_rows(images, index, masks)
    rows: Tensor = torch.ops.gpulime.masked_images(images, fills, labels, index, masks)
    return rows


def composer(images: Tensor, fills: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """`masked_images` as a function of index and masks, for many calls: with the kernel, all else is done only once."""
    if not (images.is_cuda and source.available(images.device)):
        return partial(masked_images, images, fills, labels)
    return launcher(images, fills, labels)


def _check_images(images: Tensor, fills: Tensor, labels: Tensor) -> None:
    check(
        images.ndim == 4 and images.numel() > 0,
        lambda: f"images must be (n, c, h, w), none of them 0; got {tuple(images.shape)}",
    )
    n, _, h, w = images.shape
    check(images.element_size() in _NUMBERS, lambda: f"images must be of a dtype of 1 to 8 bytes; got {images.dtype}")
    check(fills.shape == images.shape, lambda: f"fills must be like images, {tuple(images.shape)}; got {tuple(fills.shape)}")
    check(fills.dtype == images.dtype, lambda: f"fills must be {images.dtype} like images; got {fills.dtype}")
    check(labels.shape == (n, h, w), lambda: f"labels must be (n, h, w) = {(n, h, w)}; got {tuple(labels.shape)}")
    check(labels.dtype in LABELS, lambda: f"labels must be uint8, uint16 or int32; got {labels.dtype}")
    _check_devices(images, fills=fills, labels=labels)


def _check_rows(images: Tensor, index: Tensor, masks: Tensor) -> None:
    check(
        index.ndim == 1 and index.dtype == torch.int64,
        lambda: f"index must be (b,) int64; got {tuple(index.shape)} {index.dtype}",
    )
    check(masks.dtype == torch.bool, lambda: f"masks must be bool; got {masks.dtype}")
    b = index.shape[0]
    check(b > 0, "index must hold at least one row, b > 0; got b = 0")
    check(
        masks.ndim == 2 and masks.shape[0] == b and 0 < masks.shape[1] <= MOST_SEGMENTS,
        lambda: f"masks must be (b, k) with b = {b} and k from 1 to {MOST_SEGMENTS:,}; got {tuple(masks.shape)}",
    )
    _check_devices(images, index=index, masks=masks)


def _check_devices(images: Tensor, **tensors: Tensor) -> None:
    for name, given in tensors.items():
        if given.device != images.device:
            raise GpulimeError(f"{name} must be on {images.device} like images; got {given.device}")


def masked_images_reference(images: Tensor, fills: Tensor, labels: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    """Pixels of images in shown segments, of fills elsewhere."""
    segments = labels.int() if labels.dtype == torch.uint16 else labels  # few operations take uint16
    shown = masks.gather(1, segments[index].flatten(1).long()).view(index.numel(), 1, *labels.shape[1:])
    return torch.where(shown, images[index], fills[index]).contiguous(memory_format=device.memory_format(images))


def by_kernel(images: Tensor, fills: Tensor, labels: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    """`masked_images_reference` by its kernel; index and masks are not read on the host, so a CUDA graph replays."""
    return launcher(images, fills, labels)(index, masks)


def launcher(images: Tensor, fills: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """`by_kernel` as a function of index and masks; all that stays the same is checked and made here, once."""
    _check_images(images, fills, labels)
    memory_format = device.memory_format(images)
    images, fills = (tensor.contiguous(memory_format=memory_format) for tensor in (images, fills))
    labels = labels.contiguous()
    (_, c, h, w), item = images.shape, images.element_size()
    aligned = c * h * w * item % _BYTES == 0 and all(tensor.data_ptr() % _BYTES == 0 for tensor in (images, fills))
    tiles = -(-c * h * w * item // (_THREADS * _BYTES))
    module = source.module("masked_images.cu", {"BITS": _WORDS[item], "LABEL": LABELS[labels.dtype]}, images.device)
    is_last, yes, no = map(np.int32, (memory_format is torch.channels_last, True, False))

    def by_kernel(index: Tensor, masks: Tensor) -> Tensor:
        _check_rows(images, index, masks)
        index, masks = index.contiguous(), masks.contiguous()
        b, k = masks.shape
        rows = _empty(b, c, h, w, images, memory_format)
        wide = aligned and rows.data_ptr() % _BYTES == 0
        group = next((size for size in _GROUPS if tiles * -(-b // size) >= _BLOCKS), _GROUPS[-1])
        table = 4 * k if 4 * k <= _TABLE else 0
        flags = is_last, yes if wide else no, yes if table else no
        args = images, fills, labels, index, masks, rows, b, k, c, h * w, group, *flags
        module.run("masked_images", (tiles * -(-b // group), 1, 1), (_THREADS, 1, 1), args, table)
        return rows

    return by_kernel


def _on_cpu(images: Tensor, fills: Tensor, labels: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    """Choose by whole numbers: ``fill + shown * (fill - image)``, where shown is -1 or 0 and sums wrap around.

    Masks are packed, one row per bit of an integer, looked up together and unpacked by shifts. This takes a third of the time
    of a look-up for each row and torch.where, and rows of one image share reads. Exact for every dtype, NaN included.
    """
    b, (n, c, h, w) = index.numel(), images.shape
    memory_format = device.memory_format(images)
    channels_last = memory_format is torch.channels_last
    number, bits = _NUMBERS[images.element_size()], 8 * images.element_size()
    rows = _empty(b, c, h, w, images, memory_format)

    def numbers(values: Tensor) -> Tensor:
        """One number a pixel serves the c planes of a plain image; in channels_last a pixel's values lie together."""
        dense = (values.permute(0, 2, 3, 1) if channels_last else values).contiguous().view(number)
        return dense.view((len(values), 1, h * w * c) if channels_last else (len(values), c, h * w))

    image, fill, out, segments = numbers(images), numbers(fills), numbers(rows), labels.reshape(n, h * w)
    starts = [0, *(index.diff().nonzero().flatten() + 1).tolist(), b]  # of runs of rows that share an image
    words = [range(first, min(stop, first + bits)) for start, stop in pairwise(starts) for first in range(start, stop, bits)]
    bit = torch.arange(bits, dtype=number, device=images.device)[:, None, None]
    high = masks.to(number) << (bits - 1 - torch.cat([bit[: len(word), 0] for word in words]))
    shown = out.new_empty(min(b, bits), 1, out.shape[2])
    last = -1
    for word, i in zip(words, index[[word.start for word in words]].tolist(), strict=True):
        if i != last:
            last, less, where = i, fill[i] - image[i], segments[i].long()
        places = slice(word.start, word.stop)
        packed = high[places].sum(0, dtype=number).gather(0, where)
        packed = packed.repeat_interleave(c) if channels_last else packed
        part = torch.bitwise_left_shift(packed, bit[: len(word)], out=shown[: len(word)])
        torch.addcmul(fill[i], part.bitwise_right_shift_(bits - 1), less, out=out[places])
    return rows


def _on_cuda(images: Tensor, *others: Tensor) -> Tensor:
    return (by_kernel if source.available(images.device) else masked_images_reference)(images, *others)


def _fake(images: Tensor, fills: Tensor, labels: Tensor, index: Tensor, masks: Tensor) -> Tensor:
    return images.new_empty(index.shape[0], *images.shape[1:]).contiguous(memory_format=device.memory_format(images))


torch.library.impl("gpulime::masked_images", "default")(masked_images_reference)
torch.library.impl("gpulime::masked_images", "cpu")(_on_cpu)
torch.library.impl("gpulime::masked_images", "cuda")(_on_cuda)
torch.library.register_fake("gpulime::masked_images")(_fake)


def _empty(b: int, c: int, h: int, w: int, images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Memory for rows (b, c, h, w) like ``images``."""
    if memory_format is torch.channels_last:
        return device.empty(b, h, w, c, dtype=images.dtype, device=images.device).permute(0, 3, 1, 2)
    return device.empty(b, c, h, w, dtype=images.dtype, device=images.device)
