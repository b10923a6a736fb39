"""lime's explainers of tables, with its names: ``from lime import lime_tabular`` becomes ``from gpulime import lime_tabular``.

Neighbourhoods and numbers equal lime's for the same ``random_state``; docs/moving-from-lime.md lists the differences and why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state
from tqdm.auto import tqdm

from gpulime import lime_base
from gpulime.discretize import (
    BaseDiscretizer,
    DecileDiscretizer,
    EntropyDiscretizer,
    QuartileDiscretizer,
    StatsDiscretizer,
)
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.flight import Flight
from gpulime.engine.model import Predictor
from gpulime.engine.selection import SELECTIONS
from gpulime.engine.settings import Settings
from gpulime.errors import GpulimeError, check, unknown, whole
from gpulime.explanations.explanation import Explanation, ExplanationList
from gpulime.explanations.table import TableDomainMapper
from gpulime.lime_base import Fit, exponential_kernel
from gpulime.lime_queue import LimeQueue, UnexplainedError
from gpulime.lime_queued_rows import Call, Prepared, flight, plain, sequence, turned
from gpulime.tables import lime_names, lime_rows, model, sparse
from gpulime.tables.bins import Array
from gpulime.tables.columns import Columns, named, numbered, scaler
from gpulime.tables.lime_rows import Frequencies

__all__ = ["LimeTabularExplainer", "RecurrentTabularExplainer", "TableDomainMapper", "UnexplainedError"]

DISCRETIZERS = {"quartile": QuartileDiscretizer, "decile": DecileDiscretizer, "entropy": EntropyDiscretizer}
STATS = ("means", "mins", "maxs", "stds", "feature_values", "feature_frequencies")


class LimeTabularExplainer:
    """Explains predictions on rows of a table.

    Parameters
    ----------
    training_data : (rows, d) array, CSR matrix or DataFrame of numbers
        With a DataFrame, ``predict_fn`` gets DataFrames with the same columns. `gpulime.TableExplainer` takes text, too.
    mode : str
        "classification" or "regression"
    training_labels : (rows,), optional
        Classes, for ``discretizer="entropy"``.
    feature_names : sequence of d str, optional
        By default the columns of the DataFrame, or their numbers.
    categorical_features : sequence of int or str, optional
        Columns that are categorical, by number or name; their values are numbers.
    categorical_names : mapping, optional
        Column -> names of its values.
    kernel_width : float, optional
        By default ``0.75 * sqrt(d)``.
    kernel : callable, optional
        (distances (s,), kernel_width) -> weights (s,); by default `gpulime.lime_base.exponential_kernel`.
    verbose : bool
        Print intercept, local prediction and prediction of each label.
    class_names : sequence of str, optional
        By default the numbers of the classes.
    feature_selection : str
        "auto", "none", "forward_selection", "highest_weights" or "lasso_path".
    discretize_continuous : bool
        Divide numeric columns into bins; sparse ones never are.
    discretizer : str or BaseDiscretizer
        "quartile", "decile", "entropy" or a discretizer of the user's.
    sample_around_instance : bool
        For columns without bins: centre the normal numbers at the row, not at the column's mean.
    random_state : int or numpy.random.RandomState, optional
        None is NumPy's global state.
    training_data_stats : mapping, optional
        Statistics in place of the training data's: "means", "mins", "maxs", "stds", "feature_values", "feature_frequencies",
        and "bins" if the edges are not the bins' own ends.

    Raises
    ------
    GpulimeError
        If a setting is invalid.
    """

    def __init__(
        self,
        training_data: Any,
        mode: str = "classification",
        training_labels: Any = None,
        feature_names: Sequence[Any] | None = None,
        categorical_features: Iterable[Any] | None = None,
        categorical_names: Mapping[int, Any] | None = None,
        kernel_width: float | None = None,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Sequence[str] | None = None,
        feature_selection: str = "auto",
        discretize_continuous: bool = True,
        discretizer: Any = "quartile",
        sample_around_instance: bool = False,
        random_state: int | np.random.RandomState | None = None,
        training_data_stats: Mapping[str, Any] | None = None,
    ) -> None:
        if feature_selection not in SELECTIONS:
            raise unknown("feature_selection", feature_selection, SELECTIONS)
        self.random_state: np.random.RandomState = check_random_state(random_state)
        self.mode = model.mode_of(None, mode)
        is_mapping = categorical_names is None or isinstance(categorical_names, Mapping)
        check(is_mapping, f"categorical_names must be a mapping of columns; got {type(categorical_names).__name__}")
        self.sample_around_instance = sample_around_instance
        self.training_data_stats = training_data_stats
        if training_data_stats:
            self.validate_training_data_stats(training_data_stats)
        training_data, feature_names, labels = plain(training_data, feature_names)
        d = training_data.shape[1]
        self.feature_names = named(range(d) if feature_names is None else feature_names, d)
        self.categorical_features = numbered(categorical_features, self.feature_names)
        strangers = [key for key in categorical_names or {} if isinstance(key, str) and key not in self.feature_names]
        check(not strangers, f"categorical_names must be of columns {self.feature_names}; got {strangers}")
        self.categorical_names = {
            self.feature_names.index(key) if isinstance(key, str) else key: names
            for key, names in (categorical_names or {}).items()
        }
        self._columns = Columns(self.feature_names, np.zeros(d, dtype=bool), np.zeros(d, dtype=bool), labels=labels)
        self._is_sparse = sparse.is_sparse(training_data)
        fits = not (self._is_sparse and self.categorical_features)
        check(fits, "categorical_features need dense rows: of sparse ones only entries that are not 0 are explained")
        self.discretizer: Any = None
        if discretize_continuous and not self._is_sparse:
            self.discretizer = self._discretizer(discretizer, training_data, training_labels)
            self.categorical_features = list(range(d))
            if sample_around_instance:
                nothing = "sample_around_instance=True has no effect with discretize_continuous=True"
                warnings.warn(f"{nothing}: bins are sampled as in training", stacklevel=2)
        fits = kernel_width is None or (isinstance(kernel_width, Real) and kernel_width > 0)
        check(fits, f"kernel_width must be a number above 0, or None; got {kernel_width!r}")
        self.kernel_width = float(np.sqrt(d) * 0.75 if kernel_width is None else kernel_width)
        self.kernel = kernel or exponential_kernel
        self.verbose, self.feature_selection, self.class_names = verbose, feature_selection, class_names
        self.scaler = scaler(training_data)
        self.feature_values: dict[int, Any] = {}
        self.feature_frequencies: dict[int, Array] = {}
        self._count(training_data)

    def _discretizer(self, wanted: Any, training_data: Array, labels: Any) -> Any:
        """The discretizer asked for; those made here share the explainer's random state."""
        given = training_data, self.categorical_features, self.feature_names
        if self.training_data_stats:
            stats = self.training_data_stats
            return StatsDiscretizer(*given, labels=labels, data_stats=stats, random_state=self.random_state)
        if isinstance(wanted, str) and wanted in DISCRETIZERS:
            return DISCRETIZERS[wanted](*given, labels=labels, random_state=self.random_state)
        own = isinstance(wanted, BaseDiscretizer) or all(hasattr(wanted, name) for name in ("undiscretize", "lambdas", "names"))
        right = "Discretizer must be 'quartile', 'decile', 'entropy' or a BaseDiscretizer instance"
        check(own, f"{right}; got {wanted!r}")
        return wanted

    def _count(self, training_data: Array) -> None:
        """Count the values of categorical and discretised columns; they are not standardised."""
        stats = self.training_data_stats
        divided = training_data
        if stats is None and self.discretizer is not None:
            divided = self.discretizer.discretize(training_data)
        for column in self.categorical_features:
            if stats is None:
                values, counts = np.unique(divided[:, column], return_counts=True)
                self.feature_values[column], frequencies = list(values), counts
            else:
                self.feature_values[column], frequencies = (stats[name][column] for name in STATS[4:])
            self.feature_frequencies[column] = np.array(frequencies) / float(sum(frequencies))
            self.scaler.mean_[column], self.scaler.scale_[column] = 0, 1

    @staticmethod
    def convert_and_round(values: Iterable[float]) -> list[str]:
        """Numbers as text with two digits."""
        return lime_names.rounded(values)

    @staticmethod
    def validate_training_data_stats(training_data_stats: Mapping[str, Any]) -> None:
        """Raise `GpulimeError` unless all statistics are there."""
        missing = [name for name in STATS if name not in training_data_stats]
        check(not missing, f"Missing keys in training_data_stats. Details: {missing}")

    def explain_instance(
        self,
        data_row: Any,
        predict_fn: Any,
        labels: Iterable[int] = (1,),
        top_labels: int | None = None,
        num_features: int | None = 10,
        num_samples: int = 5000,
        distance_metric: Any = "euclidean",
        model_regressor: Any = None,
        batch_size: int | None = None,
        progress_bar: bool = False,
    ) -> Explanation:
        """Explain the prediction for one row.

        Parameters
        ----------
        data_row : (d,) array or Series, or (1, d) CSR matrix
        predict_fn : callable
            (b, d) array, CSR matrix or DataFrame -> (b, classes) probabilities, (b,) probabilities of the second of two
            classes, or (b,) values of a regression. Or an estimator or an nn.Module.
        labels : iterable of int
            Classes to explain if ``top_labels`` is None or 0.
        top_labels : int, optional
            Number of most probable classes to explain.
        num_features : int
            The most columns an explanation may use; None is all.
        num_samples : int
            s, the samples passed to the model, with the row itself.
        distance_metric : str or callable
            As for scikit-learn's ``pairwise_distances``.
        model_regressor : scikit-learn regressor, optional
            Fitted in place of the ridge; needs ``coef_``, ``intercept_`` and ``sample_weight``.
        batch_size : int, optional
            Rows per call of the model; by default ``num_samples``, so that there is one call.
        progress_bar : bool
            If True, show a progress bar.

        Returns
        -------
        Explanation

        Raises
        ------
        NotImplementedError
            If a classifier returns classes in place of probabilities; a `GpulimeError`, too.
        GpulimeError
            If the row, the model's output or an argument is invalid.
        """
        try:
            return self.explain_instances(
                [data_row],
                predict_fn,
                labels=labels,
                top_labels=top_labels,
                num_features=num_features,
                num_samples=num_samples,
                distance_metric=distance_metric,
                model_regressor=model_regressor,
                batch_size=batch_size,
                progress_bar=progress_bar,
            )[0]
        except UnexplainedError as unexplained:
            error = unexplained.failures[0]
        raise error  # the original error, with its own cause

    def explain_instances(
        self,
        data_rows: Any,
        predict_fn: Any,
        labels: Iterable[int] = (1,),
        top_labels: int | None = None,
        num_features: int | None = 10,
        num_samples: int = 5000,
        distance_metric: Any = "euclidean",
        model_regressor: Any = None,
        batch_size: int | None = None,
        progress_bar: bool = False,
    ) -> ExplanationList:
        """Explain many rows in one queue.

        The results equal those of a loop over `explain_instance`. If a row fails, the others are still explained: the error is
        raised at the end and holds their explanations. If the first three rows all fail, the rest are not tried. A
        KeyboardInterrupt also holds the ``explanations`` so far.

        Parameters
        ----------
        data_rows : (n, d) array, CSR matrix or DataFrame, or a sequence of rows as for `explain_instance`
        predict_fn, ..., progress_bar
            As for `explain_instance`.

        Returns
        -------
        ExplanationList
            In the order of the rows.

        Raises
        ------
        UnexplainedError
            If some rows could not be explained; a `GpulimeError` with the dicts ``explanations`` and ``failures``, by the row's
            number.
        GpulimeError
            If an argument is invalid.
        """
        rows = sequence(data_rows)
        top = whole("top_labels", top_labels, 1) if top_labels and self.mode == "classification" else None
        given = [0] if self.mode == "regression" else [] if top else lime_base.given_labels(labels)
        call = Call(
            labels=given,
            top_labels=top,
            num_samples=whole("num_samples", num_samples, 2, ", the row and one sample"),
            distance_metric=distance_metric,
            model_regressor=model_regressor,
            settings=self._settings(num_features, model_regressor),
        )
        predictor = self._predictor(predict_fn)
        with tqdm(total=len(rows) * num_samples, disable=not progress_bar) as bar:
            queue = LimeQueue[Prepared, Explanation](
                predictor,
                BatchSize(num_samples if batch_size is None else batch_size),
                prepare=lambda i: self._prepare(rows[i], call, predictor),
                flight=lambda i, one: flight(i, one, predictor, call),
                solve=lambda one, done: self._solve(one, done, call),
                progress=bar.update,
                one="row",
            )
            return ExplanationList(queue.run(len(rows)))

    def _settings(self, num_features: int | None, model_regressor: Any) -> Settings:
        """Settings of the fit; nothing is selected if the highest weights may be all, and their order does not matter.

        The order matters for a regressor of the user's: among coefficients of 0 it is that of the selection.
        """
        found = Settings(feature_selection=self.feature_selection, num_features=num_features)
        if num_features is None:
            return found
        method = found.feature_selection
        if method == "auto":
            method = "forward_selection" if num_features <= 6 else "highest_weights"
        found = replace(found, feature_selection=method)
        every = method == "highest_weights" and num_features >= len(self.feature_names) and model_regressor is None
        return replace(found, feature_selection="none") if every else found

    def _predictor(self, predict_fn: Any) -> Predictor:
        if self._is_sparse:
            function = sparse.SparseFunction(model.function_of(predict_fn, self.mode), self._columns, self.mode)
            return model.Called(function, None, "float32", None)
        return model.predictor(predict_fn, self._columns, self.mode, None, "float32", None, False)

    def _prepare(self, row: Any, call: Call, predictor: Predictor) -> Prepared:
        """Draw the neighbourhood of a row, in lime's order."""
        if sparse.is_sparse(row):
            return self._prepare_sparse(row, call, predictor)
        row = self._flat(row)
        scale, mean, s = self.scaler.scale_, self.scaler.mean_, call.num_samples
        columns = [Frequencies(self.feature_values[j], self.feature_frequencies[j]) for j in self.categorical_features]
        if self.discretizer is not None:
            drawn = lime_rows.discretized(self.random_state, self.discretizer, columns, row, s)
        else:
            numeric = np.isnan(row) & ~np.isin(np.arange(len(row)), self.categorical_features)
            check(not numeric.any(), "a row may have missing values only with discretize_continuous=True: fill them before")
            centre = row if self.sample_around_instance else mean
            which = self.categorical_features
            drawn = lime_rows.standardised(self.random_state, centre, scale, which, columns, row, s)
        scaled = drawn.data if self.discretizer is not None else (drawn.data - mean) / scale
        distances = lime_rows.distances(scaled, call.distance_metric)
        names = lime_names.of_row(
            self.feature_names, row, scaled[0], self.categorical_features, self.categorical_names, self.discretizer
        )
        return Prepared(scaled=scaled, samples=drawn.inverse, distances=distances, parts=None, names=names)

    def _flat(self, row: Any) -> Array:
        """A dense row (d,) as float64."""
        try:
            array = np.asarray(row, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise GpulimeError(f"a row must hold numbers; got {row!r:.100}: gpulime.TableExplainer takes text, too") from error
        d = len(self.feature_names)
        array = array[0] if array.shape == (1, d) else array
        hint = ": explain_instances takes several rows" if array.ndim == 2 else ""
        check(array.shape == (d,), f"a row must have {d} values, as the training data; got {array.shape}{hint}")
        return array

    def _prepare_sparse(self, row: Any, call: Call, predictor: Predictor) -> Prepared:
        """Draw the neighbourhood of a sparse row: only its entries that are not 0 vary."""
        check(self._is_sparse, "a sparse row needs sparse training_data: pass row.toarray()[0]")
        where, values = sparse.entries(row, len(self.feature_names))
        scale, mean = self.scaler.scale_[where], self.scaler.mean_[where]
        centre = values if self.sample_around_instance else mean
        drawn = lime_rows.standardised(self.random_state, centre, scale, [], [], values, call.num_samples)
        scaled = drawn.data / scale
        matrix = sparse.matrix(scaled, where, len(self.feature_names))
        distances = lime_rows.distances(matrix, call.distance_metric)
        function = predictor.model
        assert isinstance(function, sparse.SparseFunction)
        samples = np.column_stack([np.full(call.num_samples, function.add(where), dtype=np.float64), drawn.inverse])
        names = lime_names.of_sparse_row(self.feature_names, where, values, matrix[0])
        return Prepared(scaled=scaled, samples=samples, distances=distances, parts=where, names=names)

    def _solve(self, one: Prepared, done: Flight, call: Call) -> Callable[[], Explanation]:
        """Fit a linear model to each label, as lime does; the returned function waits for them and fills lime's fields."""
        weights = lime_base.weights(self.kernel, one.distances, self.kernel_width)
        fitted = lime_base.fits(one.scaled, weights, done.outputs(), call.settings, call.model_regressor)
        return lambda: self._explained(one, fitted(), call)

    def _explained(self, one: Prepared, found: Sequence[Fit], call: Call) -> Explanation:
        """Fill lime's fields."""
        if self.mode == "regression":
            explanation = Explanation(one.names, self.mode)
            lime_base.fill(explanation, one.labels, found, False, one.parts, self.verbose)
            values = found[0].outputs
            explanation.predicted_value = values[0]
            explanation.min_value, explanation.max_value = values.min(), values.max()
            return turned(explanation)
        if self.class_names is None:
            self.class_names = [str(label) for label in range(len(one.output))]
        if abs(one.output.sum() - 1) > 1e-5:  # as NumPy's allclose
            warnings.warn(model.NOT_ONE, stacklevel=2)
        explanation = Explanation(one.names, self.mode, list(self.class_names))
        explanation.predict_proba = one.output
        if call.top_labels:
            explanation.top_labels = one.labels
        lime_base.fill(explanation, one.labels, found, bool(call.top_labels), one.parts, self.verbose)
        return explanation


class RecurrentTabularExplainer(LimeTabularExplainer):
    """Explains predictions on series (T, F): T time steps of F features.

    Parameters
    ----------
    training_data : (rows, T, F) array
    feature_names : sequence of F str, optional
        By default their numbers; a column is called ``{name}_t-{steps before the last}``.
    others
        As for `LimeTabularExplainer`.
    """

    def __init__(
        self,
        training_data: Array,
        mode: str = "classification",
        training_labels: Any = None,
        feature_names: Sequence[Any] | None = None,
        categorical_features: Iterable[Any] | None = None,
        categorical_names: Mapping[int, Any] | None = None,
        kernel_width: float | None = None,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Sequence[str] | None = None,
        feature_selection: str = "auto",
        discretize_continuous: bool = True,
        discretizer: Any = "quartile",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        shape = np.shape(training_data)
        check(len(shape) == 3, f"training_data must be (rows, T, F); got {shape}")
        columns = Columns.of(training_data, feature_names, None)
        self.n_timesteps, self.n_features = shape[1:]
        super().__init__(
            columns.encode(training_data, "training_data"),
            mode=mode,
            training_labels=training_labels,
            feature_names=columns.names,
            categorical_features=categorical_features,
            categorical_names=categorical_names,
            kernel_width=kernel_width,
            kernel=kernel,
            verbose=verbose,
            class_names=class_names,
            feature_selection=feature_selection,
            discretize_continuous=discretize_continuous,
            discretizer=discretizer,
            random_state=random_state,
        )
        self._columns = columns

    def explain_instance(
        self,
        data_row: Any,
        classifier_fn: Any,
        labels: Iterable[int] = (1,),
        top_labels: int | None = None,
        num_features: int | None = 10,
        num_samples: int = 5000,
        distance_metric: Any = "euclidean",
        model_regressor: Any = None,
        batch_size: int | None = None,
        progress_bar: bool = False,
    ) -> Explanation:
        """Explain the prediction for one series (T, F); ``classifier_fn`` takes (b, T, F) arrays.

        See `LimeTabularExplainer.explain_instance`.
        """
        return super().explain_instance(
            data_row,
            classifier_fn,
            labels=labels,
            top_labels=top_labels,
            num_features=num_features,
            num_samples=num_samples,
            distance_metric=distance_metric,
            model_regressor=model_regressor,
            batch_size=batch_size,
            progress_bar=progress_bar,
        )

    def _flat(self, row: Any) -> Array:
        steps, shape = (self.n_timesteps, self.n_features), np.shape(row)
        check(shape == steps, f"a row must be a series {steps}, as in the training data; got {shape}")
        array: Array = self._columns.encode(np.asarray(row)[None], "a row")[0]
        return array
