"""Index of the rows of a run that count: some columns of all rows in memory, whole rows read on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpulime.errors import GpulimeError
from gpulime.runs.store import shards, validate
from gpulime.runs.store.row import schema

Keep = Callable[[pa.Table], pa.Table]


class Places:
    """One row per image, in the order of writing; a row's number never changes, even if shards are merged meanwhile.

    Parameters
    ----------
    run : Path
        The run directory.
    columns : sequence of str
        Columns passed to ``keep``; `shards.DECIDING` must be among them.
    keep : callable
        A few hundred rows -> the same rows with the columns to hold in memory, `shards.DECIDING` among them.

    Attributes
    ----------
    rows : pyarrow.Table, the result of ``keep``
    corrupt : CorruptError of each skipped shard; a warning names it

    Raises
    ------
    GpulimeError
        As `shards.each`.
    """

    def __init__(self, run: Path, columns: Sequence[str], keep: Keep) -> None:
        self._run = run
        self._group: tuple[Path, int, pa.Table] | None = None  # the row group read last: neighbours often come next
        self._paths, placed, self.corrupt = _placed(run, columns, keep)
        self.rows = placed.drop_columns(["shard", "number"])
        self._shard, self._number = (placed[name].to_numpy() for name in ("shard", "number"))
        for error in self.corrupt:
            shards.warn(error, run)

    def row(self, i: int) -> dict[str, Any]:
        """The whole stored row ``i`` of ``rows``.

        Raises
        ------
        GpulimeError
            If its shard was damaged or removed since.
        """
        while True:
            path, number = self._paths[self._shard[i]], int(self._number[i])
            try:
                table, start = self._row_group(path, number)
            except FileNotFoundError:  # merged into another since
                self._find_again()
                if self._shard[i] < 0:
                    image_id = self.rows["image_id"][i].as_py()
                    raise GpulimeError(f"image {image_id!r} is not among the results of {self._run} any more") from None
                if (self._paths[self._shard[i]], int(self._number[i])) == (path, number):
                    raise GpulimeError(f"{path} is listed and not there: is it a link to nowhere?") from None
            else:
                (row,) = table.slice(number - start, 1).to_pylist()
                return dict(row)

    def _row_group(self, path: Path, number: int) -> tuple[pa.Table, int]:
        """The row group that holds a row of a shard, and its first row's number."""
        if self._group is not None:
            held, start, table = self._group
            if held == path and start <= number < start + len(table):
                return table, start
        with shards.opened(path, whole=False) as shard:
            sizes = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
            ends = np.cumsum(sizes)
            i = int(np.searchsorted(ends, number, side="right"))
            table = shards.filled(shard.read_row_group(i), schema().names)
            self._group = path, int(ends[i]) - sizes[i], table
        return self._group[2], self._group[1]

    def _find_again(self) -> None:
        """New positions of the same images; -1 for missing ones."""
        self._paths, now, _ = _placed(self._run, shards.DECIDING, lambda rows: rows)
        places = pc.index_in(self.rows["image_id"], value_set=now["image_id"])
        self._shard, self._number = (
            pc.fill_null(now[name].take(places), -1).to_numpy().astype(np.int64) for name in ("shard", "number")
        )


def judged(run: Path) -> Places:
    """The rows of a run with ``status``, ``error_type`` and ``error``; rows with a damaged explanation become error rows."""
    light = [*shards.DECIDING, "error_type", "error", "damaged"]
    places = Places(run, schema().names, lambda rows: validate.judged(rows).select(light))
    places.rows = validate.marked(places.rows)
    return places


def _placed(run: Path, columns: Sequence[str], keep: Keep) -> tuple[list[Path], pa.Table, list[shards.CorruptError]]:
    """The sound shards, the kept columns of rows that count with ``shard`` and ``number``, and the corrupt shards."""

    def read(path: Path, shard: pq.ParquetFile) -> tuple[Path, pa.Table] | shards.CorruptError:
        return path, shards.kept(shard, columns, keep)

    found = shards.each(run, read, lambda error: error)
    sound = [one for one in found if not isinstance(one, shards.CorruptError)]
    tables = [_numbered(keep(shards.nothing(columns)), 0)]
    tables += [_numbered(table, place) for place, (_, table) in enumerate(sound)]
    rows = pa.concat_tables(tables)
    corrupt = [one for one in found if isinstance(one, shards.CorruptError)]
    return [path for path, _ in sound], rows.filter(shards.winners(rows)), corrupt


def _numbered(table: pa.Table, shard: int) -> pa.Table:
    table = table.append_column("shard", pa.array(np.full(len(table), shard), pa.int32()))
    return table.append_column("number", pa.array(np.arange(len(table)), pa.int32()))
