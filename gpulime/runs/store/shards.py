"""Shards: the Parquet files of a run's results, their checksums, and the rule that selects one row per image.

A shard's name, ``part-<rank>-<unix ms>-<8 hex>.parquet``, ends in the CRC-32 of its bytes, so that damage is found at
the speed of the disk, without decoding. Shards never change. Only `gpulime.runs.store.compact` deletes shards, after merging
their rows into another.
"""

from __future__ import annotations

import contextlib
import errno
import re
import stat
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpulime.errors import GpulimeError, check
from gpulime.runs.store.layout import VERSION_KEY, Layout
from gpulime.runs.store.row import EXPLANATIONS, STATUSES

T = TypeVar("T")

RESULTS = EXPLANATIONS.folder
NAME = re.compile(r"part-(\d+)-(\d+)-([0-9a-f]{8})\.parquet")
CHUNK = 2**20  # bytes in memory while hashing a file
BATCH = 256  # rows in memory at once when all columns of a shard are read
MOST_MICROSECONDS = 253_402_300_800_000_000  # the year 10000, of which Python has no time
# No dictionaries: nearly all bytes are coefficients and label maps, whose values do not repeat.
COMPRESSION = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": False}
DECIDING = ("image_id", "status", "written_at", "attempt")  # the columns that decide which row of an image counts

_warned: set[Path] = set()


class CorruptError(GpulimeError):
    """A damaged shard: its ``path``, and the ``reason``."""

    def __init__(self, path: Path, reason: str) -> None:
        reason = " ".join(reason.split())  # Arrow's have several lines
        super().__init__(f"shard {path} is corrupt: {reason}")
        self.path, self.reason = path, reason


def name_of(rank: int, milliseconds: int, checksum: int) -> str:
    """The name of a shard."""
    return f"part-{rank}-{milliseconds}-{checksum:08x}.parquet"


def checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    total = 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            total = zlib.crc32(chunk, total)
    return total


def shards(run: Path, of: Layout = EXPLANATIONS) -> list[Path]:
    """The shards of a run, oldest first."""
    before, now = None, _listed(run / of.folder)
    while now != before:  # a listing during which shards were merged may show neither the old ones nor the new one
        before, now = now, _listed(run / of.folder)
    return now


def _listed(folder: Path) -> list[Path]:
    return in_order(path for path in folder.glob("*") if NAME.fullmatch(path.name))


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Shards in the order of writing."""
    return sorted(paths, key=lambda path: (number(path)[1], path))


def number(path: Path) -> tuple[int, int]:
    """The rank that wrote a shard, and the time in milliseconds since 1970."""
    _, rank, milliseconds, _ = path.name.split("-")
    return int(rank), int(milliseconds)


@contextlib.contextmanager
def parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file; opened here, since pyarrow takes a path such as ``hdfs:x`` for an address."""
    with pa.OSFile(str(path)) as file, pq.ParquetFile(file, page_checksum_verification=True) as shard:
        yield shard


@contextlib.contextmanager
def opened(path: Path, whole: bool = True, of: Layout = EXPLANATIONS) -> Iterator[pq.ParquetFile]:
    """Open a shard for reading after checking it; unless ``whole``, only pages that are read are checked.

    Raises
    ------
    CorruptError
        If it is damaged, also from inside the ``with``.
    GpulimeError
        If a newer gpulime wrote it, or the system denies reading it.
    FileNotFoundError
        If it is gone, merged into another meanwhile.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block
            raise CorruptError(path, "it must be a regular file")
        named, found = path.stem.split("-")[-1], f"{checksum(path):08x}" if whole else None
        with parquet(path) as shard:
            facts = shard.metadata.metadata or {}
            # The shards of earlier versions had a random number in place of the sum, and stated no version.
            # They lack the columns of version 2, which tell if it is the name of the version that rotted.
            summed = VERSION_KEY in facts or not of.added or not of.added.keys().isdisjoint(shard.schema_arrow.names)
            if found not in (None, named) and summed:
                raise CorruptError(path, f"the CRC-32 of its bytes must be {named}, as its name says, got {found}")
            _check_columns(path, shard, facts.get(VERSION_KEY, b"1"), of)
            yield shard
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ESTALE:  # the error of NFS for an open file that was deleted
            raise FileNotFoundError(errno.ENOENT, str(error.strerror), str(path)) from error
        if error.errno not in (None, errno.EIO):  # Arrow's own have no number
            raise GpulimeError(f"shard {path} cannot be read: {error.strerror}") from error
        raise CorruptError(path, str(error)) from error
    except pa.ArrowException as error:
        raise CorruptError(path, str(error)) from error


def _check_columns(path: Path, shard: pq.ParquetFile, version: bytes, of: Layout) -> None:
    readable = f"this gpulime reads up to {of.version}; a newer one is needed"
    check(version.isdigit(), f"shard {path} must state a whole schema version, got {version!r}")
    check(int(version) <= of.version, f"shard {path} has schema version {int(version)}, {readable}")
    there = shard.schema_arrow
    if there.equals(of.schema):
        return
    needed = [field for field in of.schema if of.added.get(field.name, 1) <= int(version)]
    wrong = [field.name for field in needed if field.name not in there.names or there.field(field.name).type != field.type]
    if wrong:
        raise CorruptError(path, f"it lacks columns of the store, or has them with other types: {', '.join(wrong)}")


def each(run: Path, read: Callable[[Path, pq.ParquetFile], T], of: Layout = EXPLANATIONS) -> tuple[list[T], list[CorruptError]]:
    """Apply ``read`` to every shard, given its path and open file, oldest first; and the errors of corrupt shards.

    Shards may appear or be merged meanwhile: the result is a consistent snapshot.

    Raises
    ------
    GpulimeError
        If a newer gpulime wrote a shard, or the system denies reading it.
    """
    found: dict[Path, T] = {}
    corrupt: dict[Path, CorruptError] = {}
    listed = shards(run, of)
    while True:
        try:
            for path in listed:
                if path not in found and path not in corrupt:
                    try:
                        with opened(path, of=of) as shard:
                            found[path] = read(path, shard)
                    except CorruptError as error:
                        corrupt[path] = error
            return [found[path] for path in listed if path in found], [corrupt[path] for path in listed if path in corrupt]
        except FileNotFoundError as error:  # merged into another meanwhile; list again
            before, listed = listed, shards(run, of)
            if listed == before:
                raise GpulimeError(f"{error.filename} is listed and not there: is it a link to nowhere?") from error


def rows(run: Path, columns: Sequence[str], of: Layout = EXPLANATIONS) -> pa.Table:
    """The rows of all sound shards, an image's repeats included, in the order of writing.

    A corrupt shard is skipped with one warning that names it.
    """
    wanted = list(columns)
    tables, corrupt = each(run, lambda _, shard: filled(shard.read(wanted), wanted, of), of)
    for error in corrupt:
        warn(error, run, of)
    return pa.concat_tables([of.schema.empty_table().select(wanted), *tables])


def filled(rows: pa.Table, columns: Sequence[str], of: Layout = EXPLANATIONS) -> pa.Table:
    """Columns of a shard, in this order; columns missing in earlier versions are null.

    Raises `pyarrow.ArrowInvalid` for values that no reader can use; `opened` makes a `CorruptError` of it.
    """
    _check_values(rows, of.schema)
    for name in columns:
        if name not in rows.column_names:
            rows = rows.append_column(of.schema.field(name), pa.nulls(len(rows), of.schema.field(name).type))
    return rows.select(columns).cast(nothing(columns, of).schema)  # another program may have made columns nullable


def _check_values(rows: pa.Table, schema: pa.Schema) -> None:
    """Refuse text that is not UTF-8, null in a required column, an unknown status and times out of range."""
    rows.validate(full=True)
    for name in rows.column_names:
        if not schema.field(name).nullable and rows[name].null_count:
            raise pa.ArrowInvalid(f"{name} must not be null")
    if "status" in rows.column_names and (unknown := {*rows["status"].unique().to_pylist()} - {*STATUSES}):
        raise pa.ArrowInvalid(f"status must be {' or '.join(STATUSES)}, got {min(unknown)!r:.80}")
    if "written_at" in rows.column_names and len(rows):
        low, high = pc.min_max(rows["written_at"].cast(pa.int64())).as_py().values()
        if low < 0 or high >= MOST_MICROSECONDS:
            raise pa.ArrowInvalid("written_at must be after 1970 and before the year 10000")


def kept(
    shard: pq.ParquetFile, columns: Sequence[str], keep: Callable[[pa.Table], pa.Table], of: Layout = EXPLANATIONS
) -> pa.Table:
    """Apply ``keep`` to columns of a shard, a few hundred rows at a time, so that dropped data is freed early."""
    parts = [keep(nothing(columns, of))]
    for batch in shard.iter_batches(batch_size=BATCH, columns=list(columns)):
        parts.append(keep(filled(pa.Table.from_batches([batch]), columns, of)).cast(parts[0].schema))
    return pa.concat_tables(parts)


def nothing(columns: Sequence[str], of: Layout = EXPLANATIONS) -> pa.Table:
    """No rows, with these columns of the store."""
    return of.schema.empty_table().select(columns).replace_schema_metadata()


def warn(error: CorruptError, run: Path, of: Layout = EXPLANATIONS) -> None:
    """Warn once per process that a shard is skipped, with the remedy."""
    if error.path in _warned:  # Python forgets its warnings when filters change
        return
    _warned.add(error.path)
    warnings.warn(f"{error}. It is left out: {of.remedy}; gpulime verify {run} lists all damage", stacklevel=2)


def winners(rows: pa.Table) -> pa.Array:
    """A mask over ``rows``, in the order of writing, that keeps one per image.

    Of several rows ok wins over error, then the newest, then the last attempt.
    """
    ids = rows["image_id"].to_pylist()
    counts = Counter(ids)
    repeated = np.fromiter((counts[image_id] > 1 for image_id in ids), bool, len(ids))
    some = rows.select(DECIDING).filter(pa.array(repeated))  # only these, since ranking all rows takes ten times their memory
    rank = {
        "ok": pc.equal(some["status"], "ok"),
        "written_at": some["written_at"],
        "attempt": some["attempt"],
        "row": np.flatnonzero(repeated),
    }
    ranked = pa.table({"image_id": some["image_id"], **rank}).sort_by([(name, "descending") for name in rank])
    best = ranked.group_by("image_id", use_threads=False).aggregate([("row", "first")])
    keep = ~repeated
    keep[best["row_first"].to_numpy()] = True
    return pa.array(keep)
