"""Rows of lime's tabular explainers in the queue, and what users give for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gpulime import device as devices
from gpulime.engine.flight import Flight
from gpulime.engine.model import Predictor
from gpulime.engine.settings import Settings
from gpulime.errors import GpulimeError, check
from gpulime.explanations.explanation import Explanation
from gpulime.explanations.table import TableDomainMapper
from gpulime.lime_base import LimeInput, LimeLabels
from gpulime.tables import lime_rows, sparse
from gpulime.tables.bins import Array
from gpulime.tables.columns import is_frame
from gpulime.tables.lime_rows import LimeRow


@dataclass(frozen=True)
class Call:
    """The arguments of one call."""

    labels: Sequence[int]
    top_labels: int | None
    num_samples: int
    distance_metric: Any
    model_regressor: Any
    settings: Settings


@dataclass(kw_only=True)
class Prepared(LimeInput):
    """A row in the queue, with its neighbourhood."""

    scaled: Array  # (s, k) regressors
    samples: Array  # (s, ...) rows of the model's input
    distances: Array  # (s,)
    parts: Array | None  # (k,) columns of the regressors of a sparse row
    names: TableDomainMapper


def flight(number: int, one: Prepared, predictor: Predictor, call: Call) -> Flight:
    """The row in the queue, its samples in the model's dtype on its device."""
    samples = torch.from_numpy(one.samples)
    device = predictor.device(samples)
    samples = devices.sent(samples, device)
    if predictor.module is not None:
        samples = samples.to(predictor.dtype(samples))
    labels = LimeLabels(given=call.labels, most=call.top_labels, one=one)
    masks = torch.ones(1, call.num_samples, 1, dtype=torch.bool, device=device)  # not used: rows are samples
    return lime_rows.LimeFlight(LimeRow(samples, number, labels), call.num_samples, masks)


def turned(explanation: Explanation) -> Explanation:
    """Lime's form of a regression: label 1 has the weights, label 0 the negated ones."""
    for by_label in (
        explanation.intercept,
        explanation.scores,
        explanation.scores_loo,
        explanation.local_preds,
        explanation.predictions,
    ):
        by_label[1] = by_label[0]
    explanation.standard_errors[1] = explanation.standard_errors[0]
    explanation.local_exp[1] = explanation.local_exp[0]
    explanation.local_exp[0] = [(part, -weight) for part, weight in explanation.local_exp[1]]
    return explanation


def plain(training: Any, names: Sequence[Any] | None) -> tuple[Any, Sequence[Any] | None, Any]:
    """Training data as an array or a CSR matrix, with the names and labels of a DataFrame's columns."""
    if sparse.is_sparse(training):
        return training.tocsr(), names, None
    labels = list(training.columns) if is_frame(training) else None
    try:
        array = np.asarray(training)
        array = array if array.dtype.kind in "fiub" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        right = "training_data must be numbers; gpulime.TableExplainer takes DataFrames with text and categories, too"
        raise GpulimeError(f"{right}: {str(error).splitlines()[0]}") from error
    got = array.shape if array.ndim else type(training).__name__
    right = f"training_data must be an array (rows, columns), with a row or more; got {got}"
    check(array.ndim == 2 and array.size > 0, right)
    if labels is not None and names is None:
        names = [str(label) for label in labels]
    return array, names, labels


def sequence(rows: Any) -> Sequence[Any]:
    """Rows one by one."""
    if is_frame(rows):
        return list(rows.to_numpy())
    if sparse.is_sparse(rows):
        matrix = rows.tocsr()
        return [matrix[i] for i in range(matrix.shape[0])]
    shape = getattr(rows, "shape", None)
    right = "data_rows must be an array (rows, columns), or a sequence of rows"
    fits = isinstance(rows, Iterable) if shape is None else len(shape) > 1
    check(fits, f"{right}; got {type(rows).__name__ if shape is None else tuple(shape)}: pass [row] for one row")
    return list(rows)
