"""The rows of a run that count, one per image: some columns of all of them, or whole rows on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpulime.errors import GpulimeError, unknown
from gpulime.runs.store import row, shards
from gpulime.runs.store.row import DEVICE, schema

Keep = Callable[[pa.Table], pa.Table]


def read(run: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a run, or all, one row per image as `shards.winners` selects it, in the order of writing.

    A corrupt shard is skipped, with a warning that names it.

    Raises
    ------
    GpulimeError
        For an unknown column, and for a shard that a newer gpulime wrote or the system denies reading, by its name.
    """
    known = schema().names
    for column in columns or ():
        if column not in known:
            raise unknown("column", column, known)
    wanted = known if columns is None else columns
    table = shards.rows(run, [*dict.fromkeys([*wanted, *shards.DECIDING])])
    return table.filter(shards.winners(table)).select(wanted)


class Done(NamedTuple):
    """The state of an image: explained or not, the last attempt, and if it crashed the device."""

    is_ok: bool
    attempt: int
    cost_device: bool = False

    @property
    def may_be_tried_again(self) -> bool:
        """True if it failed without ending a process."""
        return not (self.is_ok or self.cost_device)


def done(run: Path) -> dict[str, Done]:
    """Images with a row, an explanation or an error, by their ids; rows of corrupt shards do not count."""
    table = shards.rows(run, ["image_id", "status", "error_type", "attempt"])
    facts = (
        pc.equal(table["status"], "ok"),
        table["attempt"],
        pc.fill_null(pc.equal(table["error_type"], DEVICE), False),
    )
    ids, attempts = table["image_id"].to_pylist(), list(map(Done, *(fact.to_pylist() for fact in facts)))
    found = dict(zip(ids, attempts, strict=True))
    if len(found) < len(ids):  # some were tried again
        for image_id, attempt in zip(ids, attempts, strict=True):
            found[image_id] = Done(*map(max, found[image_id], attempt))
    return found


class Places:
    """One row per image, in the order of writing; a row's number never changes, even if shards are merged meanwhile.

    ``keep`` gets ``columns`` of a few hundred rows at a time, and returns the columns to hold in memory; `shards.DECIDING`
    must be among both. ``rows`` are all rows that it returned; of the shards in ``corrupt`` a warning is given.
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
        """The whole stored row ``i`` of ``rows``; raises `GpulimeError` if its shard was damaged or removed since."""
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
    places = Places(run, schema().names, lambda rows: row.judged(rows).select(light))
    places.rows = row.marked(places.rows)
    return places


def _placed(run: Path, columns: Sequence[str], keep: Keep) -> tuple[list[Path], pa.Table, list[shards.CorruptError]]:
    """The sound shards, the kept columns of rows that count with ``shard`` and ``number``, and the corrupt shards."""
    sound, corrupt = shards.each(run, lambda path, shard: (path, shards.kept(shard, columns, keep)))
    tables = [_numbered(keep(shards.nothing(columns)), 0)]
    tables += [_numbered(table, place) for place, (_, table) in enumerate(sound)]
    rows = pa.concat_tables(tables)
    return [path for path, _ in sound], rows.filter(shards.winners(rows)), corrupt


def _numbered(table: pa.Table, shard: int) -> pa.Table:
    table = table.append_column("shard", pa.array(np.full(len(table), shard), pa.int32()))
    return table.append_column("number", pa.array(np.arange(len(table)), pa.int32()))
