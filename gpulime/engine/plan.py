"""Plan: the masks of a flight drawn beforehand, for designs and for inputs that need different numbers of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from gpulime import device as devices

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

    def __init__(
        self, masks: Tensor, counts: Tensor, sizes: Tensor, used: list[int], exhaustive: list[bool], repeats: bool = True
    ) -> None:
        """``counts`` and ``sizes`` are the parts (n,) of each input, on the device of the masks and on the CPU.

        Without ``repeats`` hardly any masks are equal. With them, the host waits for a GPU's masks if an input has few parts.
        """
        n, self.device, self.repeats = len(masks), masks.device, repeats
        valid = torch.arange(masks.shape[2], device=self.device) < counts[:, None]
        self.sizes, self.valid, self.exhaustive = sizes, valid[:, None], exhaustive
        self.masks, self.used = masks & self.valid, [1] * n
        # Places are found on the CPU, so that the host does not wait for a GPU.
        self._index, self._samples = torch.arange(n), torch.zeros(n, dtype=torch.int64)
        self._source = self._index[:, None].repeat(1, masks.shape[1])
        self.extend(masks[:, :0], used)

    def extend(self, more: Tensor, used: list[int]) -> None:
        """Append masks (n, rows, k) if there are not enough, and predict the samples of each input up to ``used``."""
        n = len(self.used)
        self.masks = torch.cat([self.masks, more & self.valid], 1)
        source = torch.cat([self._source, self._index[:n, None].expand(-1, more.shape[1])], 1)
        sample = torch.arange(self.masks.shape[1]).expand(n, -1)
        begin, end = torch.tensor([self.used, used])[..., None]
        wanted = (sample >= begin) & (sample < end)
        input, number = wanted.nonzero().unbind(1)
        first, place = self._representatives(input, number)
        self._source = source.masked_scatter(wanted, len(self._index) + place)
        self._index = torch.cat([self._index, input[first]])
        self._samples = torch.cat([self._samples, number[first]])
        self.index, self.samples, self.source = (
            devices.sent(tensor, self.device) for tensor in (self._index, self._samples, self._source)
        )
        self.used = used

    def _representatives(self, index: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The first of each set of equal masks of an input, and the set of each mask, both as positions (m,)."""
        positions = torch.arange(len(index))
        small = self.sizes[index] <= FEW
        if not (self.repeats and bool(small.any())):
            return positions, positions
        bits = self.masks[..., :FEW].long() << torch.arange(min(FEW, self.masks.shape[2]), device=self.device)
        most = self.masks.shape[1]
        code = torch.where(small, most + bits.sum(-1).cpu()[index, samples], samples) + index * (most + 2**FEW)
        found, place = code.unique(return_inverse=True)
        return positions.new_full(found.shape, len(index)).scatter_reduce(0, place, positions, "amin"), place
