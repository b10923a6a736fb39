"""Two runs beside each other: how far the explanations of the same images agree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gpulime.errors import GpulimeError
from gpulime.runs import damage, files, store

Array = np.ndarray[Any, np.dtype[Any]]
Row = Mapping[str, Any]

TOP = 5
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CHUNK = 256  # rows of both runs in memory at once


@dataclass(frozen=True)
class LabelDiff:
    """One label that both runs explain for an image.

    Attributes
    ----------
    probability_a, probability_b : float
    correlation : float or None, Spearman's, of the segments' coefficients; None where the segments differ or a run's
        coefficients are all the same
    overlap : float or None, the part of the `TOP` strongest segments that both share, in [0, 1]; None where the segments
        differ or no segment has a coefficient
    """

    label: int
    probability_a: float
    probability_b: float
    correlation: float | None
    overlap: float | None


@dataclass(frozen=True)
class ImageDiff:
    """One image that both runs explain; ``top_a`` and ``top_b`` are its most probable explained labels, with probability.

    ``knows_top`` says whether these are the model's most probable classes in both runs, and not targets alone.
    """

    image_id: str
    top_a: tuple[int, float]
    top_b: tuple[int, float]
    same_segments: bool
    labels: list[LabelDiff]
    knows_top: bool = True

    @property
    def changed(self) -> bool:
        """Whether the top label changed, where it is known."""
        return self.knows_top and self.top_a[0] != self.top_b[0]

    @property
    def leading(self) -> LabelDiff | None:
        """The shared label that was the most probable in A."""
        return max(self.labels, key=lambda one: one.probability_a, default=None)

    @property
    def order(self) -> tuple[float, ...]:
        """The most changed sort first: another top label, then a low correlation, then a large change of probability."""
        lead = self.leading
        correlation = lead.correlation if lead is not None and lead.correlation is not None else 1.0
        shift = abs(lead.probability_b - lead.probability_a) if lead is not None else 1.0
        return not self.changed, correlation, -shift


@dataclass(frozen=True)
class Diff:
    """Two runs compared.

    Attributes
    ----------
    a, b : Path, the run directories
    settings : (name, in A, in B) of each setting that differs
    only_a, only_b : int, images that only one run has a row of
    failed : int, images in both of which at least one run has no explanation
    damaged_a, damaged_b : int, images whose explanation is damaged, in each run
    images : ImageDiff of those both explain, the most changed first
    names_a, names_b : the classes' names, where they are known
    """

    a: Path
    b: Path
    settings: list[tuple[str, str, str]]
    only_a: int
    only_b: int
    failed: int
    damaged_a: int
    damaged_b: int
    images: list[ImageDiff]
    names_a: Sequence[str] | None
    names_b: Sequence[str] | None

    @property
    def summary(self) -> list[tuple[str, str]]:
        """What came of it, as (term, value)."""
        n = len(self.images)
        same = sum(image.same_segments for image in self.images)
        changed, known = (sum(getattr(image, name) for image in self.images) for name in ("changed", "knows_top"))
        pairs = sum(len(image.labels) for image in self.images)
        facts = [
            ("images in both", f"{n + self.failed:,} (only in A {self.only_a:,}, only in B {self.only_b:,})"),
            ("explained by both", f"{n:,}"),
            ("top label changed", f"{changed:,} of {n:,}" if known else "not known: a run explains targets alone"),
            ("same segments", f"{same:,} of {n:,}" + ("" if same == n else "; the others have no correlation")),
            ("labels compared", f"{pairs:,}"),
        ]
        if self.damaged_a or self.damaged_b:
            left_out = "; they are left out, and gpulime report lists them with the reasons"
            facts.append(("damaged rows", f"{self.damaged_a:,} in A, {self.damaged_b:,} in B{left_out}"))
        if self.names_a and self.names_b and list(self.names_a) != list(self.names_b):
            facts.append(("class names", "differ between the runs; labels are compared by number"))
        return facts

    @property
    def spreads(self) -> list[tuple[str, list[float] | None]]:
        """How the measures of all labels lie, as (measure, its `QUANTILES`); None where it is not known for any."""
        pairs = [label for image in self.images for label in image.labels]
        return [
            ("rank correlation", _quantiles([label.correlation for label in pairs])),
            (f"overlap of the top {TOP}", _quantiles([label.overlap for label in pairs])),
            ("change of probability", _quantiles([abs(label.probability_b - label.probability_a) for label in pairs])),
        ]


def compare(a: Path, b: Path) -> Diff:
    """Compare two runs image by image, label by label.

    Raises
    ------
    GpulimeError
        Where a directory holds no run, both are the same, or no image is in both.
    """
    about_a, about_b = files.manifest(a), files.manifest(b)
    if a.resolve() == b.resolve():
        raise GpulimeError(f"A and B must be two runs; both are {a}")
    rows_a, rows_b = (damage.marked(store.read(run)) for run in (a, b))
    ids_a, ids_b = rows_a["image_id"].to_pylist(), rows_b["image_id"].to_pylist()
    place = {image_id: i for i, image_id in enumerate(ids_b)}
    pairs = [(i, place[image_id]) for i, image_id in enumerate(ids_a) if image_id in place]
    if not pairs:
        raise GpulimeError(f"no image is in both: {a} has {len(ids_a)}, {b} has {len(ids_b)}, by other ids")
    explained = [(x, y) for x, y in _together(rows_a, rows_b, pairs) if x["status"] == y["status"] == "ok"]
    knows_top = all(manifest.get("fixed", {}).get("lime.labels") != "target" for manifest in (about_a, about_b))
    images = sorted((_image(x, y, knows_top) for x, y in explained), key=lambda image: image.order)
    return Diff(
        a=a,
        b=b,
        settings=_settings(about_a, about_b),
        only_a=len(ids_a) - len(pairs),
        only_b=len(ids_b) - len(pairs),
        failed=len(pairs) - len(images),
        damaged_a=rows_a["error_type"].to_pylist().count(damage.KIND),
        damaged_b=rows_b["error_type"].to_pylist().count(damage.KIND),
        images=images,
        names_a=about_a.get("class_names"),
        names_b=about_b.get("class_names"),
    )


def _together(rows_a: pa.Table, rows_b: pa.Table, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[Row, Row]]:
    for start in range(0, len(pairs), CHUNK):
        places_a, places_b = zip(*pairs[start : start + CHUNK], strict=True)
        yield from zip(rows_a.take(places_a).to_pylist(), rows_b.take(places_b).to_pylist(), strict=True)


def _image(a: Row, b: Row, knows_top: bool) -> ImageDiff:
    same = _same_segments(a, b)
    labels = []
    for i, label in enumerate(a["labels"]):
        if label in b["labels"]:
            j = b["labels"].index(label)
            x, y = np.array(a["coef"][i]), np.array(b["coef"][j])
            numbers = (rank_correlation(x, y), top_overlap(x, y)) if same else (None, None)
            labels.append(LabelDiff(label, a["pred_probs"][i], b["pred_probs"][j], *numbers))
    return ImageDiff(a["image_id"], _top(a), _top(b), same, labels, knows_top)


def _top(row: Row) -> tuple[int, float]:
    j = int(np.argmax(row["pred_probs"]))
    return row["labels"][j], row["pred_probs"][j]


def _same_segments(a: Row, b: Row) -> bool:
    shape = ("h", "w", "n_segments")
    if any(a[name] != b[name] for name in shape):
        return False
    map_a, map_b = (store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"]) for row in (a, b))
    return np.array_equal(map_a, map_b)


def rank_correlation(x: Array, y: Array) -> float | None:
    """Spearman's rank correlation of coefficients (k,), equal ones sharing their mean rank; None where all are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (x, y)]
    if min(len(x), *(np.ptp(values) for values in ranks)) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def top_overlap(x: Array, y: Array, top: int = TOP) -> float | None:
    """The part of the ``top`` largest coefficients (k,) by size that both have in common; zeros are never among them."""
    largest = [{int(j) for j in np.argsort(-np.abs(values), kind="stable")[:top] if values[j] != 0} for values in (x, y)]
    most = max(map(len, largest))
    return len(largest[0] & largest[1]) / most if most else None


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    was, now = a.get("fixed", {}), b.get("fixed", {})
    none = "not set"

    def shown(value: Any) -> str:
        return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", str(value))  # a sha256

    return [
        (name, shown(was.get(name, none)), shown(now.get(name, none)))
        for name in {**was, **now}
        if was.get(name, none) != now.get(name, none)
    ]


def _quantiles(values: Sequence[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [float(value) for value in np.quantile(known, QUANTILES)] if known else None
