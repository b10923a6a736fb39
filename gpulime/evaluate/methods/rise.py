"""RISE: the mean of smooth random masks, weighted by the outputs for masked images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpulime import arrays
from gpulime import device as devices
from gpulime.engine.batch_size import BatchSize, Kind
from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked, Wanted
from gpulime.engine.masks import Bernoulli
from gpulime.engine.model import Activation, Predictor
from gpulime.engine.queue import Queue
from gpulime.errors import whole
from gpulime.evaluate.methods.method import OWN_ACTIVATION, chosen, prepared

SHIFT_BITS = 16  # of a mask's shift along each side
MASK_ENTRIES = 2**24  # of masks at once, when they are averaged


@dataclass(eq=False)
class SmoothMasked(Masked):
    """Images that are multiplied by smooth masks: grids of cells, upsampled bilinearly and shifted.

    The first columns of a mask are the cells, row by row; the last ones are the bits of the shift down and across. So rows are
    a function of the engine's masks, and have their properties.

    Attributes
    ----------
    images : (n, c, h, w), normalised, in the model's dtype; a hidden pixel is 0
    keys, wanted : as for `gpulime.engine.masked.Masked`
    cells : int, along each side
    """

    images: Tensor
    keys: Tensor
    wanted: Wanted
    cells: int = 7

    one, parts = "image", "cells"

    def __post_init__(self) -> None:
        self.k = self.most = self.cells**2 + 2 * SHIFT_BITS
        self.counts = torch.full_like(self.keys, self.k)
        self.kind: Kind = tuple(self.images.shape[1:]), self.images.dtype, self.images.device
        self._ramps = [_ramps(self.cells, side, self.images.device) for side in self.images.shape[2:]]

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Rows (b, c, h, w): images times masks."""
        rows = self.images[index] * self.smooth(masks)[:, None].to(self.images.dtype)
        return rows.contiguous(memory_format=devices.memory_format(self.images))

    def smooth(self, masks: Tensor) -> Tensor:
        """Smooth masks (b, h, w) float32 in [0, 1] from masks (b, k) bool."""
        cells, *bits = masks.split([self.cells**2, SHIFT_BITS, SHIFT_BITS], 1)
        down, across = map(_shifted, self._ramps, self.images.shape[2:], bits)
        smooth: Tensor = down @ cells.view(-1, self.cells, self.cells).float() @ across.mT
        return smooth

    def part(self, where: slice) -> SmoothMasked:
        """Select images by a slice."""
        return replace(self, images=self.images[where], keys=self.keys[where], wanted=self.wanted.part(where))


@dataclass(frozen=True)
class Rise:
    """RISE, through the engine's queue.

    The sum of smooth masks, each weighted by the label's output for the image times the mask, divided by the number of masks
    and by 1/2, the probability of a cell to be shown.

    Parameters
    ----------
    n_masks : int
        4000 by default, as the paper takes for VGG-16.
    cells : int
        Cells of a mask along each side.
    activation : "own", or as for `gpulime.Explainer`
        "own" is that of the explainer whose images are compared or evaluated; softmax if there is none.
    seed : int
    batch_size : int or "auto"

    References
    ----------
    Petsiuk, Das and Saenko, "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018.
    """

    n_masks: int = 4000
    cells: int = 7
    activation: Activation = OWN_ACTIVATION
    seed: int = 0
    batch_size: int | str = "auto"

    def __call__(self, model: Any, images: Tensor, labels: Tensor, keys: Any = None) -> Tensor:
        """Explain, as `Method` says; ``keys`` (n,) int64 seed the masks of each image, 0 by default."""
        s = 1 + whole("n_masks", self.n_masks, 1)  # the engine's sample 0 is the image
        with prepared(model, images, labels) as (_, inputs, wanted):
            predictor = Predictor(model, chosen(self.activation), "float32", inputs.device)
            rows = inputs.contiguous(memory_format=predictor.memory_format)
            seeds = torch.zeros(len(rows), dtype=torch.int64) if keys is None else arrays.keys(keys, len(rows))
            masked = SmoothMasked(rows, seeds.to(rows.device), Wanted(wanted, top=False), whole("cells", self.cells, 1))
            queue = Queue(predictor, BatchSize(self.batch_size), _mean)
            maps: list[Tensor] = []
            for i in range(len(rows)):
                maps += queue.put(Flight(masked.part(slice(i, i + 1)), s, Bernoulli(self.seed, s)), i == len(rows) - 1)
            return torch.stack(maps)


def _mean(flight: Flight) -> Tensor:
    """Weighted mean of the masks of one image, (l, h, w)."""
    inputs = flight.inputs
    assert isinstance(inputs, SmoothMasked)
    h, w = inputs.images.shape[2:]
    outputs, total = flight.outputs()[0], torch.zeros((), device=inputs.images.device)
    samples = torch.arange(1, flight.n_samples, device=outputs.device)
    with devices.exact(outputs.device):
        for some in samples.split(max(1, MASK_ENTRIES // (h * w))):
            masks = inputs.smooth(flight.draw(torch.zeros_like(some), some))
            total = total + torch.einsum("sl,shw->lhw", outputs[some].float(), masks)
        return 2 * total / len(samples)


def _ramps(cells: int, side: int, device: torch.device) -> Tensor:
    """Bilinear upsampling of cells as a matrix (side + cell, cells), with a cell more for the shift."""
    cell = -(-side // cells)
    upsampled = torch.nn.functional.interpolate(torch.eye(cells, device=device)[None], size=(cells + 1) * cell, mode="linear")
    return upsampled[0].T[: side + cell]


def _shifted(ramps: Tensor, side: int, bits: Tensor) -> Tensor:
    """Matrices (b, side, cells) for shifts that are uniform over the pixels of a cell, from their bits (b, 16)."""
    places = torch.arange(max(side, SHIFT_BITS), device=bits.device)
    number = (bits.long() << places[:SHIFT_BITS]).sum(1)
    shift = number * (len(ramps) - side) >> SHIFT_BITS
    return ramps[shift[:, None] + places[:side]]
