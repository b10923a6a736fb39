"""``python -m benchmarks.ablation``: what each part of the engine brings, from lime's loop on, with what it costs in digits."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks import markdown, noise
from benchmarks.command import parsed
from benchmarks.entries.entry import BFLOAT16, RANDOM
from benchmarks.models import MODELS
from benchmarks.rows import Placed, keep, results_file, where
from benchmarks.run import difference
from benchmarks.rungs import RUNGS, Rung
from benchmarks.setups import Setup
from benchmarks.sides import definition
from benchmarks.timer import Array, Process, Run, Side, Timing, in_turn

NUMBERS = {rung.name: number for number, rung in enumerate(RUNGS, 1)}
DEFAULTS = {
    "cpu": Setup(n=4, s=300, b=16),
    # Lime's loop makes a row in some five milliseconds on any device: 10 s of these 2,000, six times.
    "cuda": Setup("ResNet-50", n=2, s=1000, b=250, device="cuda"),
}


@dataclass(frozen=True)
class Row(Placed):
    """What is kept of a rung; the file holds it as text, empty where there is nothing.

    ``rows_s`` are forwards a second on the wall, ``q20`` and ``q80`` belong to ``s``, the seconds of all ``n`` images. ``gain``
    is the speed over that of the rung before, ``total`` over that of the first. ``error`` is the coefficients' greatest
    difference from the definition's in float32 with the same masks, as a part of the largest.
    """

    model: str
    number: str
    rung: str
    precision: str
    s: str = ""
    q20: str = ""
    q80: str = ""
    rows_s: str = ""
    gain: str = ""
    total: str = ""
    error: str = ""
    error_limit: str = ""
    top5: str = ""
    ok: str = ""
    n: str = ""
    samples: str = ""
    batch: str = ""
    repeats: str = ""

    def __str__(self) -> str:
        time = f"{self.s:>8} s ({self.q20} to {self.q80}) {self.rows_s:>8} rows/s, {self.gain} times, {self.total} in all"
        verdict = "ok" if self.ok == "yes" else "FAILED"
        digits = f"error {self.error}, top 5 {self.top5}"
        return f"{self.rung:14} {self.precision:8} {time if self.s else 'no time'}; {digits}: {verdict}"


def climb(setup: Setup, rungs: Sequence[Rung], repeats: int, apart: bool = True) -> Iterator[Row | str]:
    """Give a row for each rung that this device has, or why it is left out; ``apart``: each in a process of its own.

    A row comes once with the first time of its rung, and again after each further turn of them all, with what is known then.
    """
    expected = definition(replace(setup, precision="float32"))()
    most, place = limits(setup, expected), where(setup.device)
    able: list[tuple[Row, Side]] = []
    runs: list[list[Run]] = []
    for rung in rungs:
        if rung.on not in ("", setup.device):
            continue
        side = Side(rung.name, rung.forward, Process(rung.name) if apart else None)
        try:
            error, top5 = difference(side.run(setup).coefficients, expected)
        except ImportError as missing:
            yield f"{rung.name}: left out, {missing}"
            continue
        limit = most[rung.precision]
        row = Row(
            setup.model_name,
            str(NUMBERS.get(rung.name, 0)),
            rung.name,
            rung.precision,
            error=f"{error:.2g}",
            error_limit=f"{limit:g}",
            top5=f"{top5:.2f}",
            ok="yes" if error <= limit else "no",
            n=str(setup.n),
            samples=str(setup.s),
            batch=str(setup.b),
            **place,
        )
        if row.ok == "no":
            yield row
            continue
        able.append((row, side))
        runs.append([side.run(setup)])
        yield list(beside(able, runs, setup))[-1]
    for turn in range(1, repeats):
        for (_, side), of_side in in_turn(list(zip(able, runs, strict=True)), turn):
            of_side.append(side.run(setup))
        yield from beside(able, runs, setup)


def limits(setup: Setup, expected: Array) -> dict[str, float]:
    """The most that an error may be, by precision."""
    if setup.device == "cpu":
        return {"float32": RANDOM, "bfloat16": BFLOAT16}
    found = difference(definition(replace(setup, precision="bfloat16"))(), expected)[0]
    return {"float32": noise.in_tf32(found), "bfloat16": noise.in_bfloat16(found)}


def beside(able: Sequence[tuple[Row, Side]], runs: Sequence[Sequence[Run]], setup: Setup) -> Iterator[Row]:
    """The rows with their times, each beside that of the one before and the first."""
    timings = [Timing(tuple(of_side)) for of_side in runs]
    for (row, _), timing, before in zip(able, timings, [*timings[:1], *timings], strict=False):
        yield timed(row, setup, timing, before, timings[0])


def timed(row: Row, setup: Setup, timing: Timing, before: Timing, first: Timing) -> Row:
    """The row with its time."""
    return replace(
        row,
        **timing.on_the_wall(),
        rows_s=f"{setup.rows / timing.wall:.5g}",
        gain=f"{before.wall / timing.wall:.2f}",
        total=f"{first.wall / timing.wall:.2f}",
        repeats=str(len(timing.runs)),
    )


def table(rows: Sequence[Row]) -> str:
    """One device's ladder as Markdown."""
    columns = ("", "precision", "seconds (20 to 80 %)", "rows/s", "over the rung before", "in all", "error", "top 5")
    shown = [
        (
            f"{row.model}: {row.rung}",
            row.precision,
            f"{row.s} ({row.q20} to {row.q80})" if row.s else "none: its coefficients are wrong",
            row.rows_s,
            row.gain,
            f"**{row.total}**" if row.total else "",
            row.error,
            row.top5,
        )
        for row in rows
    ]
    return markdown.lines(columns, shown)


def main(argv: Sequence[str] | None = None, rungs: Sequence[Rung] = RUNGS) -> int:
    """The exit code is 1 where a rung's coefficients are not what they must be, or there is no rung."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("--device", choices=DEFAULTS, default="cpu")
    parser.add_argument("--model", choices=MODELS, help="in place of the device's own")
    parser.add_argument("--only", nargs="+", metavar="RUNG", choices=[rung.name for rung in rungs], help="these rungs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="one image, few samples: times say nothing, and lie apart")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/ablation/<device>.csv")
    options = parsed(parser, argv)
    if options.only and options.save:
        parser.error("--save keeps what each rung brings over the one before, and so takes the whole ladder, without --only")

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
            path = results_file(row.device, "ablation", options.tiny)
            keep(path, [row], lambda row: (row.model, row.number))
    return int(not rows or any(row.ok == "no" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
