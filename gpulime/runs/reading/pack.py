"""Pack pixels and label maps of a worker into few tensors, since each tensor has a cost.

A tensor crosses processes through a connection of its own, which takes longer than copying a small image. It lies in
shared memory, which may be scarce; the message beside it is to be short.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpulime.device import out_of_memory
from gpulime.errors import check
from gpulime.runs.reading.read import Read

SMALL_BYTES = 1 << 20  # the most of a piece; a larger image is a piece of its own, and not copied
LABEL_DTYPES: tuple[type[np.integer[Any]], ...] = np.uint8, np.int16, np.int32  # label maps use the first that is wide enough


@dataclass(frozen=True)
class Packed:
    """Tensors of some of the reads: ``places`` are these reads, ``pieces`` their tensors in this order, (i, ...) each."""

    places: list[int]
    pieces: list[Tensor]

    @classmethod
    def of(cls, tensors: Iterable[Tensor | None]) -> Packed:
        """Pack all tensors that are not None, in as few pieces as their shapes and `SMALL_BYTES` allow."""
        there = {place: tensor for place, tensor in enumerate(tensors) if tensor is not None}
        pieces: list[Tensor] = []
        for (_, _, nbytes), group in itertools.groupby(there.values(), _kind):
            alike, most = list(group), max(1, SMALL_BYTES // max(1, nbytes))
            for start in range(0, len(alike), most):
                pieces += _stacked(alike[start : start + most])
        return cls(list(there), pieces)

    def unpacked(self, n: int) -> list[Tensor | None]:
        """Unpack n tensors.

        Raises
        ------
        GpulimeError
            If the pieces hold more or fewer tensors than were packed.
        """
        tensors = list(itertools.chain.from_iterable(self.pieces))
        check(
            len(tensors) == len(self.places),
            lambda: f"the pieces must hold {len(self.places)} tensors, as many as were packed; got {len(tensors)}",
        )
        there = dict(zip(self.places, tensors, strict=True))
        return [there.get(place) for place in range(n)]


@dataclass(frozen=True)
class Handover:
    """Packed reads: the reads without tensors, their pixels, and their label maps."""

    reads: list[Read]
    pixels: Packed
    maps: Packed

    def together(self) -> list[Read]:
        """Restore the reads."""
        pixels, maps = self.pixels.unpacked(len(self.reads)), self.maps.unpacked(len(self.reads))
        return [
            replace(read, pixels=image, segments=None if labels is None else labels.numpy().astype(np.int64))
            for read, image, labels in zip(self.reads, pixels, maps, strict=True)
        ]


def apart(reads: Sequence[Read]) -> Handover:
    """Pack reads."""
    return Handover(
        [replace(read, pixels=None, segments=None) for read in reads],
        Packed.of(read.pixels for read in reads),
        Packed.of(None if read.segments is None else _narrow(read.segments) for read in reads),
    )


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, int]:
    return tensor.shape, tensor.dtype, tensor.nbytes


def _stacked(alike: list[Tensor]) -> list[Tensor]:
    """Stack tensors to one piece; without memory for it, one piece each."""
    try:
        return [torch.stack(alike)] if len(alike) > 1 else [_own(alike[0])[None]]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return [tensor[None] for tensor in alike]


def _own(tensor: Tensor) -> Tensor:
    """Copy a tensor that is a view of a larger storage, which would be sent as a whole."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _narrow(labels: npt.NDArray[np.int64]) -> Tensor:
    low, high = labels.min(initial=0), labels.max(initial=0)
    fitting = (dtype for dtype in LABEL_DTYPES if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)
    try:
        return torch.from_numpy(labels.astype(next(fitting, np.int64)))
    except MemoryError:
        return torch.from_numpy(labels)
