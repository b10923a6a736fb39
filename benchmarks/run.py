"""``python -m benchmarks.run``: measure the entries; fail if one misses its bound or its error is too large."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from statistics import median

import torch

from benchmarks.entries import ENTRIES, Entry
from benchmarks.rows import columns, judged, parser, save, where, yes
from benchmarks.setups import Setup
from benchmarks.sides import Array, Run, Side, cpu, difference, wall
from gpulime.bench.clock import in_turns


class Row(columns("entry side cpu_s wall_s q20 q80 ratio paired bound ok error error_limit error_what top5 rows repeats")):
    """One side; the file holds it as text, empty if there is nothing.

    ``ratio`` is that of the medians, of this side and ours. Our own row comes first and has the worst of the ratios, which
    must keep the bound. ``paired`` is the median ratio of back-to-back pairs. ``q20`` and ``q80`` belong to ``cpu_s``.
    ``error`` is the largest difference of our coefficients from those of ``error_what``, relative to the largest, and may not
    exceed ``error_limit``; ``top5`` is the share of the five strongest segments that both have.
    """

    KEY = ("entry",)


def measure(entry: Entry, repeats: int, place: dict[str, str]) -> list[Row]:
    """Return a row for each side, ours first. The error is found before any timing; a wrong answer gets no time."""
    setup = entry.setup
    bound = f"at least {entry.least:g}" if entry.least else "anything"
    exact = expected(entry.reference, replace(setup, b=10, precision="float32"))
    found = judged(entry.tolerance, *difference(entry.ours.run(setup).coefficients, exact))
    common = {"rows": str(setup.rows), "repeats": str(repeats), **place}
    ours = Row(entry.name, entry.ours.name, bound=bound, error_what=entry.reference.name, **found, **common)
    if ours.ok == "no":
        return [ours]
    for side in entry.theirs:  # warm up; ours has run already
        side.run(entry.tiny().setup)
    calls = {i: partial(side.run, setup) for i, side in enumerate((entry.ours, *entry.theirs))}
    first, *others = in_turns(calls, calls, torch.device(setup.device), repeats)[0].values()
    rows = [timed(Row(entry.name, side.name, **common), first, runs) for side, runs in zip(entry.theirs, others, strict=True)]
    hardest = min(rows, key=lambda row: float(row.ratio))
    same = {"ratio": hardest.ratio, "paired": hardest.paired, "ok": yes(float(hardest.ratio) >= entry.least)}
    return [replace(timed(ours, first, first), **same), *rows]


def timed(row: Row, ours: Sequence[Run], runs: Sequence[Run]) -> Row:
    """The row of a side with its time, and its ratio to ours."""
    time = cpu(runs)
    ratio = time.median / cpu(ours).median
    paired = median(b.cpu / a.cpu for a, b in zip(ours, runs, strict=True))
    taken = {"cpu_s": time.median, "wall_s": wall(runs).median, "q20": time.low, "q80": time.high}
    return replace(row, **{name: f"{value:.3f}" for name, value in {**taken, "ratio": ratio, "paired": paired}.items()})


@cache
def expected(reference: Side, setup: Setup) -> Array | None:
    """The reference's coefficients, which entries of one setup share."""
    return reference.run(setup).coefficients


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """Return 1 if a bound is missed or an error is too large."""
    given = parser("run", __doc__, (entry.name for entry in entries)).parse_args(argv)
    place, rows = where(), []
    for entry in entries:
        if given.only and entry.name not in given.only:
            continue
        try:
            measured = measure(entry, given.repeats or entry.repeats, place)
        except ModuleNotFoundError as missing:
            print(f"{entry.name}: skipped, {missing} (pip install -e '.[peers]')", flush=True)
            continue
        report(measured)
        rows += measured
        if given.save:
            save(measured, entries=[entry.name for entry in entries])
    return int(any(row.ok == "no" for row in rows))


def report(rows: Sequence[Row]) -> None:
    """Print the rows of one entry."""
    ours = rows[0]
    verdict = (
        f"{ours.ratio or 'no time'} (must be {ours.bound}), error {ours.error} (at most {ours.error_limit}), top 5 {ours.top5}"
    )
    print(f"{ours.entry}: {verdict}: {'ok' if ours.ok == 'yes' else 'FAILED'}")
    for row in rows:
        if row.cpu_s:
            ratios = f"ratio {row.ratio}, paired {row.paired}"
            print(f"    {row.side:16} {row.cpu_s:>8} s CPU ({row.q20} to {row.q80}) {row.wall_s:>8} s wall, {ratios}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
