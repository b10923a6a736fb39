"""The row of one image: schema, packed label map and validation."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpulime.errors import GpulimeError, check, unknown

SCHEMA_VERSION = 2
VERSION_KEY = b"gpulime.schema_version"  # in the metadata of every shard
# Columns that shards of earlier versions lack, and the version that added each.
ADDED = {"prediction": 2, "predicted_prob": 2, "r2_loo": 2, "spread": 2, "note": 2}
STATUSES = ("ok", "error")
MOST_PIXELS = 2**31  # of a label map
SEGMENT_DTYPES = {"u1": 2**8, "<u2": 2**16}  # the most segments of each


@functools.cache
def schema() -> pa.Schema:
    """The columns, in the order of the shards; columns that error rows have are not nullable."""

    def always(name: str, dtype: pa.DataType) -> pa.Field:
        return pa.field(name, dtype, nullable=False)

    return pa.schema(
        [
            always("image_id", pa.string()),
            always("path", pa.binary()),
            ("target", pa.int32()),
            always("status", pa.string()),
            ("error_type", pa.string()),
            ("error", pa.string()),
            always("attempt", pa.int32()),
            always("written_at", pa.timestamp("us", tz="UTC")),
            ("h", pa.int32()),
            ("w", pa.int32()),
            ("n_segments", pa.int32()),
            ("seg", pa.binary()),
            ("seg_dtype", pa.string()),
            ("segmenter", pa.string()),
            ("prediction", pa.int32()),
            ("predicted_prob", pa.float32()),
            ("labels", pa.list_(pa.int32())),
            ("pred_probs", pa.list_(pa.float32())),
            ("coef", pa.list_(pa.list_(pa.float32()))),
            ("intercept", pa.list_(pa.float64())),
            ("r2", pa.list_(pa.float64())),
            ("r2_loo", pa.list_(pa.float64())),
            ("spread", pa.list_(pa.float64())),
            ("note", pa.list_(pa.string())),
            always("n_samples", pa.int32()),
            always("seed", pa.int64()),
            always("config_hash", pa.string()),
            ("image_sha256", pa.string()),
        ],
        metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
    )


def prediction(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[int, float] | None:
    """The class with the highest output for the whole image, and that output; None if it is not known.

    Rows of version 1 lack it. Then it is their most probable label, unless the run explained only targets.

    Parameters
    ----------
    row : mapping
        With labels, pred_probs, prediction, predicted_prob and r2_loo.
    manifest : mapping
        ``run.json``.
    """
    if row["prediction"] is not None:
        return row["prediction"], row["predicted_prob"]
    later = row.get("r2_loo") is not None
    if later or not row["labels"] or manifest.get("fixed", {}).get("lime.labels", "top") not in ("top", "top+target"):
        return None
    top = int(np.argmax(row["pred_probs"]))
    return row["labels"][top], row["pred_probs"][top]


def record(row: Mapping[str, Any]) -> pa.RecordBatch:
    """Check and convert one row alone, so that a bad row does not cost a whole shard.

    Parameters
    ----------
    row : mapping
        A value per column of `schema`: Python values or numpy scalars and 1-D arrays. Nullable columns may be omitted.

    Raises
    ------
    GpulimeError
        For an unknown or missing column and for a value of the wrong kind.
    """
    columns, struct = _columns()
    for name in row:
        if name not in columns:
            raise unknown("column", name, columns)
    missing = [name for name, nullable in columns.items() if not nullable and row.get(name) is None]
    check(not missing, f"every row must give {', '.join(missing)}")
    if row["status"] not in STATUSES:
        raise unknown("status", row["status"], STATUSES)
    # A reason may quote a file name that is not UTF-8.
    reason = row.get("error") and str(row["error"]).encode("utf-8", "backslashreplace").decode()
    try:
        values = pa.array([{**row, "error": reason}], struct)  # in half of the time of RecordBatch.from_pylist
        return pa.RecordBatch.from_arrays(values.flatten(), schema=schema())
    except (TypeError, ValueError, OverflowError) as error:
        raise GpulimeError(f"does not fit the columns of the store: {error}") from error


@functools.cache
def _columns() -> tuple[dict[str, bool], pa.StructType]:
    """The columns, true for each nullable one, and all of them as one type."""
    return {field.name: field.nullable for field in schema()}, pa.struct(list(schema()))


def encode_segments(labels: npt.NDArray[Any]) -> tuple[bytes, str]:
    """Pack a label map for the columns ``seg`` and ``seg_dtype``.

    Parameters
    ----------
    labels : ndarray
        (h, w) integers in [0, 65536).

    Returns
    -------
    tuple of bytes and str
        The zlib stream of the raster, row by row, and its dtype: ``"u1"`` up to 256 segments, else ``"<u2"``.
    """
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    for dtype, limit in SEGMENT_DTYPES.items():
        if low >= 0 and high < limit:
            return zlib.compress(labels.astype(dtype).tobytes(), 6), dtype
    raise GpulimeError(f"segment labels must lie in 0 ... 65535, got {low} ... {high}")


def decode_segments(data: bytes, dtype: str, h: int, w: int) -> npt.NDArray[np.int32]:
    """Unpack what `encode_segments` packed; never inflates more than h x w labels.

    Returns
    -------
    ndarray
        (h, w) int32

    Raises
    ------
    GpulimeError
        If ``data`` is damaged or does not hold h x w labels.
    """
    if dtype not in SEGMENT_DTYPES:
        raise unknown("seg_dtype", dtype, SEGMENT_DTYPES)
    check(h * w < MOST_PIXELS, f"h x w must be below {MOST_PIXELS}, got {h} x {w}")
    size = h * w * np.dtype(dtype).itemsize
    inflater = zlib.decompressobj()
    try:
        raster = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise GpulimeError(f"seg must be a zlib stream: {error}") from error
    found = f"more than {size}" if len(raster) > size else str(len(raster))
    check(len(raster) == size, f"seg must inflate to {size} bytes ({h} x {w} labels of dtype {dtype}), got {found}")
    return np.frombuffer(raster, dtype).reshape(h, w).astype(np.int32)
