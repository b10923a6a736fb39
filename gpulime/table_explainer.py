"""Explainer of table rows: the settings, and the engine that runs them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from gpulime import arrays, classes
from gpulime import labels as numbers
from gpulime.engine import masks
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.class_columns import ClassColumns
from gpulime.engine.engine import Engine
from gpulime.engine.flight import Flight
from gpulime.engine.model import Activation, Predictor
from gpulime.engine.proximity import Distance, Kernel
from gpulime.engine.settings import Settings
from gpulime.errors import check, whole
from gpulime.explanations.rows import ExplainedRows
from gpulime.tables import model as models
from gpulime.tables import sparse_batch
from gpulime.tables.batch import Rows, Tables
from gpulime.tables.columns import Columns
from gpulime.tables.hidden import HidingSparse, HidingTables
from gpulime.tables.sparse import SparseFunction, is_sparse
from gpulime.tables.sparse_batch import SparseRows, SparseTables
from gpulime.tables.table import Table


class TableExplainer(Engine[ExplainedRows]):
    """LIME for batches of table rows.

    Parameters
    ----------
    model : estimator, callable or nn.Module
        A scikit-learn estimator: its ``predict_proba`` is explained, or ``predict`` of a regressor. Or a function of rows as in
        ``training_data`` -> (b, classes) probabilities, (b,) probabilities of the second of two classes, or (b,) values of a
        regression. Or a module (b, d) tensor -> (b, classes) tensor.
    training_data : (rows, d) array, tensor, DataFrame or sparse matrix; or (rows, T, F) series
        The model gets rows of the same kind: a DataFrame with the same columns and dtypes, a tensor or an array of the same
        floating dtype, series (b, T, F). A scikit-learn estimator gets arrays in float64, and whole numbers become floats.
        Columns of a DataFrame that are objects, categories, strings or bools are categorical. Of a sparse row only the
        entries that are not 0 are varied and explained, by normal numbers, so each row has its own neighbourhood.
    training_labels : (rows,), optional
        Classes, for ``discretizer="entropy"``.
    mode : str, optional
        "classification" or "regression"; by default a regression for an estimator that only predicts.
    feature_names : sequence of d (or F) str, optional
        By default the columns of the DataFrame, or their numbers.
    categorical_features : sequence of int or str, optional
        Further categorical columns.
    categorical_names : mapping, optional
        Column -> names of its values, a list or a mapping.
    class_names : sequence or mapping, optional
        By default the ``classes_`` of an estimator.
    n_samples : int
        s, the samples per row, with the row itself.
    discretizer : str, mapping or None
        "quartile", "decile", "entropy", or a mapping of columns to the edges of their bins, others having quartiles. None:
        numeric columns are not divided, normal numbers are drawn, and regressors are standardised values.
    sample_around : bool
        For ``discretizer=None``: centre the normal numbers at the row, not at the column's mean.
    missing : str
        "bin": missing values have a bin of their own, and are drawn as often as in training; "error" refuses them. Without
        bins they are always refused.
    top_labels : int
        l, the classes explained per row if ``explain`` gets no labels: the ones with the highest output, at most all.
    kernel_width : float or None
        Width of the proximity kernel; None means ``0.75 * sqrt(k)``.
    alpha, kernel, distance, feature_selection, num_features, precision, compile, device
        As for `gpulime.Explainer`. Without bins the distance must be one for numbers, such as "euclidean" or "cosine".
    activation : str, callable or None
        Applied to the model's output: "auto" is a softmax for a module that classifies, and none for other models.
    batch_size : int or "auto"
        b, the most rows of a call; "auto" is 32,768, or fewer if they take more than 64 MB.
    seed : int
        Seed of the neighbourhoods.

    Raises
    ------
    GpulimeError
        If a setting is invalid.

    References
    ----------
    Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016.
    """

    def __init__(
        self,
        model: Any,
        training_data: Any,
        training_labels: Any = None,
        mode: str | None = None,
        feature_names: Sequence[Any] | None = None,
        categorical_features: Iterable[Any] | None = None,
        categorical_names: Mapping[Any, Any] | None = None,
        class_names: Any = None,
        n_samples: int = 5000,
        discretizer: Any = "quartile",
        sample_around: bool = False,
        missing: str = "bin",
        top_labels: int = 5,
        kernel_width: float | None = None,
        alpha: float = 1.0,
        kernel: Kernel | None = None,
        distance: Distance = "euclidean",
        feature_selection: str = "auto",
        num_features: int | None = None,
        activation: Activation = "auto",
        precision: str = "float32",
        batch_size: int | str = "auto",
        compile: bool | str = False,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        n_samples = whole("n_samples", n_samples, 2, ", the row and one sample")
        sampler = masks.resolve("bernoulli", seed, n_samples)  # checks the seed; the masks follow from the neighbourhood
        self.seed, self.mode = seed, models.mode_of(model, mode)
        self.class_names = _class_names(model, class_names) if self.mode == "classification" else None
        columns = Columns.of(training_data, feature_names, categorical_features)
        self.columns = columns
        tables: Tables | SparseTables
        if is_sparse(training_data):
            sparse_batch.check_settings(discretizer, missing, categorical_features)
            function = SparseFunction(models.function_of(model, self.mode), columns, self.mode)
            predictor: Predictor = models.Called(function, None if activation == "auto" else activation, precision, device)
            tables = SparseTables(training_data, columns, function, seed, n_samples, sample_around, self.class_names)
            kernel_width = 0.75 * len(columns) ** 0.5 if kernel_width is None else kernel_width  # as lime: by all columns
        else:
            columns.suit(model, training_data)
            self.table = Table(
                columns,
                columns.encode(training_data, "training_data"),
                discretizer,
                training_labels,
                np.random.RandomState(seed % 2**32),
                sample_around,
                missing,
                categorical_names,
            )
            predictor = models.predictor(model, columns, self.mode, activation, precision, device, compile)
            tables = Tables(self.table, predictor, seed, n_samples, self.mode, self.class_names)
        if isinstance(predictor, models.Called):
            predictor.warns = True
        if class_names is not None and self.class_names is not None:
            columns_of = predictor.columns or ClassColumns(divides=False)
            predictor.columns = replace(columns_of, named=len(self.class_names))
        settings = Settings(alpha, kernel or "exponential", kernel_width, distance, feature_selection, num_features)
        fits = max(1, min(models.BATCH_ROWS, models.BATCH_BYTES // (8 * len(columns))))
        size = BatchSize(fits if batch_size == "auto" else batch_size)
        self._tables = tables
        super().__init__(predictor, size, tables, sampler, n_samples, whole("top_labels", top_labels, 1), settings)

    def __repr__(self) -> str:
        model = self.predictor.model
        model = getattr(model, "function", model)
        name = getattr(model, "__qualname__", type(model).__name__)
        facts = f"{len(self.columns)} columns, n_samples: {self.n_samples}, mode: {self.mode}"
        return f"TableExplainer({name}, {facts})"

    @property
    def feature_names(self) -> list[str]:
        """Names (d,) of the columns."""
        return list(self.columns.names)

    def explain(self, inputs: Any, labels: Any = None, keys: Any = None) -> ExplainedRows:
        """Explain rows.

        Parameters
        ----------
        inputs : (n, d) array, tensor, DataFrame or sparse matrix, or (n, T, F) series, as the training data
        labels : as for `gpulime.Explainer.explain`, optional
            Classes to explain; by default the ``top_labels`` with the highest output.
        keys : (n,) int64, optional
            ``gpulime.key(id)`` of each row, which seeds its own neighbourhood. By default all rows share one, and the model is
            asked for s - 1 + n rows; with ``sample_around`` they share its random numbers only.

        Returns
        -------
        ExplainedRows, on the device of the work

        Raises
        ------
        GpulimeError
            If an argument is invalid, or the model's output is not as expected.
        """
        batch = self.batch(inputs, labels, keys)
        explained = ExplainedRows.cat(list(self.explained(batch)))
        for i in explained.non_finite.nonzero().flatten().tolist():
            count = int(explained.non_finite[i])
            warnings.warn(
                f"row {i}: the model's output was NaN or infinite for {count} of {int(explained.samples[i])} samples; "
                "its coefficients are NaN",
                stacklevel=2,
            )
        return explained

    def batch(self, inputs: Any, labels: Any = None, keys: Any = None) -> Rows | SparseRows:
        """Check rows, labels and keys as for `explain`, and encode the rows for `prepare` and `passed`."""
        shape = getattr(inputs, "shape", None)
        given = bool(shape) or isinstance(inputs, Sequence)
        check(given, f"inputs must be rows as in training_data; got {type(inputs).__name__}")
        n = shape[0] if shape else len(inputs)
        check(labels is None or self.mode == "classification", "labels are for a classification; this is a regression")
        wanted = None if labels is None else numbers.of_batch(labels, n, self.class_names, "row")
        self.columns.forget()  # so that the answer does not depend on earlier calls
        return self._tables.batch(inputs, wanted, None if keys is None else arrays.keys(keys, n))

    def redrawn(self, seed: int, n_samples: int | None = None) -> Self:
        """The same explainer, with the same model, and other neighbourhoods."""
        made = super().redrawn(seed, n_samples)
        made.masker = made._tables = self._tables.redrawn(seed, made.n_samples)
        return made

    def with_fill(self, fill: Any = None) -> Self:
        """The same explainer with rows whose hidden columns show a fill, in place of neighbourhoods: for given masks only.

        Parameters
        ----------
        fill : (1, d) row as in the training data, optional
            By default the mean of each numeric column and the most frequent category, and 0 for sparse rows.
        """
        made = copy(self)
        if isinstance(self._tables, SparseTables):
            check(fill is None, "hidden entries of sparse rows are 0; leave fill out")
            made.masker = HidingSparse(self._tables)
            return made
        values = self.table.typical[None] if fill is None else self.columns.encode(fill, "fill")
        check(len(values) == 1, f"fill must be one row; got {len(values)}")
        made.masker = HidingTables(self._tables, torch.from_numpy(values[0]))
        return made

    def solve(self, flight: Flight) -> ExplainedRows | None:
        """Fit the surrogates of a flight; a regression has the bounds of its outputs, too."""
        explained = super().solve(flight)
        if explained is None or self.mode != "regression":
            return explained
        first, rest = flight.first[:, 0], flight.rest[:, 0].view(-1, flight.n_samples - 1)
        bounds = torch.stack([torch.minimum(first, rest.amin(1)), torch.maximum(first, rest.amax(1))], 1)
        return replace(explained, bounds=bounds.double())


def _class_names(model: Any, given: Any) -> list[str] | None:
    if given is not None:
        return classes.listed(given if isinstance(given, Mapping) else list(given))
    known = getattr(model, "classes_", None)
    return None if known is None or isinstance(known, list) else [str(name) for name in known]
