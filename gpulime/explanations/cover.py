"""Greedy cover of SP-LIME: which few explanations show most of the important features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from gpulime.errors import check

if TYPE_CHECKING:
    from gpulime.explanations.explanation import Explanation

Array = np.ndarray[Any, np.dtype[Any]]
SAME = 1e-9  # gains that differ by less of the total importance are equal: sums in another order round otherwise


@dataclass(frozen=True)
class Picked:
    """Picked explanations.

    Attributes
    ----------
    indices : list of int
        Numbers of the picked explanations, in the order of picking: the first shows the most.
    coverage : list of float
        The share of the importance of all features, in [0, 1], that the picked explanations have up to each of them.
    """

    indices: list[int]
    coverage: list[float]


def incidence(rows: Array, columns: Array, weights: Array, shape: tuple[int, int]) -> sparse.csr_matrix:
    """The size of each weight at its explanation and feature, (n, f); entries of one place are summed, NaN counts as 0."""
    sizes = np.nan_to_num(np.abs(weights.astype(np.float64)), posinf=0)
    return sparse.csr_matrix((sizes, (rows, columns)), shape=shape)


def by_name(explanations: Sequence[Explanation], num_features: int | None = None) -> tuple[Array, Array, Array]:
    """Explanation, feature and weight of the strongest parts of each label, (m,) each; features are numbered by first use.

    A feature is a name in `Explanation.as_list`; ``num_features`` None takes all parts of an explanation.
    """
    numbers: dict[str, int] = {}
    rows, columns, weights = [], [], []
    for i, one in enumerate(explanations):
        for label in one.available_labels() if one.mode == "classification" else [one.dummy_label]:
            for name, weight in one.as_list(label)[:num_features]:
                rows.append(i)
                columns.append(numbers.setdefault(name, len(numbers)))
                weights.append(weight)
    return np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64), np.array(weights, dtype=np.float64)


def cover(weights: sparse.csr_matrix, count: int, prefer: npt.ArrayLike | None = None) -> Picked:
    """Pick ``count`` rows greedily, each with the most importance that earlier picks do not cover.

    The importance of feature f is ``sqrt(sum_i W[i, f])``; a row covers the features with a weight above 0 (Ribeiro et al.,
    "Why Should I Trust You?", 2016, section 4). If all is covered, the next picks begin a new cover of the same features.

    Parameters
    ----------
    weights : (n, f) sparse, W, finite and 0 or more
    count : int
        At least 1; n or more picks all rows.
    prefer : (n,), optional
        Among rows of equal gain the one with the largest value is picked; by default the one with the largest sum of weights.
        Equal values: the first row.

    Raises
    ------
    GpulimeError
        If there are no rows.
    """
    n, f = weights.shape
    check(n > 0, "there are no explanations to pick from")
    weights.eliminate_zeros()
    sums = np.asarray(weights.sum(1)).ravel()
    preferred = sums if prefer is None else np.asarray(prefer)
    importance = np.sqrt(np.asarray(weights.sum(0)).ravel())
    total = importance.sum()
    shows = sparse.csr_matrix((np.ones_like(weights.data), weights.indices, weights.indptr), shape=weights.shape)
    left, free, covered = importance.copy(), np.ones(n, dtype=bool), np.zeros(f, dtype=bool)
    picked, coverage = [], []
    for _ in range(min(count, n)):
        gains = np.where(free, shows @ left, -1.0)
        if gains.max() <= SAME * total:  # a new cover
            left = importance.copy()
            gains = np.where(free, shows @ left, -1.0)
        best = np.flatnonzero(gains >= gains.max() - SAME * total)
        chosen = int(best[np.argmax(preferred[best])])
        columns = shows.indices[shows.indptr[chosen] : shows.indptr[chosen + 1]]
        free[chosen], left[columns], covered[columns] = False, 0.0, True
        picked.append(chosen)
        coverage.append(float(importance[covered].sum() / total) if total else 1.0)
    return Picked(picked, coverage)
