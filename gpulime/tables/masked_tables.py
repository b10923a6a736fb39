"""Rows of a table as masked inputs: the neighbourhood is drawn first, and the masks follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpulime.engine.masked import Masked, Wanted
from gpulime.engine.masks import Sampler
from gpulime.explanations.batch import Explanations

LEAST_REPEATS = 4  # samples of a group, on average, that make grouping them worthwhile


@dataclass(frozen=True)
class Neighbourhoods:
    """Samples of n rows: each has its own, or all share one (g = 1).

    Attributes
    ----------
    values : (g, s, d) float64
    cells : (g, s, d) int32 or uint8, the bin or category of each value
    """

    values: Tensor
    cells: Tensor

    def at(self, what: Tensor, index: Tensor, samples: Tensor) -> Tensor:
        """Entries (..., d) of inputs and samples, int64 tensors that broadcast to (...)."""
        if len(what) > 1:
            return what[index, samples]
        return what[0].index_select(0, samples) if samples.ndim == 1 else what[0, samples]

    def part(self, where: slice) -> Neighbourhoods:
        """The samples of some rows."""
        return self if len(self.values) == 1 else Neighbourhoods(self.values[where], self.cells[where])


@dataclass(frozen=True)
class Standard:
    """Columns that are not divided into cells, (d,): their surrogate's regressors are standardised values.

    Attributes
    ----------
    divided : (d,) bool, the other columns
    mean, scale : (d,) float64
    """

    divided: Tensor
    mean: Tensor
    scale: Tensor

    def regressors(self, values: Tensor, masks: Tensor) -> Tensor:
        """Regressors (..., d) float64: standardised values, and 0 or 1 in divided columns."""
        return torch.where(self.divided, masks.double(), (values - self.mean) / self.scale)


class MaskedTables(Masked):
    """Rows of a table; a part is a column, and it is "shown" in a sample whose value has the row's bin or category.

    Parameters
    ----------
    given : (n, d) float64, the rows
    own : (n, d) of the same dtype, their bins and categories
    around : Neighbourhoods
    dtype : dtype of the model's rows
    keys : (n,) int64
    wanted : Wanted
    standard : Standard, or None if all columns are divided
    explain : callable, found, given -> Explanations
    """

    at_once = True
    one, parts = "row", "columns"

    def __init__(
        self,
        given: Tensor,
        own: Tensor,
        around: Neighbourhoods,
        dtype: torch.dtype,
        keys: Tensor,
        wanted: Wanted,
        standard: Standard | None,
        explain: Callable[[dict[str, Any], Tensor], Explanations],
    ) -> None:
        n, d = given.shape
        self.given, self.own, self.around, self.standard, self._explain = given, own, around, standard, explain
        self.shared = len(around.values) == 1 < n
        self.sizes, self.counts = torch.full((n,), d), torch.full((n,), d, device=given.device)
        self.k = self.most = d
        self.kind = (d,), dtype, given.device
        self.keys, self.wanted = keys, wanted
        self.origin = None if standard is None else standard.regressors(given, torch.ones_like(given))

    def draw(self, sampler: Sampler, index: Tensor, samples: Tensor) -> Tensor:
        """Masks (..., d) bool: True if a sample's value has the row's bin or category, and in columns without."""
        drawn = self.around.at(self.around.cells, index, samples)
        masks = drawn == self.own[index]
        masks |= (samples == 0)[..., None]
        return masks

    def values(self, index: Tensor, samples: Tensor) -> Tensor:
        """Values (..., d) float64 of inputs and samples; sample 0 is the row itself."""
        drawn = self.around.at(self.around.values, index, samples)
        return torch.where((samples == 0)[..., None], self.given[index], drawn)

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Rows of the model's input (b, d)."""
        return self.values(index, samples).to(self.kind[1])

    def regressors(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """The masks, or standardised values."""
        return masks if self.standard is None else self.standard.regressors(self.values(index, samples), masks)

    def groups(self, s: int) -> Tensor | None:
        """Samples with the same bin or category in every column, unless most of them differ."""
        if self.standard is not None:
            return None
        cells = self.around.cells[0, 1:s].long()
        code, different = torch.zeros(s - 1, dtype=torch.int64, device=cells.device), 1
        for column in cells.unbind(1):
            values = int(column.max()) + 1
            different *= values
            if different > s // LEAST_REPEATS:
                return None
            code = code * values + column
        groups: Tensor = code.unique(return_inverse=True)[1]
        return groups

    def part(self, where: slice) -> MaskedTables:
        """Select rows by a slice."""
        wanted = self.wanted.part(where)
        some = self.given[where], self.own[where], self.around.part(where)
        return MaskedTables(*some, self.kind[1], self.keys[where], wanted, self.standard, self._explain)

    def explained(self, found: dict[str, Any]) -> Explanations:
        """The explanations of these rows, with their values and the names of their parts."""
        return self._explain(found, self.given)
