"""lime's submodular pick: ``from lime import submodular_pick`` becomes ``from gpulime import submodular_pick``.

docs/moving-from-lime.md lists the differences from lime and why.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from gpulime.errors import GpulimeError, check, unknown, whole
from gpulime.explanations.cover import by_name, cover, incidence
from gpulime.explanations.explanation import ExplanationList
from gpulime.lime_queue import UnexplainedError
from gpulime.lime_text import LimeTextExplainer
from gpulime.texts.batch import listed

METHODS = ("sample", "full")


class SubmodularPick:
    """Explain a sample of the data, and pick the few explanations that show most of the model.

    Parameters
    ----------
    explainer : LimeTabularExplainer or LimeTextExplainer
        Of gpulime, which explains all rows in one queue, or of lime.
    data : (n, d) array, sparse matrix or DataFrame, or list or Series of n texts
    predict_fn : callable
        As for the explainer.
    method : {"sample", "full"}
        Explain ``sample_size`` rows drawn without replacement, or all.
    sample_size : int
        Rows to explain if ``method`` is "sample"; more than n are all.
    num_exps_desired : int, optional
        Explanations to pick; None, or more than there are, picks all.
    num_features : int
        The most features of an explanation.
    random_state : int or numpy.random.RandomState, optional
        Random state of the sample; None is NumPy's global state, as in lime.
    kwargs
        Passed on to the explainer's ``explain_instances``, or ``explain_instance`` if it has no other. ``top_labels`` is 1 by
        default.

    Attributes
    ----------
    explanations : list of the explanations, in the order of ``sample_indices``
    sample_indices : list of int, the row of ``data`` of each explanation
    V : list of int, numbers of the picked explanations in ``explanations``, in the order of picking
    sp_explanations : list of the picked explanations
    coverage : list of float, the share of the importance of all features that the picks have up to each, in [0, 1]
    failures : dict, row of ``data`` -> its error, of rows that could not be explained

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    UnexplainedError
        If no row could be explained.
    """

    def __init__(
        self,
        explainer: Any,
        data: Any,
        predict_fn: Any,
        method: str = "sample",
        sample_size: int = 1000,
        num_exps_desired: int | None = 5,
        num_features: int = 10,
        *,
        random_state: int | np.random.RandomState | None = None,
        **kwargs: Any,
    ) -> None:
        wanted = None if num_exps_desired is None else whole("num_exps_desired", num_exps_desired, 1)
        if not hasattr(explainer, "explain_instance"):
            right = "explainer must be a LimeTabularExplainer or a LimeTextExplainer"
            hint = ": gpulime.pick(explainer.explain(data)) picks its explanations" if hasattr(explainer, "explain") else ""
            raise GpulimeError(f"{right}; got {type(explainer).__name__}{hint}")
        if isinstance(explainer, LimeTextExplainer):
            data = listed(data)
        check(hasattr(data, "__len__"), f"data must be an array, a DataFrame or a list of texts; got {type(data).__name__}")
        sampled = _sampled(data, method, sample_size, random_state)
        options = {"num_features": num_features, "top_labels": 1} | kwargs
        self.failures: dict[int, BaseException] = {}
        found = self._explained(explainer, [_row(data, i) for i in sampled], predict_fn, options)
        self.failures = {sampled[i]: error for i, error in self.failures.items()}
        self.sample_indices = [sampled[i] for i in found]
        self.explanations = ExplanationList(found.values())
        count = len(found) if wanted is None else wanted
        if count > len(found):
            warnings.warn(f"{count} explanations were asked for, but there are {len(found)}: all are picked", stacklevel=2)
        rows, columns, weights = by_name(self.explanations)
        shape = len(found), int(columns.max(initial=-1)) + 1
        picked = cover(incidence(rows, columns, weights, shape), count, prefer=np.arange(len(found)))  # as lime does
        self.V, self.coverage = picked.indices, picked.coverage
        self.sp_explanations = ExplanationList(self.explanations[i] for i in self.V)

    def _explained(self, explainer: Any, rows: list[Any], predict_fn: Any, options: dict[str, Any]) -> dict[int, Any]:
        """Explain the rows, by their numbers; rows that fail are noted, unless all do."""
        if not hasattr(explainer, "explain_instances"):
            return {i: explainer.explain_instance(row, predict_fn, **options) for i, row in enumerate(rows)}
        try:
            return dict(enumerate(explainer.explain_instances(rows, predict_fn, **options)))
        except UnexplainedError as unexplained:
            if not unexplained.explanations:
                raise
            self.failures = unexplained.failures
            warnings.warn(str(unexplained), stacklevel=3)
            return {i: unexplained.explanations[i] for i in sorted(unexplained.explanations)}


def _sampled(data: Any, method: str, sample_size: int, random_state: Any) -> list[int]:
    """The rows to explain, in lime's order of drawing."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    n = data.shape[0] if hasattr(data, "shape") else len(data)
    check(n > 0, "data must have a row; got none")
    if method == "full":
        return list(range(n))
    size = whole("sample_size", sample_size, 1)
    if size > n:
        warnings.warn(f"sample_size is {size}, but data has {n} rows: all are explained", stacklevel=3)
    order = np.arange(n)
    check_random_state(random_state).shuffle(order)
    return [int(i) for i in order[:size]]


def _row(data: Any, i: int) -> Any:
    """One row of an array, a sparse matrix or a DataFrame, or one text of a list or Series."""
    try:
        row = data.iloc[i] if hasattr(data, "iloc") else data[i]
        return row.to_numpy() if hasattr(data, "columns") else row
    except (TypeError, KeyError, IndexError) as error:
        raise GpulimeError(f"data must be an array, a DataFrame or a list of texts; got {type(data).__name__}") from error
