"""``python -m benchmarks.run``: measure the entries; fail if one misses its bound or its error is too large."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.entries import ENTRIES, Bound, Entry
from benchmarks.rows import columns, judged, parser, read, save, where, yes
from benchmarks.setups import Setup
from benchmarks.sides import Array, Run, Side, cpu, difference, wall
from gpulime.bench.clock import in_turns

REGRESSION = 1.05  # a ratio this much worse than an earlier one fails, even within its bound


class Row(columns("entry side cpu_s wall_s q20 q80 ratio paired bound ok error error_limit error_what top5 rows repeats")):
    """One side; the file holds it as text, empty if there is nothing.

    ``ratio`` is that of the medians, of our side and this one. Our own row comes first and has the worst of the ratios, which
    must keep the bound. ``paired`` is the median ratio of back-to-back pairs. ``q20`` and ``q80`` belong to ``cpu_s``.
    ``error`` is the largest difference of our coefficients from those of ``error_what``, relative to the largest, and may not
    exceed ``error_limit``; ``top5`` is the share of the five strongest segments that both have.
    """

    KEY = ("entry",)


def measure(entry: Entry, repeats: int, place: dict[str, str]) -> list[Row]:
    """Return a row for each side, ours first. The error is found before any timing; a wrong answer gets no time."""
    setup, bound = entry.setup, entry.bound
    exact = expected(entry.reference, replace(setup, b=10, precision="float32"))
    found = judged(entry.tolerance, *difference(entry.ours.run(setup).coefficients, exact))
    common = {"rows": str(setup.rows), "repeats": str(repeats), **place}
    ours = Row(entry.name, entry.ours.name, bound=str(bound), error_what=entry.reference.name, **found, **common)
    if ours.ok == "no":
        return [ours]
    for side in entry.theirs:  # warm up; ours has run already
        side.run(entry.tiny().setup)
    calls = {i: partial(side.run, setup) for i, side in enumerate((entry.ours, *entry.theirs))}
    first, *others = in_turns(calls, calls, torch.device(setup.device), repeats)[0].values()
    rows = [
        timed(Row(entry.name, side.name, **common), bound, first, runs) for side, runs in zip(entry.theirs, others, strict=True)
    ]
    hardest = bound.worst(rows)
    same = {"ratio": hardest.ratio, "paired": hardest.paired, "ok": yes(bound.holds(float(hardest.ratio)))}
    return [replace(timed(ours, bound, first, first), **same), *rows]


def timed(row: Row, bound: Bound, ours: Sequence[Run], runs: Sequence[Run]) -> Row:
    """The row of a side with its time, and its ratio to ours."""
    time = cpu(runs)
    ratio = bound.ratio(cpu(ours).median, time.median)
    paired = median(bound.ratio(a.cpu, b.cpu) for a, b in zip(ours, runs, strict=True))
    taken = {"cpu_s": time.median, "wall_s": wall(runs).median, "q20": time.low, "q80": time.high}
    return replace(row, **{name: f"{value:.3f}" for name, value in {**taken, "ratio": ratio, "paired": paired}.items()})


@cache
def expected(reference: Side, setup: Setup) -> Array | None:
    """The reference's coefficients, which entries of one setup share."""
    return reference.run(setup).coefficients


def regressed(row: Row, before: dict[str, Row], entry: Entry) -> bool | None:
    """Tell if an entry's ratio has become worse by more than `REGRESSION`; None if either ratio is missing."""
    earlier = before.get(row.entry)
    if earlier is None or not earlier.ratio or not row.ratio:
        return None
    return entry.bound.worsened(float(row.ratio), float(earlier.ratio)) > REGRESSION


def earlier(path: Path) -> dict[str, Row]:
    """Our own row of each entry in a file of results; `ValueError` if there is none."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        rows = read(path, Row)
    except TypeError as error:
        raise ValueError(f"{path} has other columns than benchmarks.run keeps") from error
    if not rows:
        raise ValueError(f"{path} has no rows")
    return {row.entry: row for row in reversed(rows)}


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """Return 1 if a bound is missed, an error is too large, an entry has become slower or none was compared."""
    options = parser("run", __doc__, (entry.name for entry in entries))
    options.add_argument("--against", type=Path, metavar="FILE", help="fail if a ratio is 5 %% worse than in this file")
    given = options.parse_args(argv)
    try:
        before = earlier(given.against) if given.against else {}
    except ValueError as error:
        options.error(f"--against: {error}")

    place, rows, failed, compared = where(), [], False, 0
    for entry in entries:
        if given.only and entry.name not in given.only:
            continue
        try:
            measured = measure(entry, given.repeats or entry.repeats, place)
        except ModuleNotFoundError as missing:
            print(f"{entry.name}: skipped, {missing} (pip install -e '.[peers]')", flush=True)
            measured, slower, lacks = [], None, "this run"
        else:
            slower = regressed(measured[0], before, entry)
            failed |= measured[0].ok == "no" or bool(slower)
            report(measured, bool(slower))
            lacks = given.against if measured[0].ratio else "this run"
        rows += measured
        compared += slower is not None
        if given.against and slower is None:
            print(f"    not compared with {given.against}: {lacks} has no ratio of it", flush=True)
    if given.against and not compared:
        print(f"nothing was compared with {given.against}: FAILED", flush=True)
        failed = True
    if given.save and rows:
        save(rows, entries=[entry.name for entry in entries])
    return int(failed)


def report(rows: Sequence[Row], slower: bool) -> None:
    """Print the rows of one entry."""
    ours = rows[0]
    verdict = (
        f"{ours.ratio or 'no time'} (must be {ours.bound}), error {ours.error} (at most {ours.error_limit}), top 5 {ours.top5}"
    )
    print(f"{ours.entry}: {verdict}: {'ok' if ours.ok == 'yes' else 'FAILED'}{', slower than before' * slower}")
    for row in rows:
        if row.cpu_s:
            ratios = f"ratio {row.ratio}, paired {row.paired}"
            print(f"    {row.side:16} {row.cpu_s:>8} s CPU ({row.q20} to {row.q80}) {row.wall_s:>8} s wall, {ratios}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
