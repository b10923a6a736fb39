"""Chosen places: masks of the caller's choice, as many for each input as it needs, predicted without a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked

UNDEFINED, ALONE = -1, -2  # in place of the class with the highest output: an output is NaN; there is only one


@dataclass(frozen=True)
class Answers:
    """Outputs of the places of a flight: first every input as it is, then each chosen mask.

    Attributes
    ----------
    outputs : (n + p, l), of the labels of each place's input
    best : (n + p,) int64, the class with the highest output, or `UNDEFINED` or `ALONE`
    """

    outputs: Tensor
    best: Tensor


@dataclass
class ChosenFlight(Flight):
    """Inputs in the queue with chosen masks; ``n_samples`` and ``sampler`` of a flight have no meaning here.

    Attributes
    ----------
    index : (n + p,) int64, the input of each place; the first n places are the inputs as they are
    shown : (1 + p, k) bool, their masks: one for all inputs as they are, then each chosen mask
    best : (n + p,) int64, as in `Answers`
    """

    index: Tensor = field(kw_only=True)
    shown: Tensor = field(kw_only=True)
    best: Tensor = field(init=False)

    @classmethod
    def of(cls, inputs: Masked, index: Tensor, masks: Tensor) -> Self:
        """Choose masks (p, k) bool of the inputs ``index`` (p,) int64; one input's masks best follow one another."""
        every = torch.arange(len(inputs), device=index.device)
        # Columns beyond an input's count have no meaning; they are cut or added as these inputs have them.
        shown = torch.nn.functional.pad(masks, (0, inputs.k - masks.shape[1], 1, 0), value=True)
        return cls(inputs, 1, shown, index=torch.cat([every, index]), shown=shown)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.size, self.best = len(self.index), torch.empty_like(self.index)

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Input of the places ``start`` to ``stop``, and the number of each one's mask, which is 0 for an input as it is."""
        place = torch.arange(start, stop, device=self.index.device)
        return self.index[start:stop], (place - self.n + 1).clamp(min=0)

    def draw(self, index: Tensor, samples: Tensor) -> Tensor:
        """Masks (..., k) bool."""
        return self.shown[samples]

    def receive(self, start: int, outputs: Tensor) -> None:
        """Keep the outputs (b, classes) of the places from ``start`` on for the labels, and the class with the highest."""
        best = outputs.argmax(1).masked_fill(outputs.isnan().any(1), UNDEFINED)
        self.best[start : start + len(outputs)] = best if outputs.shape[1] > 1 else ALONE
        super().receive(start, outputs)

    def _begin(self, first: Tensor) -> None:
        super()._begin(first)
        self.columns = self.labels[self.index[self.n :]]

    def answers(self) -> Answers:
        """The outputs, once the flight is complete."""
        return Answers(torch.cat([self.first, self.rest]), self.best)
