"""Validate rows: find rows with status "ok" and a damaged explanation before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpulime.errors import GpulimeError, check
from gpulime.runs.store.row import decode_segments, schema

KIND = "damaged"
PER_LABEL = ("pred_probs", "coef", "intercept", "r2")
NEEDED = ("h", "w", "n_segments", "seg", "seg_dtype", "labels", *PER_LABEL)
LATER = ("r2_loo", "spread", "note")  # per label, too, but null in the rows of earlier versions
PREDICTED = ("prediction", "predicted_prob")  # the same, for an image


def judged(rows: pa.Table) -> pa.Table:
    """Add a column ``damaged``: the damage of an explanation; null if it is whole, and for error rows.

    Parameters
    ----------
    rows : pyarrow.Table
        With all columns of the store. They become Python objects, so pass a few hundred at a time, as from `shards.kept`.
    """
    looked_at = rows.select(["status", *NEEDED, *LATER, *PREDICTED]).to_pylist()
    reasons = [_reason(row) if row["status"] == "ok" else None for row in looked_at]
    return rows.append_column("damaged", pa.array(reasons, pa.string()))


def marked(rows: pa.Table) -> pa.Table:
    """Turn rows with a damaged explanation into error rows with the reason.

    All readers of explanations use this function: damaged ones count as failures, and the rest is valid.

    Parameters
    ----------
    rows : pyarrow.Table
        With the columns status, error_type, error and, from `judged`, damaged, which is removed.
    """
    reason = rows["damaged"]
    for name, value in (("status", "error"), ("error_type", KIND), ("error", reason)):
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


def check_whole(row: Mapping[str, Any]) -> None:
    """Refuse a row with a damaged explanation.

    Raises
    ------
    GpulimeError
        With the damage.
    """
    missing = [name for name in NEEDED if row[name] is None]
    check(not missing, f"an explanation must have {', '.join(missing)}")
    h, w, k, l = row["h"], row["w"], row["n_segments"], len(row["labels"])
    check(min(h, w, k, l) > 0, f"h, w, n_segments and labels must be 1 or more, got {h}, {w}, {k}, {l}")
    sizes = np.bincount(decode_segments(row["seg"], row["seg_dtype"], h, w).ravel())
    check(len(sizes) == k and bool(sizes.all()), f"seg must show the segments 0 ... {k - 1}, got {_spans(sizes)}")
    for name in (*PER_LABEL, *(name for name in LATER if row[name] is not None)):
        check(len(row[name]) == l, f"{name} must have an entry for each of {l} labels, got {len(row[name])}")
    lengths = {len(coefficients or ()) for coefficients in row["coef"]}
    check(lengths == {k}, f"coef must have {k} coefficients for each label, got {sorted(lengths)}")
    check_numbers(row)


def check_numbers(row: Mapping[str, Any]) -> None:
    """Refuse an explanation with numbers that no reader can use; rows to be stored must pass, too.

    Raises
    ------
    GpulimeError
        With the column.
    """
    for name in ("labels", "pred_probs", "coef", "intercept"):
        check(bool(np.isfinite(np.asarray(row[name], float)).all()), f"{name} must be finite, got {row[name]!r:.80}")
    label, prob = map(row.get, PREDICTED)
    known = label is not None and label >= 0 and prob is not None and bool(np.isfinite(prob))
    check(known or (label, prob) == (None, None), f"prediction must be a class with a finite output, got {label} and {prob}")
    labels = row["labels"]
    check(min(labels) >= 0 and len(set(labels)) == len(labels), f"labels must be distinct, and 0 or more, got {labels!r:.80}")


def _spans(sizes: np.ndarray[Any, np.dtype[Any]]) -> str:
    found = np.flatnonzero(sizes)
    return f"{len(found)} from {found[0]} to {found[-1]}"
