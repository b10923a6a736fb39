"""Rows of an evaluation: a value for each metric, method, label and input, in ``RUN/evaluation/*.parquet``."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpulime.errors import GpulimeError
from gpulime.runs.store import shards
from gpulime.runs.store.layout import VERSION_KEY, Layout

SCHEMA_VERSION = 2
FOLDER = "evaluation"
DELETION, INSERTION, GAP, IROF, MINIMAL = "deletion", "insertion", "gap", "irof", "minimal_deletion"
HELD_OUT_R2, INFIDELITY = "held_out_r2", "infidelity"
CURVES, HELD_OUT = "curves", "held_out"
# The metrics of each measurement: all of its rows are written together. The first one stands for the measurement.
METRICS = {CURVES: (DELETION, INSERTION, GAP, IROF, MINIMAL), HELD_OUT: (HELD_OUT_R2, INFIDELITY)}
HIGHER = {DELETION: False, INSERTION: True, GAP: True, IROF: True, MINIMAL: False, HELD_OUT_R2: True, INFIDELITY: False}
KEY = ("image_id", "label", "method", "unit", "fill", "metric")  # of a row
SIDE = 32  # of a stored map, whatever the size of its image


class Part(NamedTuple):
    """One measurement of one method."""

    method: str
    measurement: str


class Task(NamedTuple):
    """A part of the work on an input: one measurement of one method for one label."""

    label: int
    method: str
    unit: str
    fill: str
    measurement: str

    @property
    def part(self) -> Part:
        """The method and the measurement."""
        return Part(self.method, self.measurement)


@functools.cache
def schema() -> pa.Schema:
    """The columns, in the order of the shards."""

    def always(name: str, dtype: pa.DataType) -> pa.Field:
        return pa.field(name, dtype, nullable=False)

    return pa.schema(
        [
            always("image_id", pa.string()),
            always("label", pa.int32()),
            always("metric", pa.string()),
            always("method", pa.string()),
            always("unit", pa.string()),
            always("fill", pa.string()),
            ("value", pa.float64()),
            ("reason", pa.string()),
            ("error_type", pa.string()),
            ("curve", pa.list_(pa.float32())),
            ("area", pa.list_(pa.float32())),
            ("map", pa.binary()),
            ("notes", pa.list_(pa.string())),
            always("written_at", pa.timestamp("us", tz="UTC")),
            always("config_hash", pa.string()),
        ],
        metadata={VERSION_KEY: str(SCHEMA_VERSION).encode()},
    )


def record(entry: Mapping[str, Any]) -> pa.RecordBatch:
    """The rows of one input, ``entry["rows"]``, as one batch; a value that is not finite becomes null."""
    rows = [{**row, "value": _known(row["value"]), "reason": _text(row.get("reason"))} for row in entry["rows"]]
    try:
        return pa.RecordBatch.from_pylist(rows, schema())
    except (TypeError, ValueError, OverflowError) as error:
        raise GpulimeError(f"does not fit the columns of an evaluation: {error}") from error


EVALUATION = Layout(FOLDER, schema(), record, "run the same gpulime evaluate to measure its images again", {"notes": 2})


def read(run: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of an evaluation, or all; one row for each `KEY`, in the order of writing.

    Of several rows a measured one wins over a failure, then the newest. A corrupt shard is skipped, with a warning.
    """
    wanted = schema().names if columns is None else list(columns)
    table = shards.rows(run, [*dict.fromkeys([*wanted, *KEY, "error_type", "written_at"])], EVALUATION)
    return table.filter(winners(table)).select(wanted)


def winners(rows: pa.Table) -> pa.Array:
    """A mask over ``rows``, in the order of writing, that keeps one for each `KEY`."""
    place = np.arange(len(rows))
    ranked = pa.table(
        {name: rows[name] for name in KEY}
        | {"measured": rows["error_type"].is_null(), "written_at": rows["written_at"], "place": place}
    )
    if len(rows.group_by(KEY).aggregate([])) < len(rows):
        ranked = ranked.sort_by([(name, "descending") for name in ("measured", "written_at", "place")])
        place = ranked.group_by(KEY, use_threads=False).aggregate([("place", "first")])["place_first"].to_numpy()
    keep = np.zeros(len(rows), dtype=bool)
    keep[place] = True
    return pa.array(keep)


def done(run: Path, again: bool = False) -> dict[str, set[Task]]:
    """The finished tasks of each input; with ``again`` failed ones do not count."""
    table = shards.rows(run, [*KEY, "error_type"], EVALUATION)
    first = {metrics[0]: measurement for measurement, metrics in METRICS.items()}
    table = table.filter(pc.is_in(table["metric"], pa.array(first)))
    if again:
        table = table.filter(table["error_type"].is_null())
    found: dict[str, set[Task]] = defaultdict(set)
    for image_id, label, method, unit, fill, metric in zip(*(table[name].to_pylist() for name in KEY), strict=True):
        found[image_id].add(Task(label, method, unit, fill, first[metric]))
    return found


def failed(image_id: str, tasks: Iterable[Task], kind: str, reason: str) -> list[dict[str, Any]]:
    """The rows of tasks that failed for one reason, without a value."""
    return [
        row_of(image_id, task, metric) | {"value": math.nan, "reason": reason, "error_type": kind}
        for task in tasks
        for metric in METRICS[task.measurement]
    ]


def row_of(image_id: str, task: Task, metric: str) -> dict[str, Any]:
    """A row without a value."""
    names = {"label": task.label, "method": task.method, "unit": task.unit, "fill": task.fill}
    return {"image_id": image_id, "metric": metric, **names, "error_type": None}


def task_of(row: Mapping[str, Any]) -> Task:
    """The task that a row belongs to."""
    measurement = next(name for name, metrics in METRICS.items() if row["metric"] in metrics)
    return Task(row["label"], row["method"], row["unit"], row["fill"], measurement)


def _known(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _text(reason: str | None) -> str | None:
    """A reason, which may quote a file name that is not UTF-8."""
    return None if reason is None else str(reason).encode("utf-8", "backslashreplace").decode()
