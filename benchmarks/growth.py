"""``python -m benchmarks.growth``: time and memory as images, samples, segments, pixels and labels grow.

The model costs nothing, so that what is left is ours; the exit code says whether anything grows faster than it must.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import growth_page
from benchmarks.command import parsed
from benchmarks.growth_point import Cost, Point, cost
from benchmarks.rows import Placed, keep, read, results_file, where
from benchmarks.timer import Process, apart

SLACK = 0.25  # of a fitted exponent: clocks, and what is constant at the small end or leaves a cache at the large one
# Below these a cost is the start of things or the allocator's page, which grow with nothing.
LEAST_S, LEAST_MB = 0.02, 16.0


@dataclass(frozen=True)
class Axis:
    """What grows, where all else stays as ``base`` has it; and the powers of it with which time and memory may grow.

    ``why`` says what sets them.
    """

    name: str
    base: Point
    values: tuple[int, ...]
    time: float
    memory: float
    why: str

    def points(self) -> list[Point]:
        """The points, the smallest first."""
        return [replace(self.base, **{self.name: value}) for value in self.values]

    def tiny(self) -> Axis:
        """The first two, for a look at the instrument."""
        return replace(self, values=self.values[:2])


AXES = (
    Axis("n", Point(s=200), (1, 4, 16, 64, 256, 1024), 1, 1, "what is given back, an image's label map and picture among it"),
    Axis("s", Point(n=1), (100, 1_000, 10_000, 100_000), 1, 1, "one output a sample and label, 4 bytes, is kept for the fit"),
    Axis("k", Point(n=1, s=2_000, size=128), (10, 30, 100, 300, 1_000), 2, 2, "the Gram matrix, k x k, of every sample"),
    Axis("size", Point(n=1, s=200, b=16), (32, 64, 128, 256, 512, 1_024), 2, 2, "pixels"),
    Axis("l", Point(n=4, k=30), (1, 3, 10, 30, 100), 1, 1, "a fit for each label"),
)


@dataclass(frozen=True)
class Row(Placed):
    """What is kept of a point; the file holds it as text.

    ``s_each`` is the median of its repeats, in seconds; ``mb`` is what the process, or the GPU's memory, grew by at the most
    over what it held before. ``time_power`` and ``memory_power`` are fitted to the axis's points from this one on.
    """

    axis: str
    value: str
    n: str
    s: str
    k: str
    size: str
    l: str
    b: str
    s_each: str
    mb: str
    time_power: str = ""
    time_most: str = ""
    memory_power: str = ""
    memory_most: str = ""
    ok: str = ""


def power(values: Sequence[float], costs: Sequence[float], least: float) -> float:
    """The exponent of growth: least squares on logarithms of the upper half, ``least`` in place of what is less."""
    half = max(2, -(-len(values) // 2))
    x, y = np.log(values[-half:]), np.log(np.maximum(costs[-half:], least))
    return float(np.polyfit(x, y, 1)[0])


def grown(axis: Axis, costs: Sequence[Cost], place: Mapping[str, str]) -> list[Row]:
    """The rows of an axis; the last bears the powers and whether they are as they must be."""
    time = power(axis.values, [cost.seconds for cost in costs], LEAST_S)
    memory = power(axis.values, [cost.megabytes for cost in costs], LEAST_MB)
    rows = [
        Row(
            axis.name,
            str(value),
            *(str(getattr(point, name)) for name in ("n", "s", "k", "size", "l", "b")),
            s_each=f"{cost.seconds:.4g}",
            mb=f"{cost.megabytes:.4g}",
            **place,
        )
        for value, point, cost in zip(axis.values, axis.points(), costs, strict=True)
    ]
    sound = time <= axis.time + SLACK and memory <= axis.memory + SLACK
    rows[-1] = replace(
        rows[-1],
        time_power=f"{time:.2f}",
        time_most=f"{axis.time:g}",
        memory_power=f"{memory:.2f}",
        memory_most=f"{axis.memory:g}",
        ok="yes" if sound else "no",
    )
    return rows


def costs(axis: Axis, device: str, repeats: int) -> Iterator[Cost]:
    """Every point in a process of its own, whose memory holds nothing else."""
    for point in axis.points():
        found = apart(Process("point"), cost, point, device, repeats)
        print(f"{axis.name:>5} = {axis.values[axis.points().index(point)]:>7,}: {found}", flush=True)
        yield found


def main(argv: Sequence[str] | None = None, axes: Sequence[Axis] = AXES) -> int:
    """The exit code is 1 where something grows faster than it must."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="AXIS", choices=[axis.name for axis in axes], help="these axes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the first points of each axis; their rows lie apart")
    parser.add_argument("--save", action="store_true", help="keep rows and plot in benchmarks/results/growth/")
    options = parsed(parser, argv)

    place, sound = where(options.device), True
    for axis in axes:
        if not options.only or axis.name in options.only:
            chosen = axis.tiny() if options.tiny else axis
            rows = grown(chosen, list(costs(chosen, options.device, options.repeats)), place)
            last = rows[-1]
            sound &= last.ok == "yes"
            said = f"time {last.time_power} (at most {last.time_most}), memory {last.memory_power} (at most {last.memory_most})"
            print(f"{axis.name}: {said}: {'ok' if last.ok == 'yes' else 'FAILED'}; {axis.why}", flush=True)
            if options.save:
                save(rows, options.tiny)
    return int(not sound)


def save(rows: Sequence[Row], tiny: bool = False) -> None:
    """Put the rows of an axis in the place of earlier ones, and draw the plot anew."""
    path = results_file(rows[0].device, "growth", tiny)
    keep(path, rows, lambda row: (row.axis, row.value.zfill(9)))
    try:
        growth_page.plot(read(path, Row), path.with_suffix(".svg"))
    except ImportError as missing:
        print(f"no plot: {missing} (pip install -e '.[plots]')", flush=True)


if __name__ == "__main__":
    sys.exit(main())
