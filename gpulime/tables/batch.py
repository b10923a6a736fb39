"""Batches of table rows, and how they become masked inputs."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.engine.masked import Wanted
from gpulime.engine.model import Predictor
from gpulime.errors import check
from gpulime.explanations.rows import ExplainedRows
from gpulime.tables import neighbourhood
from gpulime.tables.bins import Array
from gpulime.tables.masked_tables import MaskedTables, Neighbourhoods, Standard
from gpulime.tables.table import Drawn, Table

UNSEEN = 255  # cell, as a byte, of a value that training lacks
AHEAD = 2**22  # values of neighbourhoods that are drawn at once, to bound memory


@dataclass(frozen=True)
class Rows:
    """A batch of n rows.

    Attributes
    ----------
    values : (n, d) float64, encoded
    labels : (n, l) int64, or None for the most probable ones
    keys : (n,) int64, or None for a neighbourhood that all share
    top : bool
        If True, the classes with the highest output are explained too, before ``labels``.
    """

    values: Array
    labels: Tensor | None = None
    keys: Tensor | None = None
    top: bool = False

    def __len__(self) -> int:
        return len(self.values)


@dataclass(eq=False)
class Tables:
    """Turns batches of rows into masked inputs, by the settings of a `gpulime.TableExplainer`."""

    table: Table
    predictor: Predictor
    seed: int
    n_samples: int
    mode: str
    class_names: list[str] | None

    def redrawn(self, seed: int, n_samples: int) -> Tables:
        """The same with other neighbourhoods."""
        table = copy(self.table)
        table.state = np.random.RandomState(seed % 2**32).get_state()
        return replace(self, table=table, seed=seed, n_samples=n_samples)

    def batch(self, inputs: Any, labels: Tensor | None, keys: Tensor | None) -> Rows:
        """A batch of the user's rows (n, d)."""
        values = self.table.columns.encode(inputs)
        check(len(values) > 0, "inputs must have a row or more; got none")
        self.table.refuse_missing(values, "inputs")
        return Rows(values, labels, keys)

    def masked(self, batch: Rows) -> Iterator[MaskedTables]:
        """Draw the neighbourhoods of the batch's rows: one for all, or of a few rows at a time."""
        n = len(batch)
        if batch.keys is None and not self.table.around:
            random = np.random.RandomState()
            random.set_state(self.table.state)
            yield self._masked(batch, slice(0, n), [self.table.draw(random, self.n_samples)])
            return
        together = max(1, AHEAD // (self.n_samples * len(self.table.columns)))
        for start in range(0, n, together):
            where = slice(start, start + together)
            yield self._masked(batch, where, [self._drawn(batch, i) for i in range(start, min(n, start + together))])

    def _drawn(self, batch: Rows, i: int) -> Drawn:
        """The neighbourhood of row i: of its key, or from the table's state, as a new explainer would draw it."""
        if batch.keys is None:
            random = np.random.RandomState()
            random.set_state(self.table.state)
        else:
            random = neighbourhood.of_key(self.seed, int(batch.keys[i]))
        return self.table.draw(random, self.n_samples, batch.values[i] if self.table.around else None)

    def _masked(self, batch: Rows, where: slice, drawn: list[Drawn]) -> MaskedTables:
        values = batch.values[where]
        given = torch.from_numpy(values)
        device = self.predictor.device(given)
        around, cells = (np.stack(parts) for parts in zip(*drawn, strict=True))
        cells, own = _small(cells, self.table.cells(values))
        is_module = self.predictor.module is not None
        dtype = self.predictor.dtype(given.to(device)) if is_module else torch.float64
        keys = torch.zeros(len(given), dtype=torch.int64) if batch.keys is None else batch.keys[where]
        labels = None if batch.labels is None else batch.labels[where].to(device)
        return MaskedTables(
            given.to(device),
            torch.from_numpy(own).to(device),
            Neighbourhoods(torch.from_numpy(around).to(device), torch.from_numpy(cells).to(device)),
            dtype,
            keys.to(device),
            Wanted(labels, batch.top or labels is None, highest(batch.labels)),
            self._standard(device),
            self._explain,
        )

    def _standard(self, device: torch.device) -> Standard | None:
        table = self.table
        if table.divided.all():
            return None
        return Standard(*(torch.from_numpy(values).to(device) for values in (table.divided, table.mean, table.scale)))

    def _explain(self, found: dict[str, Any], given: Tensor) -> ExplainedRows:
        n, d = given.shape
        values = given.cpu().numpy()
        return ExplainedRows(
            **found,
            names=self.table.names(values),
            features=[self.table.columns.names] * n,
            values=[self.table.shown_row(row) for row in values],
            columns=torch.arange(d, device=given.device).expand(n, d),
            bounds=torch.full((n, 2), torch.nan, dtype=torch.float64, device=given.device),
            mode=self.mode,
            class_names=self.class_names,
        )


def _small(cells: Array, own: Array) -> tuple[Array, Array]:
    """Cells of samples and of rows as bytes, if there are few: comparing these takes most of the time of masks."""
    if max(cells.max(), own.max()) >= UNSEEN:
        return cells, own
    return cells.astype(np.uint8), np.where(own < 0, UNSEEN, own).astype(np.uint8)


def highest(labels: Tensor | None) -> tuple[int, int] | None:
    """The row with the highest label, and that label."""
    if labels is None or not labels.numel():
        return None
    row = int(labels.amax(1).argmax())
    return row, int(labels[row].max())
