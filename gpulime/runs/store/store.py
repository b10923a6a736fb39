"""The run directory: immutable Parquet shards, written atomically, and their reader.

    run/  run.json     model and settings, written before the first row
          results/     part-<rank>-<unix ms>-<8 hex>.parquet and nothing else, so that any Parquet reader takes it
          _staging/    files being written; leftovers of a killed process are ignored

Finished images are those with rows in the shards; there is no other checkpoint. docs/store.md describes it for readers.
"""

from __future__ import annotations

import errno
import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpulime.errors import GpulimeError, about, check, unknown
from gpulime.runs.store import lock
from gpulime.runs.store.atomic import publish
from gpulime.runs.store.row import SCHEMA_VERSION, decode_segments, encode_segments, record, schema
from gpulime.runs.store.shards import DECIDING, RESULTS, name_of, rows, shards, winners

__all__ = [
    "RESULTS",
    "SCHEMA_VERSION",
    "Done",
    "Store",
    "decode_segments",
    "done",
    "encode_segments",
    "manifest",
    "publish",
    "read",
    "read_manifest",
    "schema",
    "shards",
    "write_manifest",
]

MANIFEST = "run.json"
# The entries that readers use, and their types.
FACTS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("fixed", "config", "transform", "versions"), dict),
    **dict.fromkeys(("config_hash", "model"), (str, type(None))),
    "class_names": (list, type(None)),
}
DEVICE = "device"  # the error_type of an image that crashes the device
COMPRESSION = {"compression": "zstd", "write_page_checksum": True}


class Store:
    """Collect rows and write them as shards: at a number of rows, after a time, and at the end of the ``with``.

    Several processes may write to one run: names never collide. If two have one rank, the second warns, at `claim` or its
    first row.

    Parameters
    ----------
    run : Path
        The run directory; created if missing.
    rank : int
        The number of this process among those that write here; it is part of the shards' names.
    flush_rows : int
        Write a shard at this many rows, 1 or more.
    flush_seconds : float
        Or when the oldest buffered row is this many seconds old.
    config_hash : str, optional
        The hash of the rows' settings; if given, no shard is written unless run.json has this hash.

    Raises
    ------
    OSError
        From `append`, `flush` and `close` if the disk refuses, or the run was moved. The rows stay buffered for the next
        flush.
    """

    def __init__(
        self,
        run: Path,
        *,
        rank: int = 0,
        flush_rows: int = 256,
        flush_seconds: float = 60.0,
        config_hash: str | None = None,
    ) -> None:
        check(flush_rows >= 1, f"flush_rows must be 1 or more, got {flush_rows}")
        self.run = Path(run)
        self.rank = rank
        self.flush_rows = flush_rows
        self.flush_seconds = flush_seconds
        self.config_hash = config_hash
        self._rows: list[pa.RecordBatch] = []
        self._oldest = 0.0
        self._lock: lock.Lock | None = None

    @property
    def in_hand(self) -> int:
        """The rows that are not written yet."""
        return len(self._rows)

    def claim(self) -> None:
        """Take the writer lock of this rank, until `close` or `release`."""
        if self._lock is None:
            self._lock = lock.of_rank(self.run, self.rank)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of one image: a value per column of `schema`; nullable columns may be omitted.

        Raises
        ------
        GpulimeError
            If the row does not fit the schema; buffered rows are kept.
        """
        with about(f"row of image {row.get('image_id')!r}"):
            one = record(row)
        self.claim()
        if not self._rows:
            self._oldest = time.monotonic()
        self._rows.append(one)
        if len(self._rows) >= self.flush_rows:
            self.flush()
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush if the oldest row is ``flush_seconds`` old; for callers that wait long for the next row."""
        if self._rows and time.monotonic() - self._oldest >= self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows as one shard, if any."""
        if not self._rows:
            return
        self._check_place()
        if self._lock is not None and self._lock.taken:
            self._lock = lock.Lock(self.run, self.rank, self.rank)  # the other process may have ended meanwhile
        shard = pa.BufferOutputStream()
        table = pa.Table.from_batches(self._rows).combine_chunks()
        pq.write_table(table, shard, **COMPRESSION)
        data = shard.getvalue()
        name = name_of(self.rank, time.time_ns() // 1_000_000, zlib.crc32(data))
        publish(self.run, f"{RESULTS}/{name}", data)
        self._rows.clear()

    def _check_place(self) -> None:
        """Raise if the directory was renamed or its run.json removed since the run began."""
        if self.config_hash is None:
            return
        try:
            found = (read_manifest(self.run) or {}).get("config_hash")
        except GpulimeError:
            found = None
        if found != self.config_hash:
            reason = "it is not this run's any more, or is gone: was the directory moved?"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.run / MANIFEST))

    def close(self) -> None:
        """Flush and release the writer lock."""
        self.flush()
        self.release()

    def release(self) -> None:
        """Release the writer lock without flushing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``run.json``: ``manifest``, which must be plain JSON, and the schema version of this code."""
    text = json.dumps({**manifest, "schema_version": SCHEMA_VERSION}, indent=2)
    publish(run, MANIFEST, text.encode())


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Read what `write_manifest` wrote; None if there is no ``run.json``.

    Raises
    ------
    GpulimeError
        If it is not JSON, is damaged, or was written by a newer gpulime with another schema.
    """
    path = run / MANIFEST
    check(path.is_file() or not path.exists(), f"{path} must be a file")  # a pipe would block
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise GpulimeError(f"{path} must be JSON: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise GpulimeError(f"{path} must state an integer schema_version, got {version!r}")
    readable = f"this gpulime reads up to {SCHEMA_VERSION}; a newer one is needed"
    check(version <= SCHEMA_VERSION, f"{path} has schema_version {version}, {readable}")
    for name, kinds in FACTS.items():
        if name in manifest and not isinstance(manifest[name], kinds):
            raise GpulimeError(f"{path} is damaged: {name} must not be {manifest[name]!r:.80}")
    names = manifest.get("class_names") or ()
    check(all(isinstance(name, str) for name in names), f"{path} is damaged: class_names must be names, got {names!r:.80}")
    return dict(manifest)


def read(run: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a run, one row per image, in the order of writing.

    Of several rows of an image ``"ok"`` wins over ``"error"``, then the newest ``written_at``, then ``attempt``.

    Parameters
    ----------
    run : Path
        The run directory; without shards the table is empty.
    columns : list of str, optional
        Columns to read, in this order; all by default.

    Raises
    ------
    GpulimeError
        For an unknown column, and for a shard that a newer gpulime wrote or the system denies reading, by its name.
        A corrupt shard is skipped, with a warning that names it.
    """
    known = schema().names
    for column in columns or ():
        if column not in known:
            raise unknown("column", column, known)
    wanted = known if columns is None else columns
    table = rows(run, [*dict.fromkeys([*wanted, *DECIDING])])
    return table.filter(winners(table)).select(wanted)


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
    """Images with a row, an explanation or an error, by their ids.

    Rows of corrupt shards do not count; a warning names such a shard.

    Raises
    ------
    GpulimeError
        As `read`.
    """
    table = rows(run, ["image_id", "status", "error_type", "attempt"])
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


def config_hashes(run: Path) -> set[str]:
    """Hashes of the rows' settings; more than one if runs were mixed by hand.

    Raises
    ------
    GpulimeError
        As `read`.
    """
    return set(rows(run, ["config_hash"])["config_hash"].unique().to_pylist())


def manifest(run: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run.

    Raises
    ------
    GpulimeError
        If the directory holds no run.
    """
    about = read_manifest(run)
    if about is None:
        raise GpulimeError(f"{run} holds no run: there is no run.json in it")
    return about
