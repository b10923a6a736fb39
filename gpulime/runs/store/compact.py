"""Merge small shards into bigger ones, safe for readers and if killed: no row is lost or seen twice.

1. Every shard is read whole; corrupt ones are never touched.
2. Small neighbours are merged into one new shard, in the order of writing: staged row group by row group, read back, renamed.
3. Then the old ones are deleted. If killed between 2 and 3, rows are duplicated in two shards. Readers take one row per
   image, so they see no difference; the next compact deletes the duplicates.

Shards that appear meanwhile are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpulime.errors import GpulimeError, check
from gpulime.runs.evaluation import rows as rows_of_evaluation
from gpulime.runs.evaluation.rows import EVALUATION
from gpulime.runs.progress import heartbeat
from gpulime.runs.store import manifest, shards
from gpulime.runs.store.atomic import settle, staged, sync_folder
from gpulime.runs.store.layout import Layout
from gpulime.runs.store.row import EXPLANATIONS
from gpulime.runs.store.shards import CorruptError

ROWS = 8192  # of a merged shard: some 40 MB at 224 x 224 with 5 labels
GROUP = 256  # rows of one row group: in memory at once, and read for one image
ALIKE = {  # folder -> columns; rows that agree in these are one row, written twice
    EXPLANATIONS.folder: list(shards.DECIDING),
    EVALUATION.folder: [*rows_of_evaluation.KEY, "error_type", "written_at"],
}

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Compacted:
    """The result of compact: numbers of sound shards and of their rows, and the corrupt shards that were left alone."""

    before: int
    after: int
    rows: int
    corrupt: list[CorruptError]


@dataclass(frozen=True)
class _Sound:
    """A shard that was read whole: the columns that identify its rows, and the rows without a duplicate in a bigger shard."""

    path: Path
    keys: pa.Table
    fresh: Mask


def compact(run: Path, rows: int = ROWS, of: Layout = EXPLANATIONS) -> Compacted:
    """Merge neighbouring shards of a run, or of its evaluation, that hold less than half of ``rows`` each, to at most ``rows``.

    Raises
    ------
    GpulimeError
        If the directory holds no run, a process is writing to it, or a newer gpulime wrote a shard.
    OSError
        If the disk refuses; existing shards are intact.
    """
    check(rows >= 1, f"rows of a merged shard must be 1 or more, got {rows}")
    manifest.manifest(run)
    check(not heartbeat.may_write(run), f"a process is writing to {run}: compact it when that has ended")
    try:
        return _compact(run, rows, of)
    except FileNotFoundError as error:
        gone = f"{error.filename} is gone: does another process compact {run}?"
        raise GpulimeError(f"{gone} No row is lost; repeat the call") from error


def _compact(run: Path, rows: int, of: Layout) -> Compacted:
    read, corrupt = shards.each(run, partial(_keys, of=of), of)
    sound = _apart(read, of)
    spent = [one.path for one in sound if not one.fresh.any()]
    groups = list(_groups(sound, [error.path for error in corrupt], rows))
    _delete(run, spent, of)
    for group in groups:
        _merge(run, group, of)
        _delete(run, [one.path for one in group], of)
    return Compacted(
        before=len(sound),
        after=len(sound) - len(spent) - sum(len(group) - 1 for group in groups),
        rows=sum(int(one.fresh.sum()) for one in sound),
        corrupt=corrupt,
    )


def _keys(path: Path, shard: pq.ParquetFile, of: Layout) -> tuple[Path, pa.Table]:
    # All columns are read: each page is checked before anything is deleted.
    return path, shards.kept(shard, of.schema.names, lambda rows: rows.select(ALIKE[of.folder]), of)


def _apart(read: Sequence[tuple[Path, pa.Table]], of: Layout) -> list[_Sound]:
    """Keep duplicate rows in the biggest shard only."""
    biggest_first = sorted(range(len(read)), key=lambda i: (-len(read[i][1]), read[i][0].name))
    alike = ALIKE[of.folder]
    everything = pa.concat_tables([of.schema.empty_table().select(alike), *(read[i][1] for i in biggest_first)])
    places = everything.append_column("place", pa.array(np.arange(len(everything))))
    first = places.group_by(alike).aggregate([("place", "min")])["place_min"].to_numpy()
    fresh = np.zeros(len(everything), dtype=bool)
    fresh[first] = True
    ends = np.cumsum([len(read[i][1]) for i in biggest_first])
    masks = dict(zip(biggest_first, np.split(fresh, ends[:-1]), strict=True)) if read else {}
    return [_Sound(path, keys, masks[i]) for i, (path, keys) in enumerate(read)]


def _groups(sound: Sequence[_Sound], corrupt: Sequence[Path], rows: int) -> Iterator[list[_Sound]]:
    """Groups of neighbours to merge, without changing the order of writing."""
    small = {one.path: one for one in sound if one.fresh.any() and 2 * one.fresh.sum() < rows}
    spent = {one.path for one in sound if not one.fresh.any()}
    group: list[_Sound] = []
    for path in shards.in_order([*(one.path for one in sound), *corrupt]):
        if path in spent:
            continue
        one = small.get(path)
        if one is None or sum(int(other.fresh.sum()) for other in [*group, one]) > rows:
            yield from [group] if len(group) > 1 else []
            group = []
        group += [one] if one is not None else []
    yield from [group] if len(group) > 1 else []


def _merge(run: Path, group: Sequence[_Sound], of: Layout) -> None:
    """Write the rows of a group as one shard, at the position of its first shard."""
    first = group[0].path
    with staged(run, first) as path:
        with path.open("xb") as file:
            with pq.ParquetWriter(file, of.schema, **shards.COMPRESSION) as writer:
                for table in _row_groups(group, of):
                    writer.write_table(table, row_group_size=GROUP)
            file.flush()
            os.fsync(file.fileno())
        _check_same(path, group, of)
        rank, milliseconds = shards.number(first)
        settle(path, first.with_name(shards.name_of(rank, milliseconds, shards.checksum(path))))


def _row_groups(group: Sequence[_Sound], of: Layout) -> Iterator[pa.Table]:
    """The rows to keep, a few hundred at a time."""
    held: list[pa.RecordBatch] = []
    for one in group:
        start = 0
        with shards.opened(one.path, of=of) as shard:
            for batch in shard.iter_batches(batch_size=GROUP):
                held.append(batch.filter(pa.array(one.fresh[start : start + len(batch)])))
                start += len(batch)
                if sum(map(len, held)) >= GROUP:
                    yield _table(held, of)
                    held = []
    if held:
        yield _table(held, of)


def _table(batches: Sequence[pa.RecordBatch], of: Layout) -> pa.Table:
    rows = pa.concat_tables(shards.filled(pa.Table.from_batches([batch]), of.schema.names, of) for batch in batches)
    return rows.cast(of.schema).combine_chunks()


def _check_same(path: Path, group: Sequence[_Sound], of: Layout) -> None:
    """Read a merged shard back: it must hold the rows of its group, in their order."""
    with shards.parquet(path) as shard:
        _, there = _keys(path, shard, of)
    wanted = pa.concat_tables([one.keys.filter(pa.array(one.fresh)) for one in group])
    check(there.equals(wanted), f"the merged shard must hold {len(wanted)} rows as they were, got {len(there)} or others")


def _delete(run: Path, paths: Sequence[Path], of: Layout) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        sync_folder(run / of.folder)
