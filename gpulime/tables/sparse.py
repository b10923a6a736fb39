"""Sparse rows: a row of the model's input holds the values of its non-zero columns, and a function gets CSR matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from torch import Tensor

from gpulime.engine import functions
from gpulime.errors import GpulimeError
from gpulime.tables.bins import Array
from gpulime.tables.model import Function


def is_sparse(value: Any) -> bool:
    """Tell if a value is a sparse matrix or array of SciPy."""
    return bool(sparse.issparse(value))


@dataclass
class SparseFunction(Function):
    """Calls a function of CSR matrices (b, d).

    A row of the tensor (b, 1 + k) holds the number of its input, then the values of the input's columns, then padding.

    Attributes
    ----------
    inputs : list, number of an input -> its columns (count,)
    """

    inputs: list[Array] = field(default_factory=list)

    def add(self, columns: Array) -> int:
        """Number of an input with these columns."""
        self.inputs.append(columns)
        return len(self.inputs) - 1

    def __call__(self, rows: Tensor) -> Tensor:
        array = rows.cpu().numpy()
        columns = [self.inputs[int(number)] for number in array[:, 0]]
        counts = np.array([len(some) for some in columns])
        values = array[:, 1:][np.arange(array.shape[1] - 1) < counts[:, None]]
        starts = np.concatenate([[0], counts.cumsum()])
        shape = len(rows), len(self.columns)
        matrix = sparse.csr_matrix((values, np.concatenate(columns), starts), shape=shape)
        return functions.read(self.function(matrix), len(rows), mode=self.mode)


def entries(row: Any, d: int) -> tuple[Array, Array]:
    """Columns and values (count,) of the non-zero entries of a sparse row (1, d), in the order of the columns.

    Raises
    ------
    GpulimeError
        If the row has another width, or no entries.
    """
    matrix = sparse.csr_matrix(row)
    if matrix.shape != (1, d):
        raise GpulimeError(f"a sparse row must be {(1, d)}, as the training data; got {tuple(matrix.shape)}")
    matrix.sum_duplicates()
    kept = matrix.data != 0
    if not kept.any():
        raise GpulimeError("a sparse row must have an entry that is not 0: only these are explained; got none")
    return matrix.indices[kept], matrix.data[kept].astype(np.float64)


def matrix(values: Array, columns: Array, d: int) -> Any:
    """CSR matrix (s, d) with ``values`` (s, count) in some columns (count,)."""
    s, count = values.shape
    return sparse.csr_matrix((values.ravel(), np.tile(columns, s), np.arange(s + 1) * count), shape=(s, d))
