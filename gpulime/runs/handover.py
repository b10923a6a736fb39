"""What a process that reads images hands over: small images of one shape in one piece, since each piece has its price.

A tensor goes from process to process by a connection of its own, which takes longer than copying a small image.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpulime.runs.loader import Read

SMALL_BYTES = 1 << 20  # an image; larger ones are not copied


@dataclass(frozen=True)
class Handover:
    """Reads that were taken apart: the images of those that have one are ``pieces``, (i, c, h, w) each, in their order."""

    reads: list[Read]
    pieces: list[Tensor]

    def together(self) -> list[Read]:
        """The reads as they were."""
        images = itertools.chain.from_iterable(self.pieces)
        return [replace(read, pixels=next(images)) if read.error is None else read for read in self.reads]


def apart(reads: Sequence[Read]) -> Handover:
    """Reads without their images, and these in as few pieces as their shapes allow."""
    images = [read.pixels for read in reads if read.pixels is not None]
    pieces: list[Tensor] = []
    for (_, _, small), group in itertools.groupby(images, _kind):
        alike = list(group)
        pieces += [torch.stack(alike)] if small else [image[None] for image in alike]
    return Handover([replace(read, pixels=None) for read in reads], pieces)


def _kind(image: Tensor) -> tuple[torch.Size, torch.dtype, bool]:
    return image.shape, image.dtype, image.nbytes <= SMALL_BYTES
