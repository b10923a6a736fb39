"""Names and values of one row, as lime's explainer shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpulime.explanations.table import TableDomainMapper
from gpulime.tables.bins import Array


def rounded(values: Any) -> list[str]:
    """Numbers as text with two digits."""
    return [f"{float(value):.2f}" for value in values]


def of_row(
    feature_names: Sequence[str],
    row: Array,
    scaled: Array,
    categorical: Sequence[int],
    categorical_names: Mapping[int, Any],
    discretizer: Any,
) -> TableDomainMapper:
    """Names and values of a dense row (d,)."""
    names, values = list(feature_names), rounded(row)
    bins = {} if discretizer is None else discretizer.lambdas
    for j in categorical:
        if j not in bins:
            names[j] = f"{names[j]}={_category(row[j], categorical_names.get(j))}"
            values[j] = "True"
    divided = None
    if discretizer is not None:
        found = np.asarray(discretizer.discretize(row), dtype=np.float64)
        divided = list(names)
        for j, of_bins in discretizer.names.items():
            number = int(found[j])
            divided[j] = of_bins[number] if number < len(of_bins) else f"{feature_names[j]} is missing"
    mapper = TableDomainMapper(names, values, divided)
    mapper.scaled_row = scaled  # type: ignore[attr-defined]  # lime's fields
    mapper.categorical_features = categorical if discretizer is None else range(len(row))  # type: ignore[attr-defined]
    mapper.all_categorical = len(mapper.categorical_features) == len(row)  # type: ignore[attr-defined]
    return mapper


def of_sparse_row(feature_names: Sequence[str], columns: Array, values: Array, scaled: Any) -> TableDomainMapper:
    """Names and values of the entries of a sparse row (1, d)."""
    mapper = TableDomainMapper(list(feature_names), rounded(values), None, columns.tolist())
    mapper.scaled_row, mapper.categorical_features, mapper.all_categorical = scaled, [], False  # type: ignore[attr-defined]
    return mapper


def _category(value: float, names: Any) -> str:
    """The name of a value, or its number; names may lack it."""
    if np.isnan(value):
        return "missing"
    number: Any = int(value) if value == int(value) else value
    known = names is not None and (number in names if isinstance(names, Mapping) else 0 <= number < len(names))
    return str(names[number]) if known else str(number)
