"""Hidden columns: rows of a table some of whose columns show a fill, in place of samples of a neighbourhood."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from gpulime.engine.masked import Masked, Wanted
from gpulime.tables.batch import AHEAD, Rows, Tables, highest
from gpulime.tables.sparse_batch import MaskedSparse, SparseRows, SparseTables


@dataclass(eq=False)
class HiddenColumns(Masked):
    """Rows whose columns are shown or replaced by a fill."""

    given: Tensor  # (n, d) float64
    fill: Tensor  # (d,) float64
    dtype: torch.dtype  # of the model's rows
    keys: Tensor
    wanted: Wanted

    one, parts = "row", "columns"

    def __post_init__(self) -> None:
        n, self.k = self.given.shape
        self.most, self.counts = self.k, torch.full((n,), self.k, device=self.given.device)
        self.kind = (self.k,), self.dtype, self.given.device

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Compose rows (b, d)."""
        return torch.where(masks, self.given[index], self.fill).to(self.dtype)

    def part(self, where: slice) -> HiddenColumns:
        """Select rows by a slice."""
        return HiddenColumns(self.given[where], self.fill, self.dtype, self.keys[where], self.wanted.part(where))


@dataclass(eq=False)
class HidingTables:
    """Turns batches of rows into rows with hidden columns."""

    tables: Tables
    fill: Tensor  # (d,) float64

    def masked(self, batch: Rows) -> Iterator[HiddenColumns]:
        """Prepare a few rows at a time."""
        predictor, together = self.tables.predictor, max(1, AHEAD // len(self.fill))
        for start in range(0, len(batch), together):
            where = slice(start, start + together)
            given = torch.from_numpy(batch.values[where])
            given = given.to(predictor.device(given))
            dtype = predictor.dtype(given) if predictor.module is not None else torch.float64
            keys = torch.zeros(len(given), dtype=torch.int64) if batch.keys is None else batch.keys[where]
            labels = None if batch.labels is None else batch.labels[where].to(given.device)
            wanted = Wanted(labels, labels is None, highest(batch.labels))
            yield HiddenColumns(given, self.fill.to(given.device), dtype, keys.to(given.device), wanted)


class HiddenEntries(MaskedSparse):
    """Sparse rows whose entries are shown or 0."""

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Compose rows of the model's input (b, 1 + k): the row's number, and the values of its entries."""
        return torch.cat([self.numbers[index][:, None], self.values[index, 0] * masks], 1)


class HidingSparse:
    """Turns batches of sparse rows into rows with hidden entries."""

    def __init__(self, tables: SparseTables) -> None:
        self.tables = copy(tables)
        self.tables.n_samples = 1  # the row itself

    def masked(self, batch: SparseRows) -> Iterator[HiddenEntries]:
        """Prepare a few rows at a time."""
        for one in self.tables.masked(batch):
            yield HiddenEntries(one.values, one.scale, one.counts, one.numbers, one.keys, one.wanted, one.explain)
