"""``python -m benchmarks.ablation``: the gain in speed and the error of each part of the engine, starting from lime's loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.models import MODELS
from benchmarks.rows import columns, judged, on_device, parser, save, seconds, where
from benchmarks.rungs import RUNGS, Rung
from benchmarks.setups import Setup
from benchmarks.sides import BFLOAT16, RANDOM, Process, Run, Side, definition, difference, tolerance, wall
from gpulime.bench.clock import order

NUMBERS = {rung.name: number for number, rung in enumerate(RUNGS, 1)}
DEFAULTS = {
    "cpu": Setup(n=4, s=300, b=16),
    # Lime's loop makes a row in about 5 ms on any device: 10 s for these 2,000, six times.
    "cuda": Setup("ResNet-50", n=2, s=1000, b=250, device="cuda"),
}


COLUMNS = "model number rung precision s q20 q80 rows_s gain total error error_limit top5 ok n samples batch repeats"


class Row(columns(COLUMNS)):
    """One rung; the file holds it as text, empty if there is nothing.

    ``rows_s`` are forwards a second on the wall, ``q20`` and ``q80`` belong to ``s``, the seconds of all ``n`` images. ``gain``
    is the speedup over the rung before, ``total`` over the first. ``error`` is the largest difference of coefficients from the
    definition's in float32 with the same masks, relative to the largest.
    """

    FOLDER, KEY = "ablation", ("model", "number")

    def __str__(self) -> str:
        time = f"{self.s:>8} s ({self.q20} to {self.q80}) {self.rows_s:>8} rows/s, {self.gain} times, {self.total} in all"
        digits = f"error {self.error}, top 5 {self.top5}"
        verdict = "ok" if self.ok == "yes" else "FAILED"
        return f"{self.rung:14} {self.precision:8} {time if self.s else 'no time'}; {digits}: {verdict}"


def climb(setup: Setup, rungs: Sequence[Rung], repeats: int, apart: bool = True) -> Iterator[Row | str]:
    """Yield a row for each rung of this device, or the reason for skipping it; ``apart``: each in its own process.

    A rung's row is yielded with its first time, and again after each further turn of all rungs.
    """
    exact = definition(replace(setup, precision="float32"))()

    def noise() -> float:
        return difference(definition(replace(setup, precision="bfloat16"))(), exact)[0]

    limits = {"float32": RANDOM, "bfloat16": BFLOAT16}
    most = {name: tolerance(setup.device, name, on_cpu, noise) for name, on_cpu in limits.items()}
    common = {"n": str(setup.n), "samples": str(setup.s), "batch": str(setup.b), **where(setup.device)}
    runs: dict[tuple[Row, Side], list[Run]] = {}
    for rung in rungs:
        if rung.on not in ("", setup.device):
            continue
        side = Side(rung.name, rung.make, Process(rung.name) if apart else None, precision=rung.precision)
        try:
            found = judged(most[rung.precision], *difference(side.run(setup).coefficients, exact))
        except (ImportError, UserWarning) as missing:
            yield f"{rung.name}: left out, {missing}"
            continue
        number = str(NUMBERS.get(rung.name, 0))
        row = Row(setup.model_name, number, rung.name, rung.precision, **found, **common)
        if row.ok == "no":
            yield row
            continue
        runs[row, side] = [side.run(setup)]
        yield list(timed(runs, setup))[-1]
    for turn in range(1, repeats):
        for row, side in order(runs, turn):
            runs[row, side].append(side.run(setup))
        yield from timed(runs, setup)


def timed(runs: Mapping[tuple[Row, Side], Sequence[Run]], setup: Setup) -> Iterator[Row]:
    """Add times to the rows, and speedups over the rung before and the first."""
    times = [wall(of_side) for of_side in runs.values()]
    for (row, _), time, before in zip(runs, times, [*times[:1], *times], strict=False):
        yield replace(
            row,
            **seconds(time),
            rows_s=f"{setup.rows / time.median:.5g}",
            gain=f"{before.median / time.median:.2f}",
            total=f"{times[0].median / time.median:.2f}",
            repeats=str(len(next(iter(runs.values())))),
        )


def main(argv: Sequence[str] | None = None, rungs: Sequence[Rung] = RUNGS) -> int:
    """Return 1 if a rung's coefficients are wrong, or there is no rung."""
    made = parser("ablation", __doc__, (rung.name for rung in rungs), repeats=5)
    made.add_argument("--model", choices=MODELS, help="instead of the device's own")
    options = on_device(made, argv)
    if options.only and options.save:
        made.error("--save needs the whole ladder, without --only: each row has the speedup over the rung before")

    setup = DEFAULTS[options.device]
    setup = replace(setup, model_name=options.model or setup.model_name)
    if options.tiny:
        setup = replace(setup, n=1, s=100, b=10)
    chosen = [rung for rung in rungs if not options.only or rung.name in options.only]
    rows: dict[str, Row] = {}
    for row in climb(setup, chosen, options.repeats, apart=not options.tiny):
        if isinstance(row, str):
            print(row, flush=True)
            continue
        if row.rung not in rows or row.repeats == str(options.repeats):
            print(row, flush=True)
        rows[row.rung] = row
        if options.save:
            save([row], options.tiny)
    return int(not rows or any(row.ok == "no" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
