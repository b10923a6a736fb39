"""Staircase masks: units are hidden, or shown, one after the other by their rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gpulime.engine.chosen import Answers

DELETION, INSERTION = CURVES = ("deletion", "insertion")


@dataclass(frozen=True)
class Staircase:
    """The masks of both curves of some inputs, each once, and the place of each point of a curve among the outputs.

    Attributes
    ----------
    index : (p,) int64, the input of each mask
    masks : (p, k) bool
    places : (n, curves, l, m + 1) int64, from 0 for the inputs as they are, from n for the masks
    """

    index: Tensor
    masks: Tensor
    places: Tensor

    @classmethod
    def of(cls, ranks: Tensor, hidden: Tensor, counts: Tensor, first: Tensor, curves: tuple[str, ...]) -> Staircase:
        """Plan the masks.

        Parameters
        ----------
        ranks : (n, l, k) int64
            Rank of each unit for each label, 0 for the most important.
        hidden : (n, m + 1) int64
            Units that each step has hidden or shown, from 0 up to an input's count, which may repeat at the end.
        counts : (n,) int64
        first : (n, l) int64
            The first place of each label in its row, since a label may repeat.
        curves : tuple
            `DELETION`, `INSERTION` or both, which share the empty input.
        """
        (n, l, k), m, device = ranks.shape, hidden.shape[1] - 1, ranks.device
        fresh = first == torch.arange(l, device=device)
        inner = (hidden > 0) & (hidden < counts[:, None])
        wanted = inner[:, None, None] & fresh[:, None, :, None]
        wanted = wanted.expand(n, len(curves), l, m + 1).clone()
        empty = m if curves[0] == DELETION else 0
        wanted[:, 0, 0, empty] = True
        i, c, j, t = wanted.nonzero(as_tuple=True)
        steps, rank = hidden[i, t, None], ranks[i, j]
        deletes = torch.tensor([curve == DELETION for curve in curves], device=device)
        masks = torch.where(deletes[c, None], rank >= steps, rank < steps)
        masks |= torch.arange(k, device=device) >= counts[i, None]

        place = (wanted.flatten().cumsum(0) - 1 + n).view_as(wanted)
        nothing = place[:, :1, :1, empty, None]
        place = place.gather(2, first[:, None, :, None].expand_as(place))
        whole = torch.arange(n, device=device).view(n, 1, 1, 1)
        start, end = (hidden[:, None, None] == 0), (hidden == counts[:, None])[:, None, None]
        deletes = deletes.view(1, -1, 1, 1)
        place = place.where(~start, whole.where(deletes, nothing))
        place = place.where(~end, nothing.where(deletes, whole))
        return cls(i, masks, place)

    def read(self, answers: Answers) -> tuple[Tensor, Tensor]:
        """Outputs, and the class with the highest one, of each point of a curve: two (n, curves, l, m + 1)."""
        l = self.places.shape[2]
        label = torch.arange(l, device=self.places.device).view(1, 1, l, 1)
        return answers.outputs[self.places, label], answers.best[self.places]
