"""A table, fitted to training data: bins, frequencies, scales, and the neighbourhoods drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from gpulime.errors import GpulimeError, check, unknown
from gpulime.tables import bins, neighbourhood
from gpulime.tables.bins import Array, Random, Statistics, Values
from gpulime.tables.columns import Columns, renamed, scaler

DISCRETIZERS = ("quartile", "decile", "entropy")
MISSING = ("bin", "error")


class Drawn(NamedTuple):
    """A neighbourhood of s samples; sample 0 is a place for the row itself."""

    values: Array  # (s, d) float64
    cells: Array  # (s, d) int32, the bin or category of each value; 0 in columns that are not divided


class Table:
    """The training data as far as explanations need it.

    Parameters
    ----------
    columns : Columns
    training : (rows, d) float64, encoded
    discretizer : str, mapping, sequence or None
        "quartile", "decile", "entropy"; edges for each column; or None for columns that are not divided.
    labels : (rows,), for "entropy"
    random : numpy.random.RandomState
        Its state after the fit begins every neighbourhood that has no key.
    around : bool
        True if normal numbers are centred at the row, not at the column's mean.
    missing : str
        "bin" or "error"
    categorical_names : mapping, optional
        Column -> names of its values.

    Attributes
    ----------
    edges : dict, column -> its edges (m,)
    divided : (d,) bool, columns that are categorical or have bins
    mean, scale : (d,) float64, by which the other columns are standardised; 0 and 1 for those
    typical : (d,) float64, the mean of each numeric column, rounded if it holds integers, and the most frequent category
    """

    def __init__(
        self,
        columns: Columns,
        training: Array,
        discretizer: Any,
        labels: Any,
        random: Random,
        around: bool = False,
        missing: str = "bin",
        categorical_names: Mapping[Any, Any] | None = None,
    ) -> None:
        if missing not in MISSING:
            raise unknown("missing", missing, MISSING)
        check(not around or discretizer is None, "sample_around=True needs discretizer=None: bins are sampled as in training")
        self.columns, self.around, self.missing = columns, around, missing
        self.categorical_names = renamed("categorical_names", categorical_names, columns)
        numeric = [int(j) for j in np.flatnonzero(~columns.categorical)]
        for row, j in np.argwhere(np.isinf(training))[:1].tolist():
            raise GpulimeError(
                f"training_data must be finite, or missing; row {row} has {training[row, j]} in {columns.names[j]!r}"
            )
        self.edges = {} if discretizer is None else _edges(discretizer, columns, training, numeric, labels, random)
        self.intervals = {j: _intervals(columns.names[j], edges) for j, edges in self.edges.items()}
        self.divided = columns.categorical | np.isin(np.arange(len(columns)), list(self.edges))
        self.refuse_missing(training, "training_data")
        fitted = scaler(training)
        self.mean, self.scale = np.where(self.divided, 0.0, fitted.mean_), np.where(self.divided, 1.0, fitted.scale_)
        self._fit_cells(training)
        self.typical = np.array([self._typical(j, column) for j, column in enumerate(training.T)])
        self.state = random.get_state()

    def _fit_cells(self, training: Array) -> None:
        """The values or bins of each divided column that training has, how often, and the statistics of bins."""
        self.entries: dict[int, Array] = {}
        self.cumulative: dict[int, Array] = {}
        self.first: dict[int, int] = {}  # number of a column's first bin among all bins
        statistics = Statistics([], [], [], [])
        for j in np.flatnonzero(self.divided).tolist():
            column = training[:, j]
            if j in self.edges:
                self.first[j] = len(statistics.means)
                for entries, more in zip(statistics, bins.statistics(column, self.edges[j]), strict=True):
                    entries.extend(more)
                column = bins.find(self.edges[j], column)
            self.entries[j], counts = np.unique(column, return_counts=True)
            self.cumulative[j] = neighbourhood.cumulative(counts)
        self.statistics, self.values = statistics, Values(statistics)

    def _typical(self, j: int, column: Array) -> float:
        """The mean or the most frequent value of column j; missing values count only if there are no others."""
        known = column[~np.isnan(column)]
        if not known.size:
            return np.nan
        if self.columns.categorical[j]:
            values, counts = np.unique(known, return_counts=True)
            return float(values[counts.argmax()])
        return float(np.rint(known.mean()) if self.columns.whole[j] else known.mean())

    def refuse_missing(self, rows: Array, what: str) -> None:
        """Raise `GpulimeError` for missing values if they have no bin."""
        lacking = np.isnan(rows)
        if self.missing == "bin":
            lacking &= ~self.divided
        if lacking.any():
            row, j = (int(place[0]) for place in np.nonzero(lacking))
            why = "missing='error'" if self.missing == "error" else "discretizer=None has no bin for missing values"
            raise GpulimeError(f"{what}: row {row} has no value for {self.columns.names[j]!r}, and {why}: fill it before")

    def cells(self, rows: Array) -> Array:
        """Bin or category (n, d) int32 of each value; one that training lacks has a number that no sample has."""
        found = np.zeros(rows.shape, dtype=np.int32)
        for j, entries in self.entries.items():
            if j in self.edges:
                found[:, j] = bins.find(self.edges[j], rows[:, j])
                continue
            place = np.searchsorted(entries, rows[:, j]).clip(max=len(entries) - 1)
            known = (entries[place] == rows[:, j]) | (np.isnan(entries[place]) & np.isnan(rows[:, j]))
            found[:, j] = np.where(known, place, -1)
        return found

    def draw(self, random: Random, s: int, row: Array | None = None) -> Drawn:
        """Draw a neighbourhood in lime's order.

        Parameters
        ----------
        row : (d,), optional
            The centre of normal numbers, if they are centred at the row.
        """
        d = len(self.columns)
        values, cells = np.empty((d, s)), np.zeros((d, s), dtype=np.int32)  # by column, which is how they are drawn
        if not self.divided.all():
            centre = self.mean if row is None else np.where(self.divided, 0.0, row)
            values = np.ascontiguousarray(neighbourhood.gaussian(random, s, centre, self.scale).T)
        numbers = neighbourhood.chosen(random, list(self.cumulative.values()), s)
        for (j, entries), number in zip(self.entries.items(), numbers, strict=True):
            values[j] = entries[number]
            cells[j] = values[j] if j in self.edges else number
        for j in self.edges:
            values[j, 1:] = self._inside(random, j, cells[j, 1:])
        return Drawn(values.T, cells.T)

    def _inside(self, random: Random, j: int, cells: Array) -> Array:
        """Values of column j inside bins ``cells`` (s,); those of an integer column are integers."""
        first = self.first[j]
        drawn = self.values.draw(random, cells + first)
        if not self.columns.whole[j]:
            return drawn
        low, high = (np.floor(np.array(ends)[cells + first]) for ends in (self.statistics.mins, self.statistics.maxs))
        return np.rint(drawn).clip(np.where(cells == 0, low, low + 1), high)  # only the first bin includes its lower end

    def names(self, rows: Array) -> list[list[str]]:
        """The name of each part of rows (n, d), such as "sepal width <= 2.80"."""
        columns = [self._names(j, column) for j, column in enumerate(rows.T)]
        return [list(names) for names in zip(*columns, strict=True)]

    def _names(self, j: int, column: Array) -> list[str]:
        """The names (n,) of column j as a part of rows that have these values (n,)."""
        if not self.divided[j]:
            return [self.columns.names[j]] * len(column)
        if j in self.edges:
            return [self.intervals[j][number] for number in bins.find(self.edges[j], column).tolist()]
        return [self._category(j, value) for value in column.tolist()]

    def _category(self, j: int, value: float) -> str:
        if np.isnan(value):
            return f"{self.columns.names[j]} is missing"
        unseen = "" if value in self.entries[j] else " (not in training)"
        return f"{self.columns.names[j]}={self.shown(j, value)}{unseen}"

    def shown(self, j: int, value: float) -> str:
        """A value of column j as text."""
        names = self.categorical_names.get(j)
        if names is not None and not np.isnan(value):
            known = value in names if isinstance(names, Mapping) else 0 <= value < len(names)
            if known:
                return str(names[int(value)])
        return self.columns.shown(j, value)

    def shown_row(self, row: Array) -> list[str]:
        """The values of a row (d,) as text."""
        return [self.shown(j, value) for j, value in enumerate(row.tolist())]


def _edges(
    discretizer: Any, columns: Columns, training: Array, numeric: Sequence[int], labels: Any, random: Random
) -> dict[int, Array]:
    """Edges of the bins of numeric columns."""
    given: dict[int, Array] = {}
    if isinstance(discretizer, Mapping):
        given = {j: _unique(columns.names[j], edges) for j, edges in renamed("discretizer", discretizer, columns).items()}
        beyond = sorted(set(given) - set(numeric))
        check(not beyond, f"discretizer gives edges for columns {beyond}, which are not numeric columns of the table")
        empty = [columns.names[j] for j, edges in given.items() if not edges.size]
        check(not empty, f"discretizer must give an edge or more for each column; got none for {empty}")
        discretizer = "quartile"
    if not isinstance(discretizer, str) or discretizer not in DISCRETIZERS:
        raise unknown("discretizer", discretizer, [*DISCRETIZERS, "a mapping of columns to edges", "None"])
    if discretizer == "entropy":
        bins.check_classes(labels, len(training))
        return {j: np.unique(bins.entropy(training[:, j], labels, random)) for j in numeric}
    percents = bins.QUARTILES if discretizer == "quartile" else bins.DECILES
    return {j: given[j] if j in given else np.unique(bins.percentiles(training[:, j], percents)) for j in numeric}


def _unique(name: str, edges: Any) -> Array:
    """The user's edges (m,) of a column in order."""
    try:
        return np.unique(np.asarray(edges, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise GpulimeError(f"discretizer must give numbers as the edges of {name!r}; got {edges!r:.100}") from error


def _intervals(name: str, edges: Array) -> list[str]:
    """The names of bins, with two digits or as many as make the edges differ; the last is that of missing values."""
    if not edges.size:
        return [f"{name} is not missing", f"{name} is missing"]
    digits = next((digits for digits in range(2, 17) if len({f"{edge:.{digits}f}" for edge in edges}) == len(edges)), 17)
    shown = [f"{edge:.{digits}f}" for edge in edges]
    inner = [f"{low} < {name} <= {high}" for low, high in pairwise(shown)]
    return [f"{name} <= {shown[0]}", *inner, f"{name} > {shown[-1]}", f"{name} is missing"]
