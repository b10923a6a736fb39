"""Planned flight: inputs in the queue whose masks are drawn beforehand, so that equal ones are predicted once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked
from gpulime.engine.masks import Sampler
from gpulime.engine.plan import FEW, Plan

SHARE = 2  # masks a sample up to which samples of an input are compared: with more, fewer than one in five has an equal


@dataclass
class PlannedFlight(Flight):
    """Inputs in the queue with planned masks; its places are those of the plan."""

    plan: Plan = field(kw_only=True)

    @classmethod
    def distinct(cls, inputs: Masked, n_samples: int, sampler: Sampler, top_labels: int) -> Self:
        """Draw all masks, and predict equal ones of an input once."""
        n, device = len(inputs), inputs.counts.device
        index, samples = torch.arange(n, device=device)[:, None], torch.arange(n_samples, device=device)
        masks = inputs.draw(sampler, index, samples)
        plan = Plan(masks, inputs.counts, inputs.sizes, [n_samples] * n, [False] * n)
        return cls(inputs, n_samples, sampler, top_labels, plan=plan)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.size = len(self.plan.index)

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Input and sample of the places ``start`` to ``stop``."""
        return self.plan.index[start:stop], self.plan.samples[start:stop]

    def draw(self, index: Tensor, samples: Tensor) -> Tensor:
        """Masks (..., k) bool of inputs and samples."""
        return self.plan.masks[index, samples]

    def _columns(self) -> Tensor:
        return self.labels[self.plan.index[self.n :]]

    def outputs(self, where: slice = slice(None)) -> Tensor:
        """Outputs (m, s, l) of some inputs, by default of all, once the flight is complete."""
        return torch.cat([self.first, self.rest])[self.plan.source[where]]

    @property
    def masks(self) -> Tensor:
        """Masks (n, s, k) bool."""
        return self.plan.masks


def has_equal_masks(inputs: Masked, n_samples: int) -> bool:
    """Tell if an input has so few parts that many of its samples have equal masks, and therefore equal rows.

    On a GPU all inputs must, since the host then waits for the masks.
    """
    size = int(inputs.sizes.max() if inputs.counts.is_cuda else inputs.sizes.min())
    return inputs.by_mask and size <= FEW and 2**size <= SHARE * n_samples
