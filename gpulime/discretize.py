"""lime's discretisers with lime's names: ``from lime.discretize import ...`` becomes ``from gpulime.discretize import ...``.

Edges, names, statistics and random numbers equal lime's. Two faults of lime's are mended: a bin with a single value is sampled
as that value, not as 0, and a missing value (NaN) has a bin of its own. Discretisers can be pickled.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from gpulime.errors import GpulimeError, check
from gpulime.tables import bins as of_columns
from gpulime.tables.bins import Array, Statistics, Values

__all__ = ["BaseDiscretizer", "DecileDiscretizer", "EntropyDiscretizer", "QuartileDiscretizer", "StatsDiscretizer"]


class BaseDiscretizer:
    """Divides numeric columns into bins; a subclass defines `bins`.

    Parameters
    ----------
    data : (rows, d) array
    categorical_features : list of int, columns that are left as they are
    feature_names : list of str
    labels : (rows,), optional
    random_state : int or numpy.random.RandomState, optional
        None is NumPy's global state.
    data_stats : mapping, optional
        "means", "stds", "mins" and "maxs", each a mapping of columns to lists with an entry for each bin.

    Attributes
    ----------
    to_discretize : list of int, the columns
    names : dict, column -> the names of its bins
    lambdas : dict, column -> function values -> numbers of their bins
    means, stds, mins, maxs : dicts, column -> list with an entry for each bin

    Raises
    ------
    GpulimeError
        If `bins` returns no edges for a column.
    """

    def __init__(
        self,
        data: Array,
        categorical_features: Iterable[int],
        feature_names: Sequence[str],
        labels: Any = None,
        random_state: int | np.random.RandomState | None = None,
        data_stats: Mapping[str, Any] | None = None,
    ) -> None:
        fixed = set(categorical_features)
        self.to_discretize = [column for column in range(data.shape[1]) if column not in fixed]
        self.data_stats = data_stats
        self.names: dict[int, list[str]] = {}
        self.lambdas: dict[int, Any] = {}
        self.means: dict[int, list[float]] = {}
        self.stds: dict[int, list[float]] = {}
        self.mins: dict[int, list[float]] = {}
        self.maxs: dict[int, list[float]] = {}
        self.random_state: np.random.RandomState = check_random_state(random_state)
        found = [np.unique(edges) for edges in self.bins(data, labels)]
        if data_stats:
            self.means, self.stds, self.mins, self.maxs = (data_stats[name] for name in Statistics._fields)
        for column, edges in zip(self.to_discretize, found, strict=True):
            fits = edges.size > 0 or bool(np.isnan(data[:, column]).all())
            check(fits, f"bins must return an edge or more for each column; got none for column {column}")
            self.names[column] = _names(feature_names[column], edges)
            self.lambdas[column] = partial(of_columns.find, edges)
            if not data_stats:
                statistics = of_columns.statistics(data[:, column], edges)
                self.means[column], self.stds[column], self.mins[column], self.maxs[column] = statistics
                if len(statistics.means) > len(edges) + 1:
                    self.names[column].append(f"{feature_names[column]} is missing")

    @abstractmethod
    def bins(self, data: Array, labels: Any) -> list[Array]:
        """Edges (m,) for each column in ``to_discretize``; a subclass defines it."""
        raise NotImplementedError("a discretizer must define bins(data, labels): the edges for each column in to_discretize")

    def discretize(self, data: Array) -> Array:
        """Replace the values of discretised columns by the numbers of their bins, in an array (rows, d) or (d,)."""
        found = data.copy()
        for column, find in self.lambdas.items():
            found[..., column] = find(data[..., column])
        return found

    def get_undiscretize_values(self, feature: int, values: Array) -> Array:
        """Draw values (t,) of a column inside the bins ``values`` (t,) int."""
        return Values(self._statistics([feature])).draw(self.random_state, values)

    def undiscretize(self, data: Array) -> Array:
        """Replace numbers of bins by values inside them, in an array (rows, d) or (d,); the columns are drawn in order."""
        found: Array = data.copy(order="K")
        rows = found.reshape(-1, found.shape[-1])  # a view
        columns = list(self.means)
        if type(self).get_undiscretize_values is not BaseDiscretizer.get_undiscretize_values:
            for column in columns:
                rows[:, column] = self.get_undiscretize_values(column, rows[:, column].astype(int))
            return found
        values, first = Values(self._statistics(columns)), 0
        for column in columns:
            rows[:, column] = values.draw(self.random_state, rows[:, column].astype(int) + first)
            first += len(self.means[column])
        return found

    def _statistics(self, columns: Iterable[int]) -> Statistics:
        """The statistics of the bins of some columns, one after the other."""
        tables = (self.means, self.stds, self.mins, self.maxs)
        return Statistics(*([entry for column in columns for entry in table[column]] for table in tables))


class QuartileDiscretizer(BaseDiscretizer):
    """Bins between the quartiles of each column."""

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """The quartiles (3,) of each column."""
        return [of_columns.percentiles(data[:, column], of_columns.QUARTILES) for column in self.to_discretize]


class DecileDiscretizer(BaseDiscretizer):
    """Bins between the deciles of each column."""

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """The deciles (9,) of each column."""
        return [of_columns.percentiles(data[:, column], of_columns.DECILES) for column in self.to_discretize]


class EntropyDiscretizer(BaseDiscretizer):
    """At most 8 bins for each column, those of a decision tree for the labels; each tree takes a number from the stream.

    Raises
    ------
    GpulimeError
        If there is no label for each row.
    """

    def __init__(
        self,
        data: Array,
        categorical_features: Iterable[int],
        feature_names: Sequence[str],
        labels: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        check(labels is not None, "Labels must be not None when using EntropyDiscretizer: pass training_labels")
        of_columns.check_classes(labels, len(data))
        super().__init__(data, categorical_features, feature_names, labels=labels, random_state=random_state)

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """The thresholds (m,) of a tree of depth 3 for each column; its median if the tree has none."""
        return [of_columns.entropy(data[:, column], labels, self.random_state) for column in self.to_discretize]


class StatsDiscretizer(BaseDiscretizer):
    """Bins with given statistics, for training data that cannot be passed on."""

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """The edges in ``data_stats["bins"]``; a column that is not there has its bins' own upper ends as edges."""
        stats = self.data_stats
        if stats is None:
            raise GpulimeError("StatsDiscretizer needs data_stats, the statistics of the training data; got None")
        given = stats.get("bins") or {}
        return [np.asarray(given.get(column, stats["maxs"][column][:-1])) for column in self.to_discretize]


def _names(name: str, edges: Array) -> list[str]:
    """Names of a column's bins, as lime has them; a column without edges has no value in the training data."""
    if not edges.size:
        return [f"{name} is not missing"]
    inner = [f"{low:.2f} < {name} <= {high:.2f}" for low, high in pairwise(edges)]
    return [f"{name} <= {edges[0]:.2f}", *inner, f"{name} > {edges[-1]:.2f}"]
