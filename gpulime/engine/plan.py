"""Plan: the masks of a flight drawn beforehand, for designs and for inputs that need different numbers of samples."""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 16  # parts, up to which masks of an input are compared with each other


class Plan:
    """Masks of n inputs, and the places of a flight that predict them: equal masks of an input share a place.

    Attributes
    ----------
    masks : (n, s, k) bool; rows from an input's ``used`` on have no meaning
    used : list of n ints, samples of each input, sample 0 included
    exhaustive : list of n bools, True if an input's masks are all that exist
    index, samples : (places,) int64, input and sample of each place; the first n are sample 0 of each input
    source : (n, s) int64, the place of each sample
    """

    def __init__(self, masks: Tensor, counts: Tensor, used: list[int], exhaustive: list[bool]) -> None:
        n, device = len(masks), masks.device
        valid = torch.arange(masks.shape[2], device=device) < counts[:, None]
        self.counts, self.valid, self.exhaustive = counts, valid[:, None], exhaustive
        self.masks, self.used = masks & self.valid, [1] * n
        self.index, self.samples = torch.arange(n, device=device), torch.zeros(n, dtype=torch.int64, device=device)
        self.source = self.index[:, None].repeat(1, masks.shape[1])
        self.extend(masks[:, :0], used)

    def extend(self, more: Tensor, used: list[int]) -> None:
        """Append masks (n, rows, k) if there are not enough, and predict the samples of each input up to ``used``."""
        n, device = len(self.used), self.index.device
        self.masks = torch.cat([self.masks, more & self.valid], 1)
        self.source = torch.cat([self.source, self.index[:n, None].expand(-1, more.shape[1])], 1)
        sample = torch.arange(self.masks.shape[1], device=device).expand(n, -1)
        begin, end = torch.tensor([self.used, used], device=device)[..., None]
        wanted = (sample >= begin) & (sample < end)
        input, number = (tensor[wanted] for tensor in (self.index[:n, None].expand_as(sample), sample))
        first, place = self._representatives(input, number)
        self.source = self.source.masked_scatter(wanted, len(self.index) + place)
        self.index = torch.cat([self.index, input[first]])
        self.samples = torch.cat([self.samples, number[first]])
        self.used = used

    def _representatives(self, index: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The first of each set of equal masks of an input, and the set of each mask, both as positions (m,)."""
        positions = torch.arange(len(index), device=index.device)
        small = self.counts[index] <= FEW
        if not bool(small.any()):
            return positions, positions
        masks = self.masks[index, samples, :FEW].long()
        code = (masks << torch.arange(masks.shape[1], device=index.device)).sum(-1)
        most = self.masks.shape[1]
        code = torch.where(small, most + code, samples) + index * (most + 2**FEW)
        found, place = code.unique(return_inverse=True)
        return positions.new_full(found.shape, len(index)).scatter_reduce(0, place, positions, "amin"), place
