"""Bins of numeric columns: their edges, the statistics of the values inside, and values drawn from them.

A bin is (low, high]. A missing value (NaN) has a bin of its own, after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpulime.errors import check
from gpulime.tables.truncated import Intervals

Array = np.ndarray[Any, np.dtype[Any]]
Random = np.random.RandomState

QUARTILES = (25, 50, 75)
DECILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
BLOCK = 2**14  # values drawn at once, to stay in a CPU's cache
TINY = 1e-11  # added to every standard deviation, as lime does


class Statistics(NamedTuple):
    """Statistics of a column's bins: lists with an entry for each, in order, and one more if values are missing."""

    means: list[float]
    stds: list[float]
    mins: list[float]
    maxs: list[float]


def present(column: Array) -> Array:
    """The values of a column that are not missing."""
    return column[~np.isnan(column)]


def percentiles(column: Array, percents: Sequence[int]) -> Array:
    """Edges (m,) at some percentiles of the values that are not missing; none if all are."""
    values = present(column)
    return np.array(np.percentile(values, percents)) if values.size else np.zeros(0)


def entropy(column: Array, labels: Array, random: Random) -> Array:
    """Edges (m,), at most 7, that separate the classes of ``labels`` (rows,) best, by a decision tree; else the median.

    There are none if all values are missing.
    """
    from sklearn.tree import DecisionTreeClassifier

    known = ~np.isnan(column)
    if not known.any():
        return np.zeros(0)
    tree = DecisionTreeClassifier(criterion="entropy", max_depth=3, random_state=random)
    tree.fit(column[known].reshape(-1, 1), np.asarray(labels)[known])
    inner = tree.tree_.children_left > -1
    edges = np.sort(tree.tree_.threshold[inner])
    return edges if edges.size else np.array([np.median(column[known])])


def check_classes(labels: Any, n: int) -> None:
    """Raise `GpulimeError` unless there is a class for each of n rows, for `entropy`."""
    right = f"discretizer='entropy' needs training_labels, a class for each of {n} rows"
    check(np.shape(labels)[:1] == (n,), f"{right}; got {None if labels is None else np.shape(labels)}")


def find(edges: Array, values: Any) -> Array:
    """Number of the bin of each value, int64 of the shape of ``values``; ``len(edges) + 1`` if it is missing."""
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values))


def statistics(column: Array, edges: Array) -> Statistics:
    """Statistics of the values in each bin; an empty bin has mean 0."""
    values = present(column)
    bins = np.searchsorted(edges, values)
    inside = [values[bins == number] for number in range(len(edges) + 1)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    found = Statistics(
        means=[some.mean() if some.size else 0 for some in inside],
        stds=[(some.std() if some.size else 0) + TINY for some in inside],
        mins=[low, *edges.tolist()],
        maxs=[*edges.tolist(), high],
    )
    if values.size < column.size:
        for entries, missing in zip(found, (np.nan, TINY, np.nan, np.nan), strict=True):
            entries.append(missing)
    return found


class Values:
    """Draws values inside bins: truncated normal numbers with the bins' means and standard deviations.

    Parameters
    ----------
    statistics : Statistics, of any bins of any columns, m of them
    """

    def __init__(self, statistics: Statistics) -> None:
        self.means, self.stds, self.mins, maxs = (np.array(entries, dtype=np.float64) for entries in statistics)
        low, high = (self.mins - self.means) / self.stds, (maxs - self.means) / self.stds
        self.varied = (low != high) & ~np.isnan(low)
        self.intervals = Intervals(np.where(self.varied, low, 0.0), np.where(self.varied, high, 1.0))

    def draw(self, random: Random, bins: Array) -> Array:
        """Draw a value (t,) float64 for each of the ``bins`` (t,); one with a single value needs no random number."""
        values = np.empty(len(bins))
        for start in range(0, len(bins), BLOCK):
            some = slice(start, start + BLOCK)
            self._fill(values[some], random, bins[some])
        return values

    def _fill(self, values: Array, random: Random, bins: Array) -> None:
        varied = self.varied[bins]
        whole = varied.all()
        which = bins if whole else bins[varied]
        drawn = self.intervals.quantiles(which, random.random_sample(len(which)))
        drawn *= self.stds[which]
        drawn += self.means[which]
        if whole:
            values[:] = drawn
            return
        values[:] = self.mins[bins]
        values[varied] = drawn
