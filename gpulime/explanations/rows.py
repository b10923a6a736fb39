"""Explanations of a batch of table rows: the tensors of every kind, with names and values of the columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self, overload

from torch import Tensor

from gpulime.errors import check
from gpulime.explanations import batch
from gpulime.explanations.explanation import MODES, BatchExplanation
from gpulime.explanations.shown import ShownList
from gpulime.explanations.table import TableDomainMapper


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ExplainedRows(ShownList, batch.Explanations):
    """The explanations of n table rows: the attributes of `gpulime.Explanations`, and these.

    Attributes
    ----------
    names : n lists of str, the name of each part, such as "sepal width <= 2.80"
    features : n lists of str, the column of each part
    values : n lists of str, the row's value in that column
    columns : (n, k) int64, its number; -1 beyond an input's count
    bounds : (n, 2) float64, the least and the largest output among the samples of a regression; else NaN
    mode : "classification" or "regression"
    """

    names: list[list[str]]
    features: list[list[str]]
    values: list[list[str]]
    columns: Tensor
    bounds: Tensor
    mode: str = "classification"

    PADDED: ClassVar[dict[str, float]] = batch.Explanations.PADDED | {"columns": -1}
    WHOLE: ClassVar[tuple[str, ...]] = (*batch.Explanations.WHOLE, "columns")

    @overload
    def __getitem__(self, index: int) -> BatchExplanation: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> BatchExplanation | Self:
        """One row's explanation, or those of several."""
        if isinstance(index, slice):
            return self.part(index)
        check(-len(self) <= index < len(self), f"index must be in [{-len(self)}, {len(self)}); got {index}")
        index %= len(self)
        names = TableDomainMapper(self.features[index], self.values[index], self.names[index])
        low, high = self.bounds[index].tolist()
        return BatchExplanation.of(self, index, names, self.mode, (low, high))

    def __iter__(self) -> Iterator[BatchExplanation]:
        here = self.cpu()
        return (here[i] for i in range(len(self)))

    def __repr__(self) -> str:
        n, l, k = self.coefficients.shape
        return f"ExplainedRows({n} rows, {l} labels, up to {k} columns, on {self.labels.device})"

    def _parts(self) -> Tensor:
        return self.columns.cpu()

    def _names(self) -> list[list[str]]:
        return self.names

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        n, _, k = self.coefficients.shape
        return super()._shapes() | {"columns": (n, k), "bounds": (n, 2)}

    def _sound(self) -> bool:
        each = zip(self.counts.tolist(), self.names, self.features, self.values, strict=True)
        return (
            super()._sound()
            and self.mode in MODES
            and all(len(one) == count and all(isinstance(it, str) for it in one) for count, *lists in each for one in lists)
        )
