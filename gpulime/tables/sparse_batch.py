"""Batches of sparse rows: only the entries that are not 0 are varied and explained, each row's around its own columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gpulime.engine.masked import Masked, Wanted
from gpulime.engine.masks import Sampler
from gpulime.errors import GpulimeError, about, check
from gpulime.explanations.rows import ExplainedRows
from gpulime.tables import lime_names, neighbourhood
from gpulime.tables.batch import AHEAD, highest
from gpulime.tables.bins import Array
from gpulime.tables.columns import Columns
from gpulime.tables.sparse import SparseFunction, entries, is_sparse


@dataclass(frozen=True)
class SparseRows:
    """A batch of n sparse rows, each the columns and values (count,) of its entries; labels and keys as in `Rows`."""

    entries: Sequence[tuple[Array, Array]]
    labels: Tensor | None = None
    keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self.entries)


class MaskedSparse(Masked):
    """Sparse rows whose parts are their entries; regressors are values divided by their columns' scales.

    Parameters
    ----------
    values : (n, s, k) float64, the samples, padded with 0; sample 0 is the row
    scale : (n, k) float64, padded with 1
    counts : (n,) int64, entries of each row
    numbers : (n,) float64, of the rows in the model's list of columns
    keys, wanted : as for every `Masked`
    explain : callable, found, numbers -> explanations
    """

    at_once = True
    one, parts = "row", "columns"

    def __init__(
        self,
        values: Tensor,
        scale: Tensor,
        counts: Tensor,
        numbers: Tensor,
        keys: Tensor,
        wanted: Wanted,
        explain: Callable[[dict[str, Any], Tensor], ExplainedRows],
    ) -> None:
        self.values, self.scale, self.counts, self.numbers, self.explain = values, scale, counts, numbers, explain
        self.k, self.most = values.shape[2], int(counts.max())
        self.kind = (1 + self.k,), torch.float64, values.device
        self.keys, self.wanted = keys, wanted
        self.origin = values[:, 0] / scale

    def draw(self, sampler: Sampler, index: Tensor, samples: Tensor) -> Tensor:
        """True for each entry of a row: no entry is hidden."""
        shape = torch.broadcast_shapes(index.shape, samples.shape)
        shown = torch.arange(self.k) < self.counts[index][..., None]
        return shown.expand(*shape, self.k)

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Rows of the model's input (b, 1 + k): the row's number, and the values of its entries."""
        return torch.cat([self.numbers[index][:, None], self.values[index, samples]], 1)

    def regressors(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Values divided by the scales."""
        return self.values[index, samples] / self.scale[index]

    def part(self, where: slice) -> MaskedSparse:
        """Select rows by a slice."""
        some = (self.values[where], self.scale[where], self.counts[where], self.numbers[where], self.keys[where])
        return type(self)(*some, self.wanted.part(where), self.explain)

    def explained(self, found: dict[str, Any]) -> ExplainedRows:
        """The explanations of these rows, with their columns and values."""
        return self.explain(found, self.numbers)


class SparseTables:
    """Turns batches of sparse rows into masked inputs.

    Parameters
    ----------
    training : CSR matrix (rows, d)
    columns : Columns
    function : SparseFunction, the model
    around : bool
        True if normal numbers are centred at the row, not at the column's mean.
    """

    def __init__(
        self,
        training: Any,
        columns: Columns,
        function: SparseFunction,
        seed: int,
        n_samples: int,
        around: bool,
        class_names: list[str] | None,
    ) -> None:
        matrix = sparse.csr_matrix(training)
        infinite = matrix.indices[~np.isfinite(matrix.data)]
        check(not len(infinite), lambda: f"training_data must be finite; it is not in column {columns.names[infinite[0]]!r}")
        scaler = StandardScaler(with_mean=False).fit(matrix)
        self.mean, self.scale = scaler.mean_, scaler.scale_
        self.columns, self.function, self.around, self.class_names = columns, function, around, class_names
        self.seed, self.n_samples = seed, n_samples

    def redrawn(self, seed: int, n_samples: int) -> SparseTables:
        """The same with other neighbourhoods."""
        made = copy(self)
        made.seed, made.n_samples = seed, n_samples
        return made

    def batch(self, inputs: Any, labels: Tensor | None, keys: Tensor | None) -> SparseRows:
        """A batch of the user's rows, a sparse matrix (n, d)."""
        d = len(self.columns)
        if not is_sparse(inputs) or inputs.shape[1] != d:
            shape = f" {tuple(inputs.shape)}" if hasattr(inputs, "shape") else ""
            raise GpulimeError(
                f"inputs must be a sparse matrix (n, {d}), as the training data; got {type(inputs).__name__}{shape}"
            )
        matrix = inputs.tocsr()
        found = []
        for i in range(matrix.shape[0]):
            with about(f"row {i}"):
                found.append(entries(matrix[[i]], d))
        return SparseRows(found, labels, keys)

    def masked(self, batch: SparseRows) -> Iterator[MaskedSparse]:
        """Draw the neighbourhoods of a few rows at a time."""
        self._rows = batch.entries
        self.function.inputs[:] = [columns for columns, _ in batch.entries]
        k = max(len(columns) for columns, _ in batch.entries)
        together = max(1, AHEAD // (self.n_samples * k))
        for start in range(0, len(batch), together):
            yield self._masked(batch, range(start, min(len(batch), start + together)), k)

    def _masked(self, batch: SparseRows, numbers: range, k: int) -> MaskedSparse:
        n, where = len(numbers), slice(numbers.start, numbers.stop)
        values, scale = np.zeros((n, self.n_samples, k)), np.ones((n, k))
        counts = torch.tensor([len(batch.entries[i][0]) for i in numbers])
        for row, of_row, i in zip(values, scale, numbers, strict=True):
            columns, given = batch.entries[i]
            key = None if batch.keys is None else int(batch.keys[i])
            random = np.random.RandomState(self.seed % 2**32) if key is None else neighbourhood.of_key(self.seed, key)
            centre = given if self.around else self.mean[columns]
            row[:, : len(columns)] = neighbourhood.gaussian(random, self.n_samples, centre, self.scale[columns])
            row[0, : len(columns)] = given
            of_row[: len(columns)] = self.scale[columns]
        labels = None if batch.labels is None else batch.labels[where]
        keys = torch.zeros(n, dtype=torch.int64) if batch.keys is None else batch.keys[where]
        wanted = Wanted(labels, labels is None, highest(batch.labels))
        tensors = torch.from_numpy(values), torch.from_numpy(scale), counts, torch.arange(*where.indices(len(batch))).double()
        return MaskedSparse(*tensors, keys, wanted, self._explain)

    def _explain(self, found: dict[str, Any], numbers: Tensor) -> ExplainedRows:
        n, k = found["coefficients"].shape[0], found["coefficients"].shape[2]
        rows = [self._rows[int(number)] for number in numbers]
        columns = torch.full((n, k), -1)
        for i, (which, _) in enumerate(rows):
            columns[i, : len(which)] = torch.from_numpy(which.astype(np.int64))
        names = [[self.columns.names[j] for j in which] for which, _ in rows]
        return ExplainedRows(
            **found,
            names=names,
            features=names,
            values=[lime_names.rounded(values) for _, values in rows],
            columns=columns,
            bounds=torch.full((n, 2), torch.nan, dtype=torch.float64),
            mode=self.function.mode,
            class_names=self.class_names,
        )


def check_settings(discretizer: Any, missing: str, categorical: Any) -> None:
    """Raise `GpulimeError` for settings that sparse rows do not have; the default discretizer is not used."""
    check(discretizer in ("quartile", None), f"sparse rows have no bins: leave discretizer as it is; got {discretizer!r}")
    check(missing == "bin", f"sparse rows have no missing values: leave missing as it is; got {missing!r}")
    check(categorical is None, "sparse rows have no categorical columns: only entries that are not 0 are varied")
