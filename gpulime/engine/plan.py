"""Plan: the masks of a flight drawn beforehand, for designs and for inputs that need different numbers of samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FEW = 16  # parts, up to which an input may have equal masks


@dataclass
class Plan:
    """Masks of n inputs, and the places of a flight that predict them: equal masks of an input share a place.

    Attributes
    ----------
    masks : (n, s, k) bool; rows from an input's ``used`` on have no meaning
    used : list of n ints, samples of each input, sample 0 included
    exhaustive : list of n bools, True if the masks are all that exist
    index, samples : (places,) int64, input and sample of each place; the first n are sample 0 of each input
    source : (n, s) int64, the place of each sample
    """

    masks: Tensor
    used: list[int]
    exhaustive: list[bool]
    index: Tensor
    samples: Tensor
    source: Tensor

    @classmethod
    def of(cls, masks: Tensor, counts: Tensor, used: list[int], exhaustive: list[bool]) -> Plan:
        """Plan the samples 0 to ``used`` of each input."""
        n, s, k = masks.shape
        first = torch.arange(n, device=masks.device)
        plan = cls(masks[:, :1], [1] * n, exhaustive, first, torch.zeros_like(first), first[:, None])
        plan.add(masks[:, 1:], counts, used)
        return plan

    def add(self, masks: Tensor, counts: Tensor, used: list[int]) -> None:
        """Append masks (n, more, k), of which each input takes some: up to ``used`` in all."""
        n, start = self.source.shape
        device = masks.device
        sample = torch.arange(start, start + masks.shape[1], device=device).expand(n, -1)
        limits = torch.tensor([self.used, used], device=device)[..., None]
        wanted = (sample >= limits[0]) & (sample < limits[1])
        index = torch.arange(n, device=device)[:, None].expand_as(sample)
        number, place = _representatives(masks, counts, index, sample, wanted)
        begin = len(self.index)
        self.index = torch.cat([self.index, index[wanted][number]])
        self.samples = torch.cat([self.samples, sample[wanted][number]])
        self.source = torch.cat([self.source, torch.zeros_like(sample).masked_scatter(wanted, begin + place)], 1)
        self.masks, self.used = torch.cat([self.masks, masks], 1), used


def _representatives(masks: Tensor, counts: Tensor, index: Tensor, sample: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """One of each set of equal masks among the wanted ones, as their numbers, and for each wanted mask its set's position."""
    numbers = torch.arange(int(wanted.sum()), device=masks.device)
    small = counts <= FEW
    if not bool(small.any()):
        return numbers, numbers
    k = min(FEW, masks.shape[2])
    bits = (masks[..., :k].long() << torch.arange(k, device=masks.device)).sum(-1)
    code = torch.where(small[:, None], bits, 2**FEW + sample) + index * (2**FEW + int(sample.max()) + 1)
    found, place = code[wanted].unique(return_inverse=True)
    first = torch.full((len(found),), len(numbers), device=masks.device).scatter_reduce_(0, place, numbers, "amin")
    return first, place
