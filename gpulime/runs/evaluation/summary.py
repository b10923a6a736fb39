"""Summary of an evaluation: mean and standard error of each metric and method, in words and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpulime.evaluate.comparison import listed
from gpulime.evaluate.same_maps import EQUAL
from gpulime.runs.evaluation import rows, settings
from gpulime.runs.evaluation.rows import EVALUATION, HELD_OUT, METRICS
from gpulime.runs.evaluation.settings import FIRST
from gpulime.runs.progress.terminal import counted, printable
from gpulime.runs.store import shards
from gpulime.runs.store.atomic import publish
from gpulime.runs.store.manifest import manifest
from gpulime.runs.store.row import IMAGE

FILE = "evaluation-summary.json"
NAMES = {
    rows.DELETION: "deletion",
    rows.INSERTION: "insertion",
    rows.GAP: "ins. - del.",
    rows.IROF: "IROF",
    rows.MINIMAL: "min. deletion",
    rows.HELD_OUT_R2: "held-out R2",
    rows.INFIDELITY: "infidelity",
}
STORED = ["image_id", "label", "method", "map"]
LOST = 10  # lost inputs that are named
COMPARED = 64  # inputs whose maps are compared: a method that equals another does so on each
WIDTH = 22  # of a column


@dataclass(frozen=True)
class Score:
    """A metric of one method, over inputs: of each the mean over its labels."""

    metric: str
    method: str
    unit: str
    fill: str
    mean: float | None
    standard_error: float | None  # None for fewer than two inputs
    inputs: int  # with a value
    undefined: int  # rows without a value, failed inputs among them


@dataclass(frozen=True)
class Summary:
    """Results of an evaluation."""

    kind: str  # of the inputs
    inputs: int  # measured
    failed: dict[str, int]  # kind of failure -> inputs without any value
    lost: dict[str, str]  # input -> the reason of its failure, of the first `LOST`
    scores: list[Score]
    settings: dict[str, Any]
    absent: dict[str, str] = field(default_factory=dict)  # method -> the reason
    failing: dict[str, str] = field(default_factory=dict)  # method -> the number of measured inputs that it fails for, and why
    notes: dict[str, list[str]] = field(default_factory=dict)  # method -> equal maps, and what it does not cover
    left: int = 0  # inputs for other processes

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        found = dataclasses.asdict(self)
        found["not_available"] = found.pop("absent")
        return found

    @property
    def tables(self) -> list[tuple[str, list[str], list[tuple[str, list[Score | None]]]]]:
        """A table for each measurement, unit and fill: its title, the metrics, and a line for each method."""
        found = []
        for measurement, metrics in METRICS.items():
            some = [score for score in self.scores if score.metric in metrics]
            for unit, fill in dict.fromkeys((score.unit, score.fill) for score in some):
                cells = {(one.method, one.metric): one for one in some if (one.unit, one.fill) == (unit, fill)}
                lines = [
                    (name, [cells.get((name, metric)) for metric in metrics]) for name in dict.fromkeys(m for m, _ in cells)
                ]
                found.append((self._title(measurement, unit, fill), list(metrics), lines))
        return found

    def _title(self, measurement: str, unit: str, fill: str) -> str:
        if measurement == HELD_OUT:
            return f"on {self.settings.get('samples')} masks that were not fitted, by {unit}, fill {fill}"
        return f"deletion and insertion by {unit}, fill {fill}"

    def __str__(self) -> str:
        failed = ", ".join(f"{printable(kind)} {count:,}" for kind, count in self.failed.items())
        lines = [f"{counted(self.inputs, self.kind)} measured" + (f"; failed: {failed}" if failed else "")]
        lines += [f"{printable(name)}: {printable(reason)}" for name, reason in self.lost.items()]
        if (more := sum(self.failed.values()) - len(self.lost)) > 0:
            lines.append(f"and {more:,} more, with their reasons in the rows")
        for title, metrics, methods in self.tables:
            some = any(self.is_partial(one) for _, scores in methods for one in scores)
            fewer = f"; in brackets the {self.kind}s with a value, if not all have one" if some else ""
            lines += ["", f"{title}: mean ± standard error{fewer}"]
            lines.append(f"{'':16}" + "".join(f"{NAMES[metric]:>{WIDTH}}" for metric in metrics))
            for name, scores in methods:
                lines.append(f"{printable(name):16}" + "".join(f"{self._said(one):>{WIDTH}}" for one in scores))
            lines.append(
                f"{'better is':16}" + "".join(f"{'higher' if rows.HIGHER[metric] else 'lower':>{WIDTH}}" for metric in metrics)
            )
        lines += [f"\n{printable(name)}: {printable(remark)}" for name, remark in self.remarks]
        return "\n".join(lines)

    @property
    def remarks(self) -> list[tuple[str, str]]:
        """Methods, each with a note, a failure or the reason why it is not available."""
        return [
            *((name, note) for name, notes in self.notes.items() for note in notes),
            *((name, f"failed for {why}") for name, why in self.failing.items()),
            *((name, f"not available: {why}") for name, why in self.absent.items()),
        ]

    def is_partial(self, score: Score | None) -> bool:
        """Tell if a mean is over some of the measured inputs only."""
        return score is not None and 0 < score.inputs < self.inputs

    def _said(self, score: Score | None) -> str:
        if score is None or score.mean is None:
            return "-"
        error = "" if score.standard_error is None else f" ± {number(score.standard_error)}"
        return number(score.mean) + error + (f" ({score.inputs:,})" if self.is_partial(score) else "")


def number(value: float) -> str:
    """A value with three decimals, or with two digits if it is smaller or very large."""
    return f"{value:.3f}" if value == 0 or 5e-4 <= abs(value) < 1e4 else f"{value:.1e}"


def of(run: Path, absent: Mapping[str, str], left: int = 0) -> Summary:
    """Sum up the rows of an evaluation."""
    table = rows.read(run, [*rows.KEY, "value", "error_type", "reason", "notes"])
    is_lost = table["error_type"].is_valid()
    measured, failures = table.filter(pc.invert(is_lost)), table.filter(is_lost)
    ids = measured["image_id"].unique()
    in_part = pc.is_in(failures["image_id"], ids)
    lost = failures.filter(pc.invert(in_part)).select(["image_id", "error_type", "reason"]).to_pylist()
    kinds = {(one["image_id"], one["error_type"]) for one in lost}
    reasons = {one["image_id"]: one["reason"] for one in reversed(lost)}
    one = manifest(run).get("kind", IMAGE)
    return Summary(
        kind=one,
        inputs=len(ids),
        failed=dict(Counter(kind for _, kind in sorted(kinds)).most_common()),
        lost=dict(sorted(reasons.items())[:LOST]),
        scores=_scores(table),
        settings=(settings.read(run) or {"fixed": {}})["fixed"],
        absent=dict(absent),
        failing=_failing(failures.filter(in_part), len(ids), one),
        notes=_notes(run, measured, one),
        left=left,
    )


def _failing(failures: pa.Table, total: int, kind: str) -> dict[str, str]:
    """Methods that failed for measured inputs: for how many of all, and why."""
    whys: dict[str, dict[str, str]] = defaultdict(dict)
    for row in failures.select(["image_id", "method", "reason"]).to_pylist():
        whys[row["method"]][row["image_id"]] = row["reason"]
    return {name: f"{len(why)} of {counted(total, kind)}: {listed(why.values())}" for name, why in sorted(whys.items())}


def _notes(run: Path, measured: pa.Table, kind: str) -> dict[str, list[str]]:
    """Notes of each method, with the number of inputs if they are not all; and methods whose stored maps are the same.

    An input counts if all of its labels have the note.
    """
    noted = measured.filter(measured["notes"].is_valid())
    those = measured.filter(pc.is_in(measured["method"], noted["method"].unique()))
    tasks = those.group_by(["method", "image_id", "label"]).aggregate([])
    labels = Counter(zip(tasks["method"].to_pylist(), tasks["image_id"].to_pylist(), strict=True))
    totals = Counter(method for method, _ in labels)
    found_in = noted.select(["method", "image_id", "label", "notes"]).to_pylist()
    of_labels = {(row["method"], note, row["image_id"], row["label"]) for row in found_in for note in row["notes"]}
    of_inputs = Counter((method, note, image_id) for method, note, image_id, _ in sorted(of_labels))
    counts = Counter((method, note) for (method, note, image_id), n in of_inputs.items() if n == labels[method, image_id])
    found: dict[str, list[str]] = defaultdict(list)
    for (method, note), count in counts.items():
        found[method].append(note if count == totals[method] else f"{note} for {count:,} of {counted(totals[method], kind)}")
    # Full-size maps are compared within one call; only the stored ones tell of methods that different calls measured.
    for method, other in _alike(run).items():
        if not {(method, f"{EQUAL} {other}"), (other, f"{EQUAL} {method}")} & counts.keys():
            found[method].append(f"the stored maps, {rows.SIDE} x {rows.SIDE}, are those of {other}")
    return dict(found)


def _scores(table: pa.Table) -> list[Score]:
    by, metrics = ["metric", "method", "unit", "fill"], [metric for of_one in METRICS.values() for metric in of_one]
    table = table.filter(pc.is_in(table["metric"], pa.array(metrics)))  # another program may have written others
    of_inputs = table.group_by([*by, "image_id"]).aggregate([("value", "mean"), ("value", "count"), ([], "count_all")])
    missing = pc.subtract(of_inputs["count_all"], of_inputs["value_count"])
    together = (
        of_inputs.append_column("missing", missing)
        .group_by(by)
        .aggregate(
            [
                ("value_mean", "mean"),
                ("value_mean", "stddev", pc.VarianceOptions(ddof=1)),
                ("value_mean", "count"),
                ("missing", "sum"),
            ]
        )
    )
    found = [
        Score(
            **{name: one[name] for name in by},
            mean=one["value_mean_mean"],
            standard_error=_error(one["value_mean_stddev"], one["value_mean_count"]),
            inputs=one["value_mean_count"],
            undefined=one["missing_sum"],
        )
        for one in together.to_pylist()
    ]
    methods = [*FIRST, *sorted({one.method for one in found} - set(FIRST))]
    return sorted(found, key=lambda one: (one.unit, one.fill, methods.index(one.method), metrics.index(one.metric)))


def _alike(run: Path) -> dict[str, str]:
    """Methods whose stored maps are those of another one, of all inputs that are compared, up to rounding."""
    ids = pa.array(shards.rows(run, ["image_id"], EVALUATION)["image_id"].unique().to_pylist()[:COMPARED], pa.string())

    def some(table: pa.Table) -> pa.Table:
        return table.filter(pc.and_(pc.is_in(table["image_id"], ids), table["map"].is_valid()))

    found, _ = shards.each(run, lambda _, shard: shards.kept(shard, STORED, some, EVALUATION), EVALUATION)
    maps: dict[str, dict[tuple[str, int], npt.NDArray[np.int16]]] = defaultdict(dict)
    for row in (row for table in found for row in table.to_pylist()):
        if row["method"] not in FIRST:
            maps[row["method"]][row["image_id"], row["label"]] = np.frombuffer(row["map"], np.int8).astype(np.int16)
    names = sorted(maps)
    pairs = {name: next((other for other in names[:i] if _same(maps[name], maps[other])), None) for i, name in enumerate(names)}
    return {name: other for name, other in pairs.items() if other is not None}


def _same(maps: Mapping[Any, npt.NDArray[np.int16]], others: Mapping[Any, npt.NDArray[np.int16]]) -> bool:
    """Tell if the maps of the same inputs and labels differ by one level at most, and are not all constant."""
    both = maps.keys() & others.keys()
    if all(np.ptp(maps[one]) == 0 for one in both):
        return False
    return all(maps[one].shape == others[one].shape and abs(maps[one] - others[one]).max() <= 1 for one in both)


def _error(spread: float | None, n: int) -> float | None:
    return None if spread is None or not math.isfinite(spread) or n < 2 else spread / math.sqrt(n)


def write(run: Path, found: Summary) -> Path:
    """Write ``evaluation-summary.json`` into a run."""
    publish(run, FILE, json.dumps(found.as_json(), indent=2).encode())
    return run / FILE


def absent(run: Path) -> dict[str, str]:
    """The methods that could not be had when the run was evaluated last, from its summary."""
    try:
        found = json.loads((run / FILE).read_bytes()).get("not_available", {})
        return {str(name): str(reason) for name, reason in found.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
