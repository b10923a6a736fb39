"""The run directory: immutable Parquet shards, written atomically.

    run/  run.json     model and settings, written before the first row
          results/     part-<rank>-<unix ms>-<8 hex>.parquet and nothing else, so that any Parquet reader takes it
          _staging/    files being written; leftovers of a killed process are ignored

Finished images are those with rows in the shards; there is no other checkpoint. docs/store.md describes it for readers.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpulime.errors import GpulimeError, about, check
from gpulime.runs.progress.exits import NotWritableError
from gpulime.runs.store.atomic import publish
from gpulime.runs.store.layout import Layout
from gpulime.runs.store.manifest import MANIFEST, manifest, read_manifest, write_manifest
from gpulime.runs.store.row import EXPLANATIONS, SCHEMA_VERSION, decode_segments, encode_segments, schema
from gpulime.runs.store.row_index import Done, done, read
from gpulime.runs.store.shards import COMPRESSION, RESULTS, name_of, shards

__all__ = [
    "RESULTS",
    "SCHEMA_VERSION",
    "Done",
    "Store",
    "Writer",
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

WAITING_ROWS = 256  # of some kilobytes each, to bound memory on a slow disk
POLL_SECONDS = 0.1

Row = Mapping[str, Any]


class Store:
    """Collect rows and write them as shards: at a number of rows, after a time, and at the end of the ``with``.

    Several processes may write to one run: names never collide.

    Parameters
    ----------
    run : Path
        The run directory; created if missing.
    rank : int
        The number of this process among those that write here; it is part of the shards' names.
    flush_rows, flush_seconds
        Write a shard at this many rows, or when the oldest buffered row is this many seconds old.
    config_hash : str, optional
        The hash of the run's settings; if given, no shard is written unless run.json has this hash.
    of : Layout
        The kind of shards.

    Raises
    ------
    OSError
        From all methods and the end of the ``with`` if the disk refuses, or the run was moved. The rows stay buffered for the
        next flush.
    """

    def __init__(
        self,
        run: Path,
        *,
        rank: int = 0,
        flush_rows: int = 256,
        flush_seconds: float = 60.0,
        config_hash: str | None = None,
        of: Layout = EXPLANATIONS,
    ) -> None:
        check(flush_rows >= 1, f"flush_rows must be 1 or more, got {flush_rows}")
        self.run, self.rank, self.config_hash, self.of = run, rank, config_hash, of
        self.flush_rows, self.flush_seconds = flush_rows, flush_seconds
        self._rows: list[pa.RecordBatch] = []
        self._oldest = 0.0

    @property
    def in_hand(self) -> int:
        """The rows that are not written yet."""
        return len(self._rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one entry as the layout's ``record`` takes it; if it does not fit the schema, buffered ones are kept."""
        with about(f"row of image {row.get('image_id')!r}"):
            one = self.of.record(row)
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
        shard = pa.BufferOutputStream()
        table = pa.Table.from_batches(self._rows).combine_chunks()
        pq.write_table(table, shard, **COMPRESSION)
        data = shard.getvalue()
        name = name_of(self.rank, time.time_ns() // 1_000_000, zlib.crc32(data))
        publish(self.run, f"{self.of.folder}/{name}", data)
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

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()


class Writer:
    """Pass the rows of a run to a `Store`, and flush it at the end of the ``with``, also after an error.

    Until then ``store`` is used by the writer's thread alone. `put` blocks while ``waiting_rows`` are in the queue.

    Raises
    ------
    NotWritableError
        From `put`, `check` and the end of the ``with``, once the disk has refused rows. At the end the buffered rows are
        tried once more, and the message says how many are lost.
    GpulimeError
        From the same, if a row does not fit the store.
    """

    def __init__(self, store: Store, waiting_rows: int = WAITING_ROWS) -> None:
        self._store = store
        self._rows: queue.Queue[Row | None] = queue.Queue(waiting_rows)  # None is the end
        self._error: Exception | None = None
        # A daemon: a second signal ends the process without waiting for the disk.
        self._thread = threading.Thread(target=self._write, name="gpulime writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._rows.put(None, timeout=POLL_SECONDS)
                self._thread.join()
        if self._error is not None:
            self._write_the_rest()

    def put(self, row: Row) -> None:
        """Hand over one row; returns at once if fewer than ``waiting_rows`` are waiting."""
        while True:
            self.check()
            with contextlib.suppress(queue.Full):
                return self._rows.put(row, timeout=POLL_SECONDS)

    def check(self) -> None:
        """Raise the error that stopped the writer, if any."""
        if isinstance(self._error, OSError):
            raise NotWritableError(
                f"{self._store.run} takes no rows: {self._error}. Written rows are kept: repeat the call to resume"
            ) from self._error
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            while True:
                try:
                    row = self._rows.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    self._store.flush_if_due()
                    continue
                if row is None:
                    return self._store.flush()
                self._store.append(row)
        except Exception as error:  # for the run's own thread, by `check`
            self._error = error

    def _write_the_rest(self) -> None:
        """Try the buffered rows once more, in the run's thread, after the writer's thread ended with an error."""
        for row in filter(None, list(self._rows.queue)):
            # A row that the disk refuses stays buffered for the last try; a row that does not fit is lost alone.
            with contextlib.suppress(OSError, GpulimeError):
                self._store.append(row)
        try:
            self._store.flush()
        except OSError as error:
            raise NotWritableError(
                f"{self._store.run} takes no rows: {error}. {self._store.in_hand} rows are lost; written rows are kept: "
                "repeat the call to resume"
            ) from error
        if not isinstance(self._error, OSError):
            self.check()
