"""``python -m benchmarks.growth``: time and memory as images, samples, segments, pixels and labels grow.

The model costs nothing, so all costs are gpulime's own. The exit code is 1 if any grows faster than allowed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import gpulime
from benchmarks.models import Pixels
from benchmarks.rows import columns, on_device, parser, read, save, where, yes
from benchmarks.sides import Process, apart
from gpulime.bench.clock import timed
from gpulime.bench.machine import forget_peak, peak_memory

SLACK = 0.25  # of a fitted exponent: clocks, constants at the small end, caches at the large one
# Smaller costs are start-up or the allocator's pages, which do not grow.
LEAST_S, LEAST_MB = 0.02, 16.0
NAMES = {"n": "images", "s": "samples", "k": "segments", "size": "pixels of a side", "l": "labels"}


@dataclass(frozen=True)
class Point:
    """n images of size x size with k segments, s samples and l labels each, b rows of a model batch."""

    n: int = 8
    s: int = 1_000
    k: int = 50
    size: int = 64
    l: int = 1
    b: int = 64


class Cost(NamedTuple):
    """Seconds, the median of the repeats, and megabytes, the peak over the memory held before the first."""

    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Axis:
    """The dimension that grows from ``base``, and the powers of it with which time and memory may grow."""

    name: str
    base: Point
    values: tuple[int, ...]
    time: float
    memory: float
    why: str  # the reason for the powers

    def points(self) -> list[Point]:
        """The points, the smallest first."""
        return [replace(self.base, **{self.name: value}) for value in self.values]


AXES = (
    Axis("n", Point(s=200), (1, 4, 16, 64, 256, 1024), 1, 1, "the results, with each image's label map and picture"),
    Axis("s", Point(n=1), (100, 1_000, 10_000, 100_000), 1, 1, "one output per sample and label, 4 bytes, is kept for the fit"),
    Axis("k", Point(n=1, s=2_000, size=128), (10, 30, 100, 300, 1_000), 2, 2, "the Gram matrix, k x k, of every sample"),
    Axis("size", Point(n=1, s=200, b=16), (32, 64, 128, 256, 512, 1_024), 2, 2, "pixels"),
    Axis("l", Point(n=4, k=30), (1, 3, 10, 30, 100), 1, 1, "a fit for each label"),
)


class Row(columns("axis value n s k size l b s_each mb time_power time_most memory_power memory_most ok")):
    """One point; the file holds it as text.

    ``s_each`` is in seconds, ``mb`` the growth of the process's memory, or of the GPU's. ``time_power`` and ``memory_power``
    are fitted to the points of the axis, and stand in its last row.
    """

    FOLDER, KEY = "growth", ("axis", "value")


def cost(point: Point, device: str, repeats: int) -> Cost:
    """Explain in a new process, after a small problem as warm-up for imports and compilers."""
    explained(replace(point, n=1, s=20, k=9, size=32, l=1), device)()
    explain, on = explained(point, device), torch.device(device)
    before = forget_peak(on)
    seconds = statistics.median(timed(explain, on).wall for _ in range(repeats))
    return Cost(seconds, ((peak_memory(on) or 0) - before) / 2**20)


def explained(point: Point, device: str) -> Callable[[], gpulime.Explanations]:
    """A call that explains and returns the results on the CPU."""
    images = torch.rand(point.n, 3, point.size, point.size, generator=torch.Generator().manual_seed(0)).to(device)
    pixels = point.size**2
    segments = (torch.arange(pixels, device=device) * point.k // pixels).view(1, point.size, point.size)
    wanted = torch.arange(point.l, device=device).expand(point.n, -1).contiguous()
    explainer = gpulime.Explainer(Pixels(max(2, point.l)).to(device), point.s, batch_size=point.b)
    return lambda: explainer.explain(images, labels=wanted, segments=segments.expand(point.n, -1, -1)).cpu()


def power(values: Sequence[float], costs: Sequence[float], least: float) -> float:
    """The exponent of growth: least squares on logarithms of the upper half of the points; smaller costs count as ``least``."""
    half = max(2, -(-len(values) // 2))
    x, y = np.log(values[-half:]), np.log(np.maximum(costs[-half:], least))
    return float(np.polyfit(x, y, 1)[0])


def grown(axis: Axis, costs: Sequence[Cost], place: Mapping[str, str]) -> list[Row]:
    """The rows of an axis; the last has the powers and the verdict."""
    time = power(axis.values, [cost.seconds for cost in costs], LEAST_S)
    memory = power(axis.values, [cost.megabytes for cost in costs], LEAST_MB)
    rows = [
        Row(axis.name, str(value), *map(str, astuple(point)), f"{cost.seconds:.4g}", f"{cost.megabytes:.4g}", **place)
        for value, point, cost in zip(axis.values, axis.points(), costs, strict=True)
    ]
    rows[-1] = replace(
        rows[-1],
        time_power=f"{time:.2f}",
        time_most=f"{axis.time:g}",
        memory_power=f"{memory:.2f}",
        memory_most=f"{axis.memory:g}",
        ok=yes(time <= axis.time + SLACK and memory <= axis.memory + SLACK),
    )
    return rows


def costs(axis: Axis, device: str, repeats: int) -> Iterator[Cost]:
    """Each point in a process of its own, for its memory."""
    for value, point in zip(axis.values, axis.points(), strict=True):
        found = apart(Process("point"), cost, point, device, repeats)
        print(f"{axis.name:>5} = {value:>7,}: {found.seconds:.4g} s, {found.megabytes:.4g} MB", flush=True)
        yield found


def main(argv: Sequence[str] | None = None, axes: Sequence[Axis] = AXES) -> int:
    """Return 1 if anything grows faster than allowed."""
    options = on_device(parser("growth", __doc__, (axis.name for axis in axes), repeats=3), argv)
    place, sound = where(options.device), True
    for axis in axes:
        if options.only and axis.name not in options.only:
            continue
        chosen = replace(axis, base=replace(axis.base, s=60, size=32), values=axis.values[:2]) if options.tiny else axis
        rows = grown(chosen, list(costs(chosen, options.device, options.repeats)), place)
        last = rows[-1]
        sound &= last.ok == "yes"
        said = f"time {last.time_power} (at most {last.time_most}), memory {last.memory_power} (at most {last.memory_most})"
        print(f"{axis.name}: {said}: {'ok' if last.ok == 'yes' else 'FAILED'}; {axis.why}", flush=True)
        if options.save:
            path = save(rows, options.tiny)
            try:
                plot(read(path, Row), path.with_suffix(".svg"))
            except ImportError as missing:
                print(f"no plot: {missing} (pip install -e '.[plots]')", flush=True)
    return int(not sound)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time and memory over each axis, on logarithmic scales, with the allowed power as a line."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from gpulime.explanations.shades import FOR

    axes = {name: [row for row in rows if row.axis == name] for name in dict.fromkeys(row.axis for row in rows)}
    figure = Figure(figsize=(2.2 * len(axes) + 0.8, 5.0), layout="constrained")
    panels = figure.subplots(2, len(axes), squeeze=False, sharey="row")
    for line, cost, power, label, least in (
        (panels[0], "s_each", "time_most", "seconds", 1e-3),
        (panels[1], "mb", "memory_most", "MB over the start", 0.1),
    ):
        found = {name: [max(float(getattr(row, cost)), least) for row in points] for name, points in axes.items()}
        for panel, (name, points) in zip(line, axes.items(), strict=True):
            values, most = [float(row.value) for row in points], float(getattr(points[-1], power))
            allowed = [found[name][-1] * (value / values[-1]) ** most for value in values]
            panel.loglog(values, allowed, color="0.6", linewidth=0.8, label=f"power {most:g}")
            panel.loglog(values, found[name], color=FOR, marker="o", markersize=4)
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize="small")
            panel.legend(frameon=False, fontsize="small", loc="upper left")
            panel.set_xlabel(NAMES[name] if cost == "mb" else "")
        line[0].set_ylim(min(map(min, found.values())) / 2, max(map(max, found.values())) * 5)
        line[0].yaxis.set_minor_formatter(NullFormatter())
        line[0].set_ylabel(label)
    figure.suptitle(f"{rows[0].device}, a model that costs nothing", fontsize="medium")
    with rc_context({"svg.hashsalt": "gpulime"}):  # the same picture is the same file
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
