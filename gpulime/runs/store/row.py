"""The row of one input: schema, packed label map of an image, notes, and the check of a stored explanation."""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpulime.errors import GpulimeError, check, unknown
from gpulime.runs.store.layout import VERSION_KEY, Layout

SCHEMA_VERSION = 6
# Columns that shards of earlier versions lack, and the version that added each.
ADDED = {"prediction": 2, "predicted_prob": 2, "r2_loo": 2, "spread": 2, "note": 2, "coef_se": 3}
ADDED |= {"kind": 4, "parts": 4, "text": 4, "spans": 4, "values": 4, "local_pred": 4, "unseen": 5, "exhaustive": 6}
STATUSES = ("ok", "error")
MOST_PIXELS = 2**31  # of a label map
SEGMENT_DTYPES = {"u1": 2**8, "<u2": 2**16}  # the most segments of each
DEVICE = "device"  # the error_type of an image that crashes the device
DAMAGED = "damaged"  # the error_type of rows with status "ok" and a damaged explanation
PER_LABEL = ("pred_probs", "coef", "intercept", "r2")
IMAGE, TEXT, ROW = "image", "text", "row"
PARTS = {IMAGE: "segments", TEXT: "words", ROW: "columns"}
# Columns that an explanation has by its kind; rows of earlier versions have none and are images.
BLOCKS = {IMAGE: ("h", "w", "seg", "seg_dtype"), TEXT: ("parts", "text", "spans"), ROW: ("parts", "values")}
NEEDED = ("n_segments", "labels", *PER_LABEL)
LATER = ("r2_loo", "spread", "note", "coef_se", "local_pred")  # per label, too, but null in the rows of earlier versions
UNSEEN = "unseen"  # of a text: the places of the words that the model never sees; null in the rows of earlier versions
PREDICTED = ("prediction", "predicted_prob")  # the same, for an image
HARDLY = 1e-4  # of a probability, or relative to the prediction for other outputs; a smaller spread gets a note


@functools.cache
def schema() -> pa.Schema:
    """The columns, in the order of the shards; columns that error rows have are not nullable."""

    def always(name: str, dtype: pa.DataType) -> pa.Field:
        return pa.field(name, dtype, nullable=False)

    return pa.schema(
        [
            always("image_id", pa.string()),
            always("path", pa.binary()),
            ("kind", pa.string()),
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
            ("parts", pa.list_(pa.string())),
            ("text", pa.string()),
            ("spans", pa.list_(pa.list_(pa.int32()))),
            ("unseen", pa.list_(pa.int32())),
            ("values", pa.list_(pa.string())),
            ("prediction", pa.int32()),
            ("predicted_prob", pa.float32()),
            ("labels", pa.list_(pa.int32())),
            ("pred_probs", pa.list_(pa.float32())),
            ("coef", pa.list_(pa.list_(pa.float32()))),
            ("coef_se", pa.list_(pa.list_(pa.float32()))),
            ("intercept", pa.list_(pa.float64())),
            ("local_pred", pa.list_(pa.float64())),
            ("r2", pa.list_(pa.float64())),
            ("r2_loo", pa.list_(pa.float64())),
            ("spread", pa.list_(pa.float64())),
            ("note", pa.list_(pa.string())),
            always("n_samples", pa.int32()),
            ("exhaustive", pa.bool_()),
            always("seed", pa.int64()),
            always("config_hash", pa.string()),
            ("image_sha256", pa.string()),
        ],
        metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
    )


def prediction(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[int, float] | None:
    """The class with the highest output for the whole image, and that output; None if it is not known.

    Rows of version 1 lack it. Then it is their most probable label, unless the run explained only targets.
    """
    if row["prediction"] is not None:
        return row["prediction"], row["predicted_prob"]
    later = row.get("r2_loo") is not None
    if later or not row["labels"] or manifest.get("fixed", {}).get("lime.labels", "top") not in ("top", "top+target"):
        return None
    top = int(np.argmax(row["pred_probs"]))
    return row["labels"][top], row["pred_probs"][top]


def record(row: Mapping[str, Any]) -> pa.RecordBatch:
    """Check and convert one row alone, so that a bad row does not cost a whole shard; nullable columns may be omitted.

    ``seg`` may be a `raster`, which is packed here, in the writer's thread.
    """
    columns, struct = _columns()
    if isinstance(seg := row.get("seg"), np.ndarray):
        row = {**row, "seg": zlib.compress(seg.tobytes(), 6)}
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


def raster(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], str]:
    """A label map, (h, w) integers in [0, 65536), and its ``seg_dtype``: ``"u1"`` up to 256 segments, else ``"<u2"``."""
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    for dtype, limit in SEGMENT_DTYPES.items():
        if low >= 0 and high < limit:
            return labels.astype(dtype), dtype
    raise GpulimeError(f"segment labels must lie in 0 ... 65535, got {low} ... {high}")


def encode_segments(labels: npt.NDArray[Any]) -> tuple[bytes, str]:
    """Pack a label map for the columns ``seg``, a zlib stream of the raster row by row, and ``seg_dtype``."""
    values, dtype = raster(labels)
    return zlib.compress(values.tobytes(), 6), dtype


def decode_segments(data: bytes, dtype: str, h: int, w: int) -> npt.NDArray[np.int32]:
    """Unpack a label map of `encode_segments` to (h, w) int32; never inflates more than h x w labels."""
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


def note(spread: float, prediction: float, is_probability: bool) -> str | None:
    """A warning about the explanation of one label; None if there is none.

    ``spread`` is the weighted standard deviation of the output over the masked samples, NaN if all of these have weight 0;
    ``prediction`` is the output for the whole image.
    """
    if math.isnan(spread):
        return "the kernel gives every mask a weight of 0, so nothing is explained: use a larger kernel_width"
    if spread >= (HARDLY if is_probability else HARDLY * abs(prediction)) and spread > 0:
        return None
    said = f"this output hardly moves: its standard deviation over the samples is {spread:.1g}, its prediction {prediction:.3f}"
    return f"{said}; explain logits with activation: null" if is_probability else said


def few_samples(n_samples: int, k: int, parts: str = "segments") -> str | None:
    """A warning about an explanation with fewer samples than twice its parts; None if there are enough."""
    if n_samples >= 2 * k:
        return None
    few = f"n_samples ({n_samples:,}) is below twice the number of {parts} (2 x {k:,})"
    return f"{few}: coefficients are uncertain"


def never_seen(unseen: Sequence[int], words: Sequence[str]) -> str | None:
    """A warning about a text with words that the model never sees, by their places among its words; None if there are none."""
    if not unseen:
        return None
    which = f"{len(unseen):,} of {len(words):,} words, such as {words[unseen[0]]!r:.80}"
    return f"the model never sees {which}: their coefficients are noise"


def judged(rows: pa.Table) -> pa.Table:
    """Add a column ``damaged``: the damage of an explanation; null if it is whole, and for error rows.

    The columns become Python objects, so pass a few hundred rows at a time, as `shards.kept` does.
    """
    blocks = dict.fromkeys(name for block in BLOCKS.values() for name in block)
    looked_at = rows.select(["status", "kind", *NEEDED, *blocks, UNSEEN, *LATER, *PREDICTED]).to_pylist()
    reasons = [_reason(row) if row["status"] == "ok" else None for row in looked_at]
    return rows.append_column("damaged", pa.array(reasons, pa.string()))


def marked(rows: pa.Table) -> pa.Table:
    """Turn rows with a damaged explanation into error rows with the reason; drops the column that `judged` added.

    All readers of explanations use this function: damaged ones count as failures, and the rest is valid.
    """
    reason = rows["damaged"]
    for name, value in (("status", "error"), ("error_type", DAMAGED), ("error", reason)):
        changed = pc.if_else(reason.is_valid(), value, rows[name])
        rows = rows.set_column(rows.schema.get_field_index(name), schema().field(name), changed)
    return rows.drop_columns(["damaged"])


def _reason(row: Mapping[str, Any]) -> str | None:
    try:
        check_whole(row)
    except GpulimeError as error:
        return str(error)
    except MemoryError:
        return f"no memory for a label map of {row['h']} x {row['w']}"
    return None


def kind_of(row: Mapping[str, Any]) -> str:
    """The kind of a row's input: "image", "text" or "row"; rows of earlier versions are images."""
    return row.get("kind") or IMAGE


def check_whole(row: Mapping[str, Any]) -> None:
    """Raise `GpulimeError` if the explanation of a row is damaged."""
    kind = kind_of(row)
    if kind not in BLOCKS:
        raise unknown("kind", kind, BLOCKS)
    missing = [name for name in (*BLOCKS[kind], *NEEDED) if row[name] is None]
    check(not missing, f"an explanation must have {', '.join(missing)}")
    k, l = row["n_segments"], len(row["labels"])
    check(min(k, l) > 0, f"n_segments and labels must be 1 or more, got {k}, {l}")
    (_check_segments if kind == IMAGE else _check_parts)(row, k)
    for name in (*PER_LABEL, *(name for name in LATER if row[name] is not None)):
        check(len(row[name]) == l, f"{name} must have an entry for each of {l} labels, got {len(row[name])}")
    for name in ("coef", *(["coef_se"] if row["coef_se"] is not None else [])):
        lengths = {len(values or ()) for values in row[name]}
        check(lengths == {k}, f"{name} must have {k} entries for each label, got {sorted(lengths)}")
    check_numbers(row)


def _check_segments(row: Mapping[str, Any], k: int) -> None:
    h, w = row["h"], row["w"]
    check(min(h, w) > 0, f"h and w must be 1 or more, got {h}, {w}")
    sizes = np.bincount(decode_segments(row["seg"], row["seg_dtype"], h, w).ravel())
    check(len(sizes) == k and bool(sizes.all()), f"seg must show the segments 0 ... {k - 1}, got {_spans(sizes)}")


def _check_parts(row: Mapping[str, Any], k: int) -> None:
    check(None not in row["parts"] and len(row["parts"]) == k, f"parts must be {k} names, got {row['parts']!r:.80}")
    unseen = row[UNSEEN] or []
    apart = len({*unseen}) == len(unseen) and all(part is not None and 0 <= part < k for part in unseen)
    check(apart, f"unseen must be different places among {k} parts, got {unseen!r:.80}")
    if row["spans"] is None:
        return
    check(len(row["spans"]) == k, f"spans must have an entry for each of {k} parts, got {len(row['spans'])}")
    most = len(row["text"])
    for places in row["spans"]:
        inside = bool(places is not None and len(places) % 2 == 0 and all(p is not None and 0 <= p <= most for p in places))
        check(inside, f"spans must be pairs of places in the text, 0 to {most}, got {places!r:.80}")


def check_numbers(row: Mapping[str, Any]) -> None:
    """Raise `GpulimeError` for numbers that no reader can use; rows to be stored must pass, too."""
    for name in ("labels", "pred_probs", "coef", "intercept"):
        check(bool(np.isfinite(np.asarray(row[name], float)).all()), f"{name} must be finite, got {row[name]!r:.80}")
    errors = np.asarray(row.get("coef_se") or [], float)  # NaN for null
    sound = not bool(((errors < 0) | np.isinf(errors)).any())
    check(sound, f"coef_se must be finite, and 0 or more, got {row.get('coef_se')!r:.80}")
    label, prob = map(row.get, PREDICTED)
    known = label is not None and label >= 0 and prob is not None and bool(np.isfinite(prob))
    check(known or (label, prob) == (None, None), f"prediction must be a class with a finite output, got {label} and {prob}")
    labels = row["labels"]
    check(min(labels) >= 0 and len(set(labels)) == len(labels), f"labels must be distinct, and 0 or more, got {labels!r:.80}")


def _spans(sizes: np.ndarray[Any, np.dtype[Any]]) -> str:
    found = np.flatnonzero(sizes)
    return f"{len(found)} from {found[0]} to {found[-1]}"


EXPLANATIONS = Layout("results", schema(), record, "run the same command to explain its inputs again", ADDED)
