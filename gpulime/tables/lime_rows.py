"""Neighbourhoods of one row in lime's form, and the row as a masked input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import pairwise_distances
from torch import Tensor

from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked, Wanted
from gpulime.tables import neighbourhood
from gpulime.tables.bins import Array, Random


class Frequencies(NamedTuple):
    """The values of a column in the training data, and how often each occurs; the frequencies add up to 1."""

    values: Sequence[float]
    frequencies: Array


class Neighbourhood(NamedTuple):
    """s samples of a row; sample 0 is the row itself."""

    data: Array  # (s, d): 1 or 0 in divided columns, if the value is the row's or not; else values
    inverse: Array  # (s, d): values for the model


def discretized(random: Random, discretizer: Any, columns: Sequence[Frequencies], row: Array, s: int) -> Neighbourhood:
    """A neighbourhood whose columns are all divided, by the bins of ``discretizer`` or into categories."""
    drawn = _chosen(random, columns, s)
    data = _equal(drawn, np.asarray(discretizer.discretize(row), dtype=np.float64)).astype(np.float64)
    data[0] = 1
    inverse = np.empty((s, len(row)))
    inverse[1:] = discretizer.undiscretize(drawn[1:])
    inverse[0] = row
    return Neighbourhood(data, inverse)


def standardised(
    random: Random, mean: Array, scale: Array, categorical: Sequence[int], columns: Sequence[Frequencies], row: Array, s: int
) -> Neighbourhood:
    """A neighbourhood of normal numbers, except in ``categorical`` columns."""
    data = neighbourhood.gaussian(random, s, mean, scale)
    data[0] = row
    inverse = data.copy()
    if categorical:
        which = list(categorical)
        drawn = _chosen(random, columns, s)
        data[:, which] = _equal(drawn, row[which])
        inverse[1:, which] = drawn[1:]
        data[0, which] = 1
    return Neighbourhood(data, inverse)


def _chosen(random: Random, columns: Sequence[Frequencies], s: int) -> Array:
    """Values (s, d) of columns, chosen by their frequencies."""
    numbers = neighbourhood.chosen(random, [neighbourhood.cumulative(column.frequencies) for column in columns], s)
    values = [np.asarray(column.values)[number] for column, number in zip(columns, numbers, strict=True)]
    return np.array(values, dtype=np.float64).T


def _equal(drawn: Array, row: Array) -> Array:
    """Tell which values (s, d) are the row's; a missing value is equal to another."""
    equal: Array = drawn == row
    missing = np.isnan(row)
    if missing.any():
        equal[:, missing] = np.isnan(drawn[:, missing])
    return equal


def distances(rows: Any, metric: Any) -> Array:
    """Distances (s,) from rows (s, d), an array or a CSR matrix, to row 0; ``metric`` as in scikit-learn."""
    found: Array
    if metric == "euclidean" and isinstance(rows, np.ndarray):
        off = rows - rows[0]
        found = np.sqrt(np.einsum("sd,sd->s", off, off))
    else:
        found = pairwise_distances(rows, rows[:1], metric=metric).ravel()
    return found


class LimeRow(Masked):
    """One row with its neighbourhood; the surrogate is fitted outside the engine, so masks have no meaning.

    Parameters
    ----------
    samples : (s, ...) tensor, the rows of the model's input
    number : int, the row's number in its call
    wanted : Wanted
    """

    one, parts = "row", "columns"

    def __init__(self, samples: Tensor, number: int, wanted: Wanted) -> None:
        self.samples, self.wanted = samples, wanted
        self.counts, self.k, self.most = torch.ones(1, dtype=torch.int64, device=samples.device), 1, 1
        self.kind = tuple(samples.shape[1:]), samples.dtype, samples.device
        self.keys = torch.full((1,), number, device=samples.device)

    def part(self, where: slice) -> LimeRow:
        """The row itself."""
        return self


class LimeFlight(Flight):
    """One row in the queue, whose samples are ready."""

    inputs: LimeRow

    def rows(self, start: int, stop: int) -> Tensor:
        """Samples ``start`` to ``stop``; of a single input, these are its places."""
        return self.inputs.samples[start:stop]
