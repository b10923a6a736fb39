"""``python -m benchmarks.run``: measure the entries, and fail where one misses its bound or its error is too large."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.entries import ENTRIES
from benchmarks.entries.entry import Entry
from benchmarks.rows import Row, read, results_file, where, write
from benchmarks.setups import Setup
from benchmarks.timer import Array, Side, Timing, interleaved

REGRESSION = 1.05  # a ratio this much worse than an earlier one fails, even within its bound


def measure(entry: Entry, repeats: int, place: dict[str, str]) -> list[Row]:
    """One row per side, ours first; the error comes before any clock is started, and with a wrong answer there is no time."""
    sides, setup = (entry.ours, *entry.theirs), entry.setup
    reference = expected(entry.reference, replace(setup, b=10, precision="float32"))
    error, top5 = difference(entry.ours.run(setup).coefficients, reference)
    exact = error <= entry.tolerance
    ours = Row(
        entry.name,
        entry.ours.name,
        bound=str(entry.bound),
        ok=_yes(exact),
        error=f"{error:.2g}",
        error_limit=f"{entry.tolerance:g}",
        error_what=entry.reference.name,
        top5=f"{top5:.2f}",
        rows=str(entry.setup.rows),
        repeats=str(repeats),
        **place,
    )
    if not exact:
        return [ours]
    for side in entry.theirs:  # warm up; ours has run already
        side.run(entry.tiny().setup)
    timings = interleaved(sides, setup, repeats)
    ratios = [entry.bound.ratio(timings[0].cpu, timing.cpu) for timing in timings]
    paired = [timings[0].paired(timing, entry.bound.ratio) for timing in timings]
    ratios[0] = entry.bound.worst(ratios[1:])
    paired[0] = paired[1 + ratios[1:].index(ratios[0])]
    ours = replace(ours, ok=_yes(entry.bound.holds(ratios[0])))
    rows = [ours, *(Row(entry.name, side.name, rows=ours.rows, repeats=ours.repeats, **place) for side in entry.theirs)]
    return [
        replace(row, ratio=f"{ratio:.3f}", paired=f"{pair:.3f}", **_seconds(timing))
        for row, timing, ratio, pair in zip(rows, timings, ratios, paired, strict=True)
    ]


@cache
def expected(reference: Side, setup: Setup) -> Array | None:
    """The coefficients that the reference finds, which entries of one setup share."""
    return reference.run(setup).coefficients


def difference(coefficients: Array | None, reference: Array | None) -> tuple[float, float]:
    """Largest difference as a part of an image's largest coefficient; and what the two have in common of their top 5."""
    assert coefficients is not None
    assert reference is not None
    error = np.abs(coefficients - reference).max(1) / np.abs(reference).max(1)
    strongest = [np.abs(part).argsort(1)[:, -5:] for part in (coefficients, reference)]
    common = (strongest[0][:, :, None] == strongest[1][:, None]).any(2)
    return float(error.max()), float(common.mean())


def regressed(row: Row, before: dict[str, Row], entry: Entry) -> bool:
    """Whether an entry's ratio is worse than it was, by more than what a machine varies."""
    if not comparable(row, before):
        return False
    return entry.bound.worsened(float(row.ratio), float(before[row.entry].ratio)) > REGRESSION


def comparable(row: Row, before: dict[str, Row]) -> bool:
    """Whether there is a ratio now and was one then."""
    return bool(row.entry in before and before[row.entry].ratio and row.ratio)


def earlier(path: Path) -> dict[str, Row]:
    """Our own row of each entry in a file of results.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        rows = read(path)
    except TypeError as error:
        raise ValueError(f"{path} has other columns than benchmarks.run keeps") from error
    if not rows:
        raise ValueError(f"{path} has no rows")
    return {row.entry: row for row in reversed(rows)}


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """The exit code is 1 where a bound is missed, an error is too large, an entry has become slower or none was compared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[entry.name for entry in entries], help="these entries")
    parser.add_argument("--repeats", type=int, help="in place of each entry's own number")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/<device>.csv")
    parser.add_argument("--against", type=Path, metavar="FILE", help="fail where a ratio is 5 %% worse than in this file")
    options = parser.parse_args(argv)
    try:
        before = earlier(options.against) if options.against else {}
    except ValueError as error:
        parser.error(f"--against: {error}")

    place, compared = where(), 0
    rows: list[Row] = []
    failed = False
    for entry in entries:
        if options.only and entry.name not in options.only:
            continue
        try:
            measured = measure(entry, options.repeats or entry.repeats, place)
        except ModuleNotFoundError as missing:
            print(f"{entry.name}: skipped, {missing} (pip install -e '.[peers]')", flush=True)
            if options.against:
                print(f"    not compared with {options.against}", flush=True)
            continue
        slower = regressed(measured[0], before, entry)
        failed |= measured[0].ok == "no" or slower
        rows += measured
        report(measured, slower)
        if comparable(measured[0], before):
            compared += 1
        elif options.against:
            lacks = options.against if measured[0].ratio else "this run"
            print(f"    not compared with {options.against}: {lacks} has no ratio of it", flush=True)
    if options.against and not compared:
        print(f"nothing was compared with {options.against}: FAILED", flush=True)
        failed = True
    if options.save:
        path = results_file(place["device"])
        fresh = {row.entry for row in rows}
        rows += [row for row in read(path) if row.entry not in fresh]
        order = [entry.name for entry in entries]
        write(path, sorted((row for row in rows if row.entry in order), key=lambda row: order.index(row.entry)))
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


def _seconds(timing: Timing) -> dict[str, str]:
    q20, q80 = timing.spread
    return {
        "cpu_s": f"{timing.cpu:.3f}",
        "wall_s": f"{timing.wall:.3f}",
        "q20": f"{q20:.3f}",
        "q80": f"{q80:.3f}",
    }


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


if __name__ == "__main__":
    sys.exit(main())
