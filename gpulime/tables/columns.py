"""Columns of a table: the user's rows as float64 numbers, and numbers as the rows that the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from gpulime.errors import GpulimeError, check, nearest
from gpulime.tables.bins import Array
from gpulime.tables.categories import Categories

MOST_NAMED = 3  # columns listed in a message


@dataclass
class Columns:
    """The columns of the training data.

    Attributes
    ----------
    names : (d,) str
    categorical : (d,) bool
    whole : (d,) bool, columns of a DataFrame that hold integers only
    dtypes : the dtypes of a DataFrame, or None for arrays
    labels : the column labels of a DataFrame, or None
    categories : dict, number of a categorical column of a DataFrame -> its values
    steps : (T, F) of series, or None for rows
    kind : dtype of the rows that the model gets; a torch.dtype stands for tensors
    device : of these tensors
    """

    names: list[str]
    categorical: Array
    whole: Array
    dtypes: list[Any] | None = None
    labels: Any = None
    categories: dict[int, Categories] = field(default_factory=dict)
    steps: tuple[int, int] | None = None
    kind: Any = np.float64
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, training: Any, names: Sequence[Any] | None, categorical: Iterable[Any] | None) -> Columns:
        """The columns of the user's training data, a DataFrame, an array (rows, d) or series (rows, T, F).

        Raises
        ------
        GpulimeError
            If it has no rows or another shape, or if names or categorical columns do not fit.
        """
        if is_frame(training):
            return cls._of_frame(training, names, categorical)
        shape = np.shape(training)
        right = "training_data must be a DataFrame, an array (rows, columns) or series (rows, T, F), with a row or more"
        check(len(shape) in (2, 3) and min(shape) > 0, f"{right}; got {_kind(training)}")
        steps = None if len(shape) == 2 else (shape[1], shape[2])
        given = named(range(shape[-1]) if names is None else names, shape[-1])
        if steps is not None:
            given = [f"{name}_t-{steps[0] - 1 - t}" for name in given for t in range(steps[0])]
        flags = _flags(categorical, given)
        return cls(given, flags, np.zeros(len(given), dtype=bool), steps=steps)

    @classmethod
    def _of_frame(cls, frame: Any, names: Sequence[Any] | None, categorical: Iterable[Any] | None) -> Columns:
        from pandas.api import types

        check(len(frame) > 0 and frame.shape[1] > 0, f"training_data must have a row and a column or more; got {frame.shape}")
        given = named(frame.columns if names is None else names, frame.shape[1])
        _refuse_doubles(frame, frame.columns, "training_data")
        dtypes = list(frame.dtypes)
        times = [name for name, dtype in zip(given, dtypes, strict=True) if types.is_datetime64_any_dtype(dtype)]
        check(not times, f"columns must be numbers or categories; {times[:MOST_NAMED]} are dates: convert them to numbers")
        found = [not types.is_numeric_dtype(dtype) or types.is_bool_dtype(dtype) for dtype in dtypes]
        flags = np.array(found) | _flags(categorical, given)
        whole = np.array([types.is_integer_dtype(dtype) for dtype in dtypes]) & ~flags
        values = {int(j): Categories(_values(frame.iloc[:, int(j)])) for j in np.flatnonzero(flags)}
        return cls(given, flags, whole, dtypes, frame.columns, values)

    def encode(self, rows: Any, what: str = "inputs") -> Array:
        """The user's rows as numbers (n, d) float64: values, numbers of categories, NaN for missing ones.

        Raises
        ------
        GpulimeError
            If the rows have other columns than the training data, or are not numbers.
        """
        if self.dtypes is not None:
            return self._encode_frame(rows, what)
        if is_frame(rows):
            rows = rows.to_numpy()
        check(not issparse(rows), f"{what} must be dense, as the training data; got {_kind(rows)}: pass rows.toarray()")
        array = self._array(rows, what)
        one = (len(self),) if self.steps is None else self.steps
        hint = ": pass [row] for one row" if array.shape == one else ""
        right = f"{what} must be (n, {', '.join(map(str, one))}), as the training data"
        check(array.ndim == 1 + len(one) and array.shape[1:] == one, f"{right}; got {array.shape}{hint}")
        return array if self.steps is None else array.transpose(0, 2, 1).reshape(len(array), len(self))

    def _array(self, rows: Any, what: str) -> Array:
        if isinstance(rows, Tensor):
            rows = rows.detach().cpu().double().numpy()
        try:
            return np.array(rows, dtype=np.float64)
        except (TypeError, ValueError) as error:
            first = str(error).splitlines()[0]
            hint = "pass text and categories in a DataFrame, and rows of one width"
            raise GpulimeError(f"{what} must be numbers; got {_kind(rows)} ({first}): {hint}") from error

    def suit(self, model: Any, training: Any) -> None:
        """Take over the kind of the training data, and the columns that a scikit-learn estimator was trained on.

        A function gets tensors for tensors, and arrays of a floating dtype for such arrays. An estimator gets DataFrames if it
        was trained on one, else arrays in float64.
        """
        if not hasattr(getattr(model, "__self__", model), "get_params"):
            self._resemble(training)
        names = getattr(model, "feature_names_in_", None)
        if self.labels is None and self.steps is None and names is not None and len(names) == len(self):
            self.labels = list(names)
            if self.names == [str(j) for j in range(len(self))]:
                self.names = list(map(str, names))

    def _resemble(self, training: Any) -> None:
        if isinstance(training, Tensor):
            self.kind = training.dtype if training.is_floating_point() else torch.get_default_dtype()
            self.device = training.device
        elif isinstance(training, np.ndarray) and training.dtype.kind == "f":
            self.kind = training.dtype.newbyteorder("=")

    def forget(self) -> None:
        """Forget values of categories that training lacks, of earlier rows."""
        for categories in self.categories.values():
            categories.forget()

    def _encode_frame(self, rows: Any, what: str) -> Array:
        names = list(map(str, self.labels))
        listed = f"{', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''}"
        right = f"{what} must be a DataFrame with the {len(self)} columns of the training data ({listed})"
        if not is_frame(rows):
            hint = ": pass frame.iloc[[i]] for one row" if type(rows).__name__ == "Series" else ""
            raise GpulimeError(f"{right}; got {_kind(rows)}{hint}")
        lacking = [str(label) for label in self.labels if label not in rows.columns]
        check(not lacking, lambda: f"{right}; lacks {lacking[:MOST_NAMED]}{nearest(lacking[0], map(str, rows.columns))}")
        _refuse_doubles(rows, self.labels, what)
        found = np.empty((len(rows), len(self)))
        for j, label in enumerate(self.labels):
            column = rows[label]
            if j in self.categories:
                found[:, j] = self.categories[j].encode(column)
                continue
            try:
                found[:, j] = column.to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise GpulimeError(f"column {label!r} of {what} must be numbers, as in training; got {column.dtype}") from error
        return found

    def decode(self, values: Array) -> Any:
        """Rows for the model from numbers (b, d) float64: a DataFrame, an array or a tensor, as the training data."""
        if self.steps is not None:
            values = values.reshape(len(values), self.steps[1], self.steps[0]).transpose(0, 2, 1)
        if isinstance(self.kind, torch.dtype):
            return torch.from_numpy(values).to(self.kind).to(self.device)
        if self.labels is None:
            return values.astype(self.kind, copy=False)
        import pandas

        if self.dtypes is None:
            return pandas.DataFrame(values, columns=self.labels)
        if not self.categories and all(dtype == np.float64 for dtype in self.dtypes):
            return pandas.DataFrame(values, columns=self.labels)
        columns = [self._series(j, values[:, j]) for j in range(len(self))]
        frame = pandas.concat(columns, axis=1)
        frame.columns = self.labels
        return frame

    def _series(self, j: int, numbers: Array) -> Any:
        import pandas

        assert self.dtypes is not None
        dtype = self.dtypes[j]
        if j not in self.categories:
            missing = np.isnan(numbers).any()
            if isinstance(dtype, np.dtype) and dtype.kind in "iu":  # which have no missing value
                return pandas.Series(numbers if missing else np.rint(numbers).astype(dtype))
            return pandas.Series(np.rint(numbers) if self.whole[j] else numbers).astype(dtype)
        categories, codes = self.categories[j], np.where(np.isnan(numbers), -1, numbers).astype(int)
        if isinstance(dtype, pandas.CategoricalDtype):
            codes, known = categories.of(codes)
            return pandas.Series(pandas.Categorical.from_codes(codes, categories=known, ordered=dtype.ordered))
        lookup = np.empty(len(categories.values) + 1, dtype=object)
        lookup[:-1] = categories.values
        lookup[-1] = pandas.NA if not isinstance(dtype, np.dtype) else None if dtype.kind == "O" else np.nan
        series = pandas.Series(lookup[codes], dtype=object)
        return series.astype(dtype) if _takes(series, dtype) else series

    def shown(self, j: int, number: float) -> str:
        """A value of column j as text."""
        if isnan(number):
            return "missing"
        if j in self.categories:
            return str(self.categories[j].values[int(number)])
        return str(int(number)) if self.whole[j] or (self.categorical[j] and number == int(number)) else f"{number:.2f}"


def is_frame(value: Any) -> bool:
    """Tell if a value is a pandas DataFrame, without importing pandas."""
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "dtypes") and hasattr(value, "columns")


def _refuse_doubles(frame: Any, labels: Any, what: str) -> None:
    """Raise `GpulimeError` if several columns of a DataFrame have one of the labels."""
    if not frame.columns.is_unique:
        doubles = frame.columns[frame.columns.duplicated()]
        named = [str(label) for label in dict.fromkeys(doubles) if label in labels]
        check(not named, f"{what} must have one column of each name; got several {named[:MOST_NAMED]}")


def _takes(series: Any, dtype: Any) -> bool:
    """Tell if a dtype has all values of a series; bools have no missing value, and NumPy would make it True."""
    if isinstance(dtype, np.dtype) and dtype.kind in "iub" and series.isna().any():
        return False
    try:
        series.astype(dtype)
    except (TypeError, ValueError):
        return False
    return True


def _values(column: Any) -> list[Any]:
    """The values of a categorical column in order, each once."""
    if hasattr(column, "cat"):
        return list(column.cat.categories)
    values = list(column.dropna().unique())
    try:
        return sorted(values)
    except TypeError:  # of several types
        return sorted(values, key=lambda value: (type(value).__name__, str(value)))


def _flags(categorical: Iterable[Any] | None, names: Sequence[str]) -> Array:
    """The categorical columns (d,) bool, given by numbers or names."""
    flags = np.zeros(len(names), dtype=bool)
    flags[numbered(categorical, names)] = True
    return flags


def numbered(categorical: Iterable[Any] | None, names: Sequence[str]) -> list[int]:
    """The numbers of categorical columns, which are given by numbers or names, in the given order.

    Raises
    ------
    GpulimeError
        If one is no column.
    """
    right = "categorical_features must be numbers or names of columns"
    check(
        not isinstance(categorical, str) and (categorical is None or isinstance(categorical, Iterable)),
        f"{right}; got {categorical!r}",
    )
    found = []
    for column in [] if categorical is None else categorical:
        if isinstance(column, str):
            check(column in names, f"categorical_features must be columns; got {column!r}{nearest(column, names)}")
            found.append(names.index(column))
            continue
        if not isinstance(column, Integral) or isinstance(column, bool):
            raise GpulimeError(f"{right}; got {column!r}")
        number, d = int(column), len(names)
        check(-d <= number < d, f"categorical_features must be below the {d} columns; got {column}")
        found.append(number % d)
    return found


def named(names: Iterable[Any], d: int) -> list[str]:
    """Names of d columns.

    Raises
    ------
    GpulimeError
        If there are more or fewer.
    """
    check(not isinstance(names, str), f"feature_names must be a list of {d} names; got {names!r}")
    found = list(map(str, names))
    check(len(found) == d, f"feature_names must name {d} columns; got {len(found)} {'name' if len(found) == 1 else 'names'}")
    return found


def scaler(training: Any) -> StandardScaler:
    """scikit-learn's scaler of training data (rows, d); a column without any value has mean 0 and scale 1."""
    if isinstance(training, np.ndarray) and (empty := np.isnan(training).all(0)).any():
        training = np.where(empty, 0.0, training)
    return StandardScaler(with_mean=False).fit(training)


def renamed(what: str, given: Any, columns: Columns) -> dict[int, Any]:
    """What the user gives for columns, such as names of their values, by the number of the column instead of its name."""
    right = f"{what} must be a mapping of columns, by name or number"
    check(given is None or isinstance(given, Mapping), f"{right}; got {type(given).__name__}")
    found = {}
    for column, values in (given or {}).items():
        if isinstance(column, str):
            lacks = f"{what} names a column that training_data lacks: {column!r}{nearest(column, columns.names)}"
            check(column in columns.names, lacks)
        else:
            check(
                isinstance(column, Integral) and 0 <= int(column) < len(columns),
                f"{right} below {len(columns)}; got {column!r}",
            )
        found[columns.names.index(column) if isinstance(column, str) else int(column)] = values
    return found


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
