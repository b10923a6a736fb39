"""Compare two runs: the agreement of explanations of the same images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gpulime.classes import called
from gpulime.errors import GpulimeError, check
from gpulime.explanations import shades
from gpulime.runs.progress.terminal import printable
from gpulime.runs.store import row_index, store
from gpulime.runs.store.row import DAMAGED, IMAGE, PARTS, kind_of, prediction
from gpulime.runs.store.row_index import Places

Array = np.ndarray[Any, np.dtype[Any]]
Row = Mapping[str, Any]

TOP = 5
SHOWN = 10  # images in the text
NAME_WIDTH = 36
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CHUNK = 256  # rows of both runs in memory at once


@dataclass(frozen=True)
class LabelDiff:
    """One label that both runs explain for an image.

    ``correlation`` is Spearman's, of the segments' coefficients; None if the segments differ or a run's coefficients are all
    equal. ``overlap`` is `top_overlap`; None also if picture sizes differ.
    """

    label: int
    probability_a: float
    probability_b: float
    correlation: float | None
    overlap: float | None


@dataclass(frozen=True)
class ImageDiff:
    """One image that both runs explain; ``top_a`` and ``top_b`` are its predicted classes, with probability.

    ``knows_top`` is true if both are known; if not, they are the most probable explained labels. ``same_size`` and
    ``same_segments`` are true if both runs used the same picture size and the same segments.
    """

    image_id: str
    top_a: tuple[int, float]
    top_b: tuple[int, float]
    same_size: bool
    same_segments: bool
    labels: list[LabelDiff]
    knows_top: bool = True

    @property
    def changed(self) -> bool:
        """True if the top label is known and changed."""
        return self.knows_top and self.top_a[0] != self.top_b[0]

    @property
    def comparable(self) -> bool:
        """True if there is any measure of agreement."""
        return self.same_size and bool(self.labels)

    @property
    def leading(self) -> LabelDiff | None:
        """The shared label that was the most probable in A."""
        return max(self.labels, key=lambda one: one.probability_a, default=None)

    @property
    def order(self) -> tuple[float, ...]:
        """Sort key: images without a comparison, other top labels, then overlap, correlation and change of probability."""
        if (lead := self.leading) is None:
            return self.comparable, not self.changed, 1.0, 1.0, -1.0
        overlap, correlation = (1.0 if measure is None else measure for measure in (lead.overlap, lead.correlation))
        return self.comparable, not self.changed, overlap, correlation, -abs(lead.probability_b - lead.probability_a)


@dataclass(frozen=True)
class Diff:
    """Two runs compared.

    Attributes
    ----------
    settings : (name, in A, in B) of each setting that differs
    only_a, only_b, failed : images with a row in only one run; images in both of which a run has no explanation
    damaged_a, damaged_b : images whose explanation is damaged
    images : images that both explain, the most changed first
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
    kind: str = IMAGE  # of the inputs of A

    @property
    def summary(self) -> list[tuple[str, str]]:
        """The summary as (term, value)."""
        n = len(self.images)
        same = sum(image.same_segments for image in self.images)
        changed, known = (sum(getattr(image, name) for image in self.images) for name in ("changed", "knows_top"))
        pairs = sum(len(image.labels) for image in self.images)
        facts = [
            (f"{self.kind}s in both", f"{n + self.failed:,} (only in A {self.only_a:,}, only in B {self.only_b:,})"),
            ("explained by both", f"{n:,}"),
            (
                "top label changed",
                f"{changed:,} of {n:,}" if known == n else "not known: a run of an earlier version explains targets alone",
            ),
            (f"same {PARTS[self.kind]}", f"{same:,} of {n:,}" + ("" if same == n else "; the others have no correlation")),
            ("labels compared", f"{pairs:,}"),
        ]
        if apart := sum(not image.comparable for image in self.images):
            facts.append(("not comparable", f"{apart:,}: other sizes, or no label in both; they come first"))
        if self.damaged_a or self.damaged_b:
            left_out = "; they are left out, and gpulime report lists them with the reasons"
            facts.append(("damaged rows", f"{self.damaged_a:,} in A, {self.damaged_b:,} in B{left_out}"))
        if self.names_a and self.names_b and list(self.names_a) != list(self.names_b):
            facts.append(("class names", "differ between the runs; labels are compared by number"))
        return facts

    @property
    def spreads(self) -> list[tuple[str, list[float] | None]]:
        """Quantiles over all labels, as (measure, its `QUANTILES`); None if no label has the measure."""
        pairs = [label for image in self.images for label in image.labels]
        return [
            ("rank correlation", _quantiles([label.correlation for label in pairs])),
            (f"overlap of the top {TOP}", _quantiles([label.overlap for label in pairs])),
            ("change of probability", _quantiles([abs(label.probability_b - label.probability_a) for label in pairs])),
        ]

    def __str__(self) -> str:
        head = [("A", str(self.a)), ("B", str(self.b)), *((name, f"{a} -> {b}") for name, a, b in self.settings), *self.summary]
        width = max(len(term) for term, _ in [*head, *self.spreads]) + 2
        found = [f"{term:{width}}{printable(value)}" for term, value in head]
        found += ["", f"{'over all labels':{width}}" + "".join(f"{name:>8}" for name in quantile_names())]
        for term, values in self.spreads:
            numbers = "not known" if values is None else "".join(f"{value:8.3f}" for value in values)
            found.append(f"{term:{width}}{numbers}")
        if self.images:
            found += [
                "",
                f"{'most changed':{NAME_WIDTH}}  {'top label in A':30}  {'in B':30}  {'rank corr.':>10}  {f'top {TOP}':>5}",
            ]
        for image in self.images[:SHOWN]:
            lead = image.leading
            same = image.top_a[0] == image.top_b[0]
            tops = (_called(*image.top_a, self.names_a), "same" if same else _called(*image.top_b, self.names_b))
            correlation = "-" if lead is None or lead.correlation is None else f"{lead.correlation:.3f}"
            overlap = "-" if lead is None or lead.overlap is None else f"{lead.overlap:.0%}"
            name = printable(image.image_id)
            name = name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}"
            found.append(f"{name:{NAME_WIDTH}}  {tops[0]:30}  {tops[1]:30}  {correlation:>10}  {overlap:>5}")
        return "\n".join(found)


def compare(a: Path, b: Path) -> Diff:
    """Compare two runs image by image, label by label.

    Raises
    ------
    GpulimeError
        If a directory holds no run, both are the same, their inputs are of different kinds, or no input is in both.
    """
    about_a, about_b = store.manifest(a), store.manifest(b)
    if a.resolve() == b.resolve():
        raise GpulimeError(f"A and B must be two runs; both are {a}")
    kind_a, kind_b = (about.get("kind", IMAGE) for about in (about_a, about_b))
    check(kind_a == kind_b, f"runs of one kind can be compared: {a} explains {kind_a}s, {b} explains {kind_b}s")
    places_a, places_b = (row_index.judged(run) for run in (a, b))
    ids_a, ids_b = (of_run.rows["image_id"].to_pylist() for of_run in (places_a, places_b))
    place = {image_id: i for i, image_id in enumerate(ids_b)}
    pairs = [(i, place[image_id]) for i, image_id in enumerate(ids_a) if image_id in place]
    oks_a, oks_b = (pc.equal(of_run.rows["status"], "ok").to_pylist() for of_run in (places_a, places_b))
    if not pairs:
        raise GpulimeError(f"no {kind_a} is in both: {a} has {len(ids_a)}, {b} has {len(ids_b)}, by other ids")
    explained = [(i, j) for i, j in pairs if oks_a[i] and oks_b[j]]
    both = _together(places_a, places_b, explained)
    images = sorted(
        (_image(x, y, prediction(x, about_a), prediction(y, about_b)) for x, y in both), key=lambda image: image.order
    )
    return Diff(
        a=a,
        b=b,
        settings=_settings(about_a, about_b),
        only_a=len(ids_a) - len(pairs),
        only_b=len(ids_b) - len(pairs),
        failed=len(pairs) - len(images),
        damaged_a=places_a.rows["error_type"].to_pylist().count(DAMAGED),
        damaged_b=places_b.rows["error_type"].to_pylist().count(DAMAGED),
        images=images,
        names_a=about_a.get("class_names"),
        names_b=about_b.get("class_names"),
        kind=kind_a,
    )


def _together(a: Places, b: Places, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[Row, Row]]:
    for start in range(0, len(pairs), CHUNK):
        some = pairs[start : start + CHUNK]
        of_b = {j: b.row(j) for j in sorted(j for _, j in some)}  # in stored order, so that neighbours are read together
        yield from ((a.row(i), of_b[j]) for i, j in some)


def _image(a: Row, b: Row, top_a: tuple[int, float] | None, top_b: tuple[int, float] | None) -> ImageDiff:
    same_size, same, overlapping = _parts(a, b)
    labels = []
    for i, label in enumerate(a["labels"]):
        if label in b["labels"]:
            j = b["labels"].index(label)
            x, y = (np.round(coefficients, shades.MOST_DECIMALS) for coefficients in (a["coef"][i], b["coef"][j]))
            correlation = rank_correlation(x, y) if same else None
            overlap = overlapping(x, y) if same_size else None
            labels.append(LabelDiff(label, a["pred_probs"][i], b["pred_probs"][j], correlation, overlap))
    knows_top = top_a is not None and top_b is not None
    return ImageDiff(a["image_id"], top_a or _top(a), top_b or _top(b), same_size, same, labels, knows_top)


def _parts(a: Row, b: Row) -> tuple[bool, bool, Callable[[Array, Array], float | None]]:
    """Tell if the parts of an input in both runs can be compared and are the same; and the overlap of the strongest ones."""
    if kind_of(a) == IMAGE:  # so is B's, as runs of different kinds are refused
        map_a, map_b = (store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"]) for row in (a, b))
        same = np.array_equal(map_a, map_b)
        return map_a.shape == map_b.shape, same, lambda x, y: top_overlap(map_a, x, map_b, y)
    names_a, names_b = a["parts"] or [], b["parts"] or []
    return True, names_a == names_b, lambda x, y: names_overlap(names_a, x, names_b, y)


def _top(row: Row) -> tuple[int, float]:
    j = int(np.argmax(row["pred_probs"]))
    return row["labels"][j], row["pred_probs"][j]


def rank_correlation(x: Array, y: Array) -> float | None:
    """Spearman's rank correlation of coefficients (k,), equal ones sharing their mean rank; None if all are equal."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) for values in (x, y)]
    if min(len(x), *(np.ptp(values) for values in ranks)) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def top_overlap(map_a: Array, x: Array, map_b: Array, y: Array, top: int = TOP) -> float | None:
    """Intersection over union, in [0, 1], of the pixels in the ``top`` strongest segments of both; None if there are none.

    Maps are (h, w) segments from 0, ``x`` and ``y`` their coefficients (k,). Segments with 0 are never among the strongest.
    """
    area_a, area_b = _strongest_area(map_a, x, top), _strongest_area(map_b, y, top)
    either = np.count_nonzero(area_a | area_b)
    return np.count_nonzero(area_a & area_b) / either if either else None


def names_overlap(names_a: Sequence[str], x: Array, names_b: Sequence[str], y: Array, top: int = TOP) -> float | None:
    """Intersection over union, in [0, 1], of the names of the ``top`` strongest parts of both; None if there are none."""
    a, b = (
        {names[i] for i, _ in shades.strongest(list(enumerate(coefficients)), top)}
        for names, coefficients in ((names_a, x), (names_b, y))
    )
    return len(a & b) / len(a | b) if a | b else None


def _strongest_area(segments: Array, coefficients: Array, top: int) -> Array:
    return np.isin(segments, [i for i, _ in shades.strongest(list(enumerate(coefficients)), top)])


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


def quantile_names() -> list[str]:
    """Names of the columns of `Diff.spreads`."""
    return ["median" if quantile == 0.5 else f"{quantile:.0%}" for quantile in QUANTILES]


def _called(label: int, probability: float, names: Sequence[str] | None) -> str:
    return f"{printable(called(label, names)):.23} {probability:.3f}"
