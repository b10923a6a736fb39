"""The head of a page: number of images, accuracy of the model, fit of the explanations."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpulime.runs.store.row import IMAGE, PARTS, prediction
from gpulime.views.report.card import is_regression, said, score, top_label

FEW = 4  # numbers of samples that are listed; of more, the least and the most
BINS = 20  # of scores in [0, 1]; one more bin holds scores below 0
# The columns of the store about the top label and the target.
TOP_OF = ("target", "prediction", "predicted_prob", "labels", "pred_probs", "r2", "r2_loo")
TOP = pa.schema(
    [
        ("label", pa.int32()),
        ("prediction", pa.float32()),
        ("r2", pa.float64()),
        ("r2_loo", pa.float64()),
        ("right", pa.bool_()),
    ]
)
SCORES = {"r2_loo": "R² left out", "r2": "R² fitted"}  # names of the scores on a page


def with_top(rows: pa.Table, manifest: Mapping[str, Any]) -> pa.Table:
    """Replace the columns `TOP_OF` by those of `TOP`: values of the most probable label; null if a row has none.

    ``right`` is true if the model's own class is the target, and null if that class is not known (`row.prediction`). Rows
    become Python objects, so pass a few hundred at a time; ``manifest`` is ``run.json``.
    """
    tops = pa.Table.from_pylist([_top(row, manifest) for row in rows.select(TOP_OF).to_pylist()], TOP)
    return pa.table({name: rows[name] for name in rows.column_names if name not in TOP_OF} | {n: tops[n] for n in TOP.names})


def _top(row: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    of_labels = [row[name] or [None] for name in ("labels", "pred_probs", "r2")]
    if None in of_labels[0] + of_labels[1] or len({*map(len, of_labels)}) > 1:  # without a label, or damaged
        return {}
    top, found = top_label(row), prediction(row, manifest)
    classless = row["target"] is None or is_regression(manifest)
    right = None if classless or found is None else found[0] == row["target"]
    scores = {name: score(row[name][top]) if row[name] else None for name in SCORES}
    return {"label": row["labels"][top], "prediction": row["pred_probs"][top], "right": right, **scores}


def known_right(images: pa.Table) -> list[bool]:
    """True for each image that the model gets right, for images with a known target; from the rows of `with_top`."""
    known: list[bool] = images["right"].drop_null().to_pylist()
    return known


def median(images: pa.Table, name: str) -> float | None:
    """The median of a score over images that have it; from the rows of `with_top`."""
    found: list[float] = images[name].drop_null().to_pylist()
    return statistics.median(found) if found else None


def head(rows: pa.Table, manifest: Mapping[str, Any], corrupt: int = 0) -> dict[str, Any]:
    """Sum up a run, whose rows are those of `with_top`; ``corrupt`` result files are skipped.

    ``score`` is the column in ``scores``, the bins of a histogram; ``medians`` are the medians of all scores, in words.
    """
    explained = rows.filter(pc.equal(rows["status"], "ok"))
    # Runs of earlier versions have no leave-one-out R2.
    leading = next((name for name in SCORES if explained[name].null_count < len(explained)), "r2_loo")
    medians = {column: median(explained, column) for column in SCORES}
    return {
        "facts": _facts(rows, explained, corrupt, manifest.get("kind", IMAGE)),
        "scores": _histogram(explained[leading].drop_null().to_pylist()),
        "score": leading,
        "medians": [
            said(value) if column == leading else f"{SCORES[column]} {said(value)}"
            for column, value in medians.items()
            if value is not None
        ],
        "settings": [(name, _plain(value)) for name, value in manifest.get("fixed", {}).items()],
        "versions": [(name, str(value)) for name, value in manifest.get("versions", {}).items()],
    }


def _facts(rows: pa.Table, explained: pa.Table, corrupt: int, one: str) -> list[tuple[str, str]]:
    known = known_right(explained)
    samples = sorted(rows["n_samples"].unique().to_pylist())
    segmenters = {name.partition("(")[0] for name in explained["segmenter"].unique().to_pylist() if name is not None}
    sizes = pc.min_max(explained["n_segments"]).as_py()
    segments = " to ".join(str(size) for size in dict.fromkeys(sizes.values()) if size is not None)
    facts = {
        f"{one}s".capitalize(): f"{len(rows):,}",
        "Explained": f"{len(explained):,}",
        "Failed": f"{len(rows) - len(explained):,}",
        "Corrupt result files": f"{corrupt:,}, left out; gpulime verify names them" if corrupt else "",
        "Accuracy": f"{100 * sum(known) / len(known):.1f} % ({sum(known):,} of {len(known):,})" if known else "",
        f"Samples per {one}": _range(samples),
        f"{PARTS[one]} per {one}".capitalize(): ", ".join([segments, *sorted(segmenters)]) if segments else "",
    }
    return [(term, value) for term, value in facts.items() if value]


def _range(counts: Sequence[int]) -> str:
    few = len(counts) <= FEW
    return ", ".join(f"{count:,}" for count in counts) if few else f"{counts[0]:,} to {counts[-1]:,}"


def _histogram(scores: Sequence[float]) -> list[dict[str, Any]]:
    """The bins, from below 0: bounds in words, number of images, height in [0, 1]."""
    if not scores:
        return []
    counts = Counter(-1 if value < 0 else min(int(value * BINS), BINS - 1) for value in scores)
    highest = max(counts.values())
    words = {-1: "below 0", **{i: f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}" for i in range(BINS)}}
    return [{"bounds": bounds, "count": counts[i], "height": counts[i] / highest} for i, bounds in words.items()]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
