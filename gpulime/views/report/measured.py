"""The evaluation of a run as its pages show it: of one unit and fill, the values and curves of each input's label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpulime.runs.evaluation import rows, summary
from gpulime.runs.evaluation.rows import DELETION, EVALUATION, GAP, HELD_OUT_R2, INSERTION
from gpulime.runs.evaluation.settings import FIRST, LIME, PIXELS, SEGMENTS
from gpulime.runs.store import shards

VALUES = [*rows.KEY, "value", "reason", "error_type", "written_at"]
DRAWN = [*rows.KEY, "error_type", "written_at", "curve", "area", "map"]
# The metrics that a report sorts by, and the letter of each in its addresses.
SORTED = {GAP: "g", DELETION: "d", INSERTION: "n", HELD_OUT_R2: "h"}
WORDS = {
    DELETION: "deletion",
    INSERTION: "insertion",
    GAP: "insertion \N{MINUS SIGN} deletion",
    rows.IROF: "IROF",
    rows.MINIMAL: "minimal deletion",
    HELD_OUT_R2: "held-out R²",
    rows.INFIDELITY: "infidelity",
}
GRID = 41  # points of a mean curve

Points = npt.NDArray[np.floating[Any]]


class Drawn(NamedTuple):
    """One method for one input and label: both curves as (area, output), and a map (side, side) int8, as far as stored."""

    deletion: tuple[Points, Points] | None
    insertion: tuple[Points, Points] | None
    map: npt.NDArray[np.int8] | None


class Measured:
    """The evaluation of a run.

    Attributes
    ----------
    summary : Summary
    unit, fill : str, of the curves that are shown: those of most inputs
    """

    def __init__(self, run: Path) -> None:
        self.run, self.summary = run, summary.of(run, summary.absent(run))
        read, corrupt = shards.each(
            run, lambda path, shard: (path, shards.filled(shard.read(VALUES), VALUES, EVALUATION)), EVALUATION
        )
        for error in corrupt:
            shards.warn(error, run, EVALUATION)
        table = pa.concat_tables([shards.nothing(VALUES, EVALUATION), *(table for _, table in read)])
        counting = rows.winners(table)
        ends = np.cumsum([0, *(len(table) for _, table in read)])
        self._shards = [
            _Shard(path, counting[start:end], some["image_id"].unique())
            for (path, some), start, end in zip(read, ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        ]
        table = table.filter(counting)
        shown = table.filter(pc.and_(pc.equal(table["method"], LIME), pc.equal(table["metric"], DELETION)))
        counts: Counter[tuple[str, str]] = Counter(zip(shown["unit"].to_pylist(), shown["fill"].to_pylist(), strict=True))
        self.unit, self.fill = max(sorted(counts), key=lambda pair: (counts[pair], pair[0] != PIXELS), default=(SEGMENTS, ""))
        self._values = self._of_shown(table)

    def column(self, metric: str, ids: Sequence[str], labels: Sequence[int]) -> list[float | None]:
        """LIME's values of a metric for the labels of inputs; None for those that have none."""
        some = self._values.filter(pc.and_(pc.equal(self._values["method"], LIME), pc.equal(self._values["metric"], metric)))
        pairs = zip(some["image_id"].to_pylist(), some["label"].to_pylist(), strict=True)
        known = dict(zip(pairs, some["value"].to_pylist(), strict=True))
        return [known.get(pair) for pair in zip(ids, labels, strict=True)]

    def values(self, ids: Sequence[str]) -> dict[tuple[str, int], dict[str, dict[str, Mapping[str, Any]]]]:
        """Rows of some inputs: (id, label) -> method -> metric -> row."""
        some = self._values.filter(pc.is_in(self._values["image_id"], pa.array(ids, pa.string())))
        found: dict[tuple[str, int], dict[str, dict[str, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
        for row in some.to_pylist():
            found[row["image_id"], row["label"]][row["method"]][row["metric"]] = row
        return found

    def drawn(self, ids: Sequence[str]) -> dict[tuple[str, int], dict[str, Drawn]]:
        """Curves and maps of some inputs: (id, label) -> method -> them."""
        wanted = pa.array(ids, pa.string())
        curves: dict[tuple[str, int], dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        for row in self._rows(wanted):
            curves[row["image_id"], row["label"]][row["method"]][row["metric"]] = row
        return {
            key: {method: _drawn(of_metric) for method, of_metric in sorted(methods.items(), key=lambda one: place(one[0]))}
            for key, methods in curves.items()
        }

    def means(self) -> dict[str, dict[str, Points]]:
        """The mean curve of each method over all inputs, at `GRID` equal shares of the area: metric -> method -> outputs."""
        grid, counts = np.linspace(0, 1, GRID), Counter[tuple[str, str]]()
        sums: dict[tuple[str, str], Points] = defaultdict(lambda: np.zeros(GRID))
        for row in self._rows():
            if (points := _points(row)) is not None:
                key = row["metric"], row["method"]
                sums[key] += np.interp(grid, *points)
                counts[key] += 1
        methods = sorted({method for _, method in sums}, key=place)
        return {
            metric: {name: sums[metric, name] / counts[metric, name] for name in methods if (metric, name) in sums}
            for metric in (DELETION, INSERTION)
        }

    def _of_shown(self, table: pa.Table) -> pa.Table:
        """The rows of the shown unit and fill; a held-out fit always hides segments."""
        unit = pc.or_(pc.equal(table["unit"], self.unit), pc.is_in(table["metric"], pa.array(rows.METRICS[rows.HELD_OUT])))
        return table.filter(pc.and_(unit, pc.equal(table["fill"], self.fill)))

    def _rows(self, ids: pa.Array | None = None) -> Iterator[Mapping[str, Any]]:
        """Rows of curves, of some inputs or all, a few hundred at a time."""
        for path, counting, there in self._shards:
            if ids is not None and not pc.any(pc.is_in(there, ids)).as_py():
                continue
            start = 0
            with shards.opened(path, whole=False, of=EVALUATION) as shard:
                for batch in shard.iter_batches(batch_size=shards.BATCH, columns=DRAWN):
                    table = self._of_shown(pa.Table.from_batches([batch]).filter(counting[start : start + len(batch)]))
                    start += len(batch)
                    curves = pc.is_in(table["metric"], pa.array([DELETION, INSERTION]))
                    wanted = curves if ids is None else pc.and_(curves, pc.is_in(table["image_id"], ids))
                    yield from table.filter(wanted).to_pylist()


class _Shard(NamedTuple):
    """A shard, the rows of it that count as a mask, and the ids of its inputs."""

    path: Path
    counting: pa.Array
    ids: pa.Array


def of(run: Path) -> Measured | None:
    """The evaluation of a run; None if it has none."""
    return Measured(run) if shards.shards(run, EVALUATION) else None


def place(method: str) -> tuple[int, str]:
    """A sort key: LIME, random and centre first, the others by name."""
    return FIRST.index(method) if method in FIRST else len(FIRST), method


def _drawn(of_metric: Mapping[str, Mapping[str, Any]]) -> Drawn:
    deletion, insertion = (_points(of_metric.get(metric, {})) for metric in (DELETION, INSERTION))
    stored: bytes = of_metric.get(DELETION, {}).get("map") or b""
    whole = len(stored) == rows.SIDE**2
    return Drawn(deletion, insertion, np.frombuffer(stored, np.int8).reshape(rows.SIDE, rows.SIDE) if whole else None)


def _points(row: Mapping[str, Any]) -> tuple[Points, Points] | None:
    """The curve of a row as (area, output); None if it has none, or one that cannot be drawn, as of another program."""
    area, curve = (np.array(row.get(name) or [], float) for name in ("area", "curve"))
    rises = bool(len(area) and (np.diff(area) >= 0).all() and area[0] >= 0 and area[-1] <= 1)
    return (area, curve) if rises and len(area) == len(curve) and bool(np.isfinite(curve).all()) else None
