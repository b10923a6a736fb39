"""What stands at the head of a page: how many images, how often the model is right, how well the explanations fit."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpulime.report.card import score, top_label

BINS = 20  # of the scores in [0, 1]; one more holds those below 0
FACTS = ["image_id", "target", "labels", "pred_probs", "r2"]


@dataclass(frozen=True)
class Entry:
    """What filters and sorting need to know of an explained image; ``right`` is None where that is not known."""

    name: str
    label: int
    prediction: float
    r2: float | None
    right: bool | None


@dataclass(frozen=True)
class Bar:
    """One bin of the scores: its bounds in words, its images, its height in [0, 1]."""

    bounds: str
    count: int
    height: float


@dataclass(frozen=True)
class Head:
    """The head of a page."""

    facts: list[tuple[str, str]]
    scores: list[Bar]
    median: float | None
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]


def entries(explained: pa.Table, manifest: Mapping[str, Any]) -> list[Entry]:
    """An entry per explained image, in the order of the rows.

    Where only targets were explained the model's own class is not in the results, so nothing is said of right and wrong.
    """
    knows_top = manifest.get("fixed", {}).get("lime.labels") != "target"
    found = []
    for row in explained.select(FACTS).to_pylist():
        top = top_label(row)
        right = None if row["target"] is None or not knows_top else row["labels"][top] == row["target"]
        found.append(Entry(row["image_id"], row["labels"][top], row["pred_probs"][top], score(row["r2"][top]), right))
    return found


def head(rows: pa.Table, images: Sequence[Entry], manifest: Mapping[str, Any], corrupt: int = 0) -> Head:
    """Sum up a run.

    Parameters
    ----------
    rows : pyarrow.Table
        All of them.
    images : sequence of Entry
        From `entries`.
    manifest : mapping
        ``run.json``.
    corrupt : int
        Result files that are left out.
    """
    scores = [image.r2 for image in images if image.r2 is not None]
    return Head(
        facts=_facts(rows, images, manifest, corrupt),
        scores=_histogram(scores),
        median=statistics.median(scores) if scores else None,
        settings=[(name, _plain(value)) for name, value in manifest.get("fixed", {}).items()],
        versions=[(name, str(value)) for name, value in manifest.get("versions", {}).items()],
    )


def _facts(rows: pa.Table, images: Sequence[Entry], manifest: Mapping[str, Any], corrupt: int) -> list[tuple[str, str]]:
    known = [image.right for image in images if image.right is not None]
    samples = sorted(set(rows["n_samples"].to_pylist()))
    explained = rows.filter(pc.equal(rows["status"], "ok"))
    segmenters = {name.partition("(")[0] for name in explained["segmenter"].to_pylist() if name is not None}
    sizes = pc.min_max(explained["n_segments"]).as_py()
    segments = " to ".join(str(size) for size in dict.fromkeys(sizes.values()) if size is not None)
    facts = {
        "Images": f"{rows.num_rows:,}",
        "Explained": f"{len(images):,}",
        "Failed": f"{rows.num_rows - len(images):,}",
        "Corrupt result files": f"{corrupt:,}, left out; gpulime verify names them" if corrupt else "",
        "Accuracy": f"{100 * sum(known) / len(known):.1f} % ({sum(known):,} of {len(known):,})" if known else "",
        "Samples per image": ", ".join(f"{count:,}" for count in samples),
        "Segments per image": f"{segments}, {', '.join(sorted(segmenters))}" if segments else "",
        "Model": str(manifest.get("model", "")),
    }
    return [(term, value) for term, value in facts.items() if value]


def _histogram(scores: Sequence[float]) -> list[Bar]:
    if not scores:
        return []
    counts = Counter(-1 if value < 0 else min(int(value * BINS), BINS - 1) for value in scores)
    highest = max(counts.values())
    words = {-1: "below 0", **{i: f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}" for i in range(BINS)}}
    return [Bar(bounds, counts[i], counts[i] / highest) for i, bounds in words.items()]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
