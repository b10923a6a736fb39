"""Table rows of a run, from columns of a file."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpulime.errors import GpulimeError, check
from gpulime.explanations.rows import ExplainedRows
from gpulime.runs.reading import records
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.records import Records
from gpulime.runs.reading.sources import Item
from gpulime.runs.source import Group
from gpulime.runs.store import row
from gpulime.table_explainer import TableExplainer
from gpulime.tables.batch import Rows

AT_ONCE = 512  # rows in a batch; they share a neighbourhood, whose samples are predicted once


@dataclass
class RowSource:
    """The rows of a table; a `gpulime.runs.source.Source`.

    Attributes
    ----------
    framed : bool, the model takes DataFrames
    labels : "top", "target" or "top+target", or the classes to explain for each row
    """

    explainer: TableExplainer
    records: Records
    framed: bool
    labels: str | Sequence[int]
    kind: str = row.ROW

    @property
    def per_sample(self) -> float:
        """Forwards of a row for each of its samples."""
        n_samples = self.explainer.n_samples
        together = 1 if self.explainer.table.around else min(AT_ONCE, len(self.records.places))
        return (1 + (n_samples - 1) / together) / n_samples

    def groups(self, items: Sequence[Item], proven: bool, waiting: Callable[[], None]) -> Generator[Group, None, None]:
        """Rows in order, some hundred at a time."""
        for start in range(0, len(items), AT_ONCE):
            waiting()
            reads = self._reads(items[start : start + AT_ONCE])
            yield from records.grouped(reads, self._batch)

    def passes(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Rows with missing values come last.

        A model may refuse them. Then all rows in flight are explained alone, and each pays for all of its samples.
        """
        lacking = self.records.lacking
        apart = [item for item in items if item.image_id in lacking]
        return [some for some in ([item for item in items if item.image_id not in lacking], apart) if some]

    def alone(self, read: Read) -> Rows:
        """The batch of one row."""
        return self._batch([read])

    def read(self, item: Item) -> Read:
        """Read one row; one whose values do not fit the columns becomes a `Read` with its error."""
        name = item.image_id
        try:
            check(name not in self.records.broken, lambda: self.records.broken[name])
            [values] = self._encoded([name])
            found = records.classes(item, self.labels)
        except GpulimeError as error:
            return Read(item, error=str(error), kind=records.ERROR)
        return Read(item, content=values, sha256=self.records.sha256(name), classes=found)

    def columns(self, piece: ExplainedRows, i: int, read: Read) -> dict[str, Any]:
        """Names of the parts, and the values of the row."""
        return {"kind": row.ROW, "n_segments": len(piece.names[i]), "parts": piece.names[i], "values": piece.values[i]}

    def _reads(self, items: Sequence[Item]) -> list[Read]:
        """Read rows together, which is faster; one by one if that fails."""
        if any(item.image_id in self.records.broken for item in items) or self.labels in ("target", "top+target"):
            return [self.read(item) for item in items]
        try:
            values = self._encoded([item.image_id for item in items])
        except GpulimeError:
            return [self.read(item) for item in items]
        return [
            Read(item, content=one, sha256=self.records.sha256(item.image_id)) for item, one in zip(items, values, strict=True)
        ]

    def _encoded(self, ids: Sequence[str]) -> np.ndarray[Any, np.dtype[Any]]:
        values = self.explainer.table.columns.encode(self.records.rows(ids, self.framed), "row")
        self.explainer.table.refuse_missing(values, "row")
        return values

    def _batch(self, reads: Sequence[Read]) -> Rows:
        labels, top = records.aimed(reads, self.labels)
        return Rows(
            values=np.stack([read.content for read in reads]),
            labels=labels,
            top=top,
        )
