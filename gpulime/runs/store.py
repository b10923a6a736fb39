"""The run directory: immutable Parquet shards, each there whole or not at all, and how they are read back.

    run/  run.json     what is run and with which settings, written once
          results/     part-<rank>-<unix ms>-<8 hex>.parquet and nothing else, so that any Parquet reader takes it
          _staging/    files being written; what a killed process leaves here means nothing

What is done is what the shards hold; there is no other checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpulime.errors import GpulimeError, about, check, unknown
from gpulime.runs.row import decode_segments, encode_segments, record, schema

__all__ = [
    "SCHEMA_VERSION",
    "Store",
    "decode_segments",
    "done",
    "encode_segments",
    "publish",
    "read",
    "read_manifest",
    "schema",
    "shards",
    "write_manifest",
]

SCHEMA_VERSION = 1
MANIFEST = "run.json"
RESULTS = "results"
STAGING = "_staging"
SHARD = re.compile(r"part-\d+-(\d+)-[0-9a-f]{8}\.parquet")


def publish(run: Path, name: str, data: bytes) -> None:
    """Put ``data`` at ``run/name`` so that nobody ever sees a part of it, not even after a power cut."""
    target = run / name
    staged = run / STAGING / f"{secrets.token_hex(4)}-{target.name}"
    for folder in (staged.parent, target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, target)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class Store:
    """Collects rows and writes them as shards: when enough have come or waited long, and at the end of the ``with``.

    Parameters
    ----------
    run : Path
        The run directory; made where it is missing.
    rank : int
        The number of this process among those that write here; it is part of the shards' names.
    flush_rows : int
        Write a shard at this many rows, 1 or more.
    flush_seconds : float
        Or when the oldest row in hand has waited this long, in seconds.

    Raises
    ------
    OSError
        From `append`, `flush` and `close` where the disk refuses. The rows stay in hand for the next flush.
    """

    def __init__(self, run: Path, *, rank: int = 0, flush_rows: int = 256, flush_seconds: float = 60.0) -> None:
        check(flush_rows >= 1, f"flush_rows must be 1 or more, got {flush_rows}")
        self.run = Path(run)
        self.rank = rank
        self.flush_rows = flush_rows
        self.flush_seconds = flush_seconds
        self._rows: list[pa.RecordBatch] = []
        self._oldest = 0.0

    @property
    def in_hand(self) -> int:
        """The rows that are not written yet."""
        return len(self._rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add the row of one image: a value per column of `schema`; what may be null may be left out.

        Raises
        ------
        GpulimeError
            Where the row does not fit the schema; the rows in hand are untouched by it.
        """
        with about(f"row of image {row.get('image_id')!r}"):
            one = record(row)
        if not self._rows:
            self._oldest = time.monotonic()
        self._rows.append(one)
        if len(self._rows) >= self.flush_rows:
            self.flush()
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write the rows in hand where the oldest has waited ``flush_seconds``; for those who wait long for the next row."""
        if self._rows and time.monotonic() - self._oldest >= self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows in hand as one shard; without rows, do nothing."""
        if not self._rows:
            return
        shard = pa.BufferOutputStream()
        table = pa.Table.from_batches(self._rows).combine_chunks()
        pq.write_table(table, shard, compression="zstd", write_page_checksum=True)
        name = f"part-{self.rank}-{time.time_ns() // 1_000_000}-{secrets.token_hex(4)}.parquet"
        publish(self.run, f"{RESULTS}/{name}", shard.getvalue())
        self._rows.clear()

    def close(self) -> None:
        """Flush; nothing else is held open."""
        self.flush()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``run.json``: ``manifest``, which must be plain JSON, and the schema version of this code."""
    text = json.dumps({**manifest, "schema_version": SCHEMA_VERSION}, indent=2)
    publish(run, MANIFEST, text.encode())


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Read what `write_manifest` wrote; None where there is no ``run.json``.

    Raises
    ------
    GpulimeError
        Where it is not JSON, or was written by a newer gpulime with another schema.
    """
    path = run / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise GpulimeError(f"{path} must be JSON: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise GpulimeError(f"{path} must state an integer schema_version, got {version!r}")
    readable = f"this gpulime reads up to {SCHEMA_VERSION}; a newer one is needed"
    check(version <= SCHEMA_VERSION, f"{path} has schema_version {version}, {readable}")
    return dict(manifest)


def shards(run: Path) -> list[Path]:
    """The shards of a run, oldest first."""
    named = ((SHARD.fullmatch(path.name), path) for path in run.glob(f"{RESULTS}/*"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def read(run: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a run, one row per image, in the order of writing.

    Of several rows of an image ``"ok"`` wins over ``"error"``, then the newest ``written_at``, then ``attempt``.

    Parameters
    ----------
    run : Path
        The run directory. Where it has no shards the table has no rows.
    columns : list of str, optional
        The columns wanted, in this order; all by default.

    Raises
    ------
    GpulimeError
        For an unknown column, and for a shard that cannot be read, by its name.
    """
    known = schema().names
    for column in columns or ():
        if column not in known:
            raise unknown("column", column, known)
    wanted = known if columns is None else columns
    table = _rows(run, [*dict.fromkeys([*wanted, "image_id", "status", "written_at", "attempt"])])
    return table.filter(_best(table)).select(wanted)


def done(run: Path) -> set[str]:
    """The ids of the images that have a row, be it an explanation or an error."""
    return set(_rows(run, ["image_id"])["image_id"].to_pylist())


def _rows(run: Path, columns: list[str]) -> pa.Table:
    """The rows of all shards, an image's repeats included."""
    tables = [schema().empty_table().select(columns)]
    for path in shards(run):
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as shard:
                tables.append(shard.read(columns).select(columns))
        except (pa.ArrowException, OSError, KeyError) as error:
            remedy = "move it away and its images are explained again"
            raise GpulimeError(f"shard {path} cannot be read; {remedy}: {error}") from error
    return pa.concat_tables(tables)


def _best(table: pa.Table) -> pa.Array:
    """A mask over ``table`` that keeps one row per image, by the rule of `read`."""
    rank = {
        "ok": pc.equal(table["status"], "ok"),
        "written_at": table["written_at"],
        "attempt": table["attempt"],
        "row": np.arange(len(table)),
    }
    ranked = pa.table({"image_id": table["image_id"], **rank}).sort_by([(name, "descending") for name in rank])
    best = ranked.group_by("image_id", use_threads=False).aggregate([("row", "first")])
    keep = np.zeros(len(table), dtype=bool)
    keep[best["row_first"].to_numpy()] = True
    return pa.array(keep)
