"""Batches of rows that differ in length: sorted, so that little is padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.errors import check


@dataclass
class Batches:
    """Passes many rows to a function, the longest first, a batch at a time.

    Attributes
    ----------
    most : int, the most rows in a batch; falls if memory runs out
    entries : int or None, the most rows times the length of the longest one, as far as a batch has more than one row
    """

    most: int
    entries: int | None = None

    def __call__(self, function: Callable[[Tensor], Tensor], lengths: Tensor) -> Tensor:
        """Outputs (m, classes) for m rows.

        Parameters
        ----------
        function : callable, places (b,) int64 of some rows -> outputs (b, classes)
        lengths : (m,) int64
        """
        order = lengths.argsort(descending=True, stable=True)
        found = [self._outputs(function, places) for places in self._split(order, lengths)]
        columns = [outputs.shape[1] for outputs in found]
        other = next((b for b in columns if b != columns[0]), None)
        check(other is None, f"the model must return (b, {columns[0]}) for each batch, as at first; got (b, {other})")
        together = torch.cat(found)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return together[back.to(together.device)]

    def _split(self, order: Tensor, lengths: Tensor) -> Iterator[Tensor]:
        if self.entries is None:
            yield from order.split(self.most)
            return
        sizes, start = lengths[order].tolist(), 0
        while start < len(sizes):
            b = min(self.most, max(1, self.entries // max(1, sizes[start])))
            yield order[start : start + b]
            start += b

    def _outputs(self, function: Callable[[Tensor], Tensor], places: Tensor) -> Tensor:
        """Outputs of a batch; in halves if memory runs out."""
        if len(places) > self.most:
            return torch.cat([self._outputs(function, half) for half in places.split(self.most)])
        try:
            return function(places)
        except (RuntimeError, MemoryError) as error:
            if len(places) == 1 or not devices.out_of_memory(error):
                raise
        self.most = len(places) // 2  # outside the handler, so that the failed call's tensors are gone
        return self._outputs(function, places)
