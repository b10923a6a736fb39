"""`benchmarks.growth` for a page: a table of the powers, and the plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import markdown
from benchmarks.rows import results_file

if TYPE_CHECKING:
    from benchmarks.growth import Row

NAMES = {"n": "images", "s": "samples", "k": "segments", "size": "pixels of a side", "l": "labels"}


def table(rows: Sequence[Row]) -> str:
    """One device's powers as Markdown, below its plot."""
    columns = ("", "from", "to", "seconds", "MB", "time's power", "at most", "memory's power", "at most")
    shown = []
    for axis in dict.fromkeys(row.axis for row in rows):
        first, *_, last = (row for row in rows if row.axis == axis)
        ends = (f"{float(getattr(first, field)):.3g} to {float(getattr(last, field)):.3g}" for field in ("s_each", "mb"))
        powers = (last.time_power, last.time_most, last.memory_power, last.memory_most)
        shown.append((NAMES[axis], f"{int(first.value):,}", f"{int(last.value):,}", *ends, *powers))
    plotted = f"../benchmarks/results/growth/{results_file(rows[0].device).stem}.svg"
    return f"![Time and memory over {', '.join(NAMES.values())}]({plotted})\n\n{markdown.lines(columns, shown)}"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time and memory over each axis, on logarithmic scales, with the power that is allowed as a line."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "gpulime"}):  # the same picture is the same file
        figure.savefig(path, metadata={"Date": None})
