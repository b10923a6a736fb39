"""Plot of the errors of `benchmarks.convergence` by forwards, one panel per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.convergence.measure import INDEPENDENT, LIME, Pair
from benchmarks.convergence.summary import Row, curves

# Colours of Okabe and Ito, which colour-blind readers can tell apart; the line style tells them apart in grey, too.
STYLES = {
    LIME: ("lime", "#000000", "-"),
    INDEPENDENT: ("independent, least squares", "#7f7f7f", ":"),
    Pair("antithetic", "gp", "logit"): ("antithetic, GP of logits", "#56B4E9", "-."),
    Pair("blocks", "wls"): ("blocks, least squares", "#E69F00", "--"),
    Pair("blocks", "gp", "identity"): ("blocks, GP", "#009E73", "-."),
    Pair("blocks", "gp", "logit"): ("blocks, GP of logits", "#0072B2", "--"),
    Pair("blocks", "gp", "auto"): ("blocks, GP, either", "#D55E00", "-"),
}
APART = 0.055  # least distance of labels, as a share of the panel


def plot(cases: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Write the plot of the cases that have rows."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    drawn = {name: curves(rows) for name, rows in cases.items() if rows}
    lines_of_panels = -(-len(drawn) // 2)
    figure = Figure(figsize=(11, 4.4 * lines_of_panels), layout="constrained")
    for panel, (name, found) in zip(figure.subplots(lines_of_panels, 2, squeeze=False).flat, drawn.items(), strict=False):
        lines = [(label, colour, style, found[pair]) for pair, (label, colour, style) in STYLES.items() if pair in found]
        for _, colour, style, points in lines:
            panel.loglog(*zip(*points, strict=True), color=colour, linestyle=style, marker="o", markersize=3, linewidth=1.6)
        panel.axhline(1, color="0.8", linewidth=1, zorder=0)
        panel.annotate("lime at 1000", (128, 1), xytext=(-12, 2), textcoords="offset points", fontsize="x-small", color="0.4")
        heights = [y for *_, points in lines for _, y in points]
        low, high = min(heights) / 1.5, max(heights) * 1.5
        panel.set_ylim(low, high)
        panel.set_xlim(110, 4200)  # room for the labels
        ends = [np.log(points[-1][1] / low) / np.log(high / low) for *_, points in lines]
        for (label, colour, *_), y in zip(lines, apart(ends), strict=True):
            panel.annotate(label, (1080, y), xycoords=("data", "axes fraction"), color=colour, fontsize="small", va="center")
        panel.xaxis.set_major_locator(FixedLocator([128, 256, 512, 1000]))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.spines[["top", "right"]].set_visible(False)
        games = {row.games for row in cases[name]}  # a number, or the names of games
        panel.set_title(f"{name}, {len(games) if len(games) > 1 else games.pop()} games")
        panel.set_xlabel("forwards")
        panel.set_ylabel("squared error, as a share of lime's at 1000")
    for panel in figure.axes[len(drawn) :]:
        panel.set_visible(False)
    with rc_context({"svg.hashsalt": "gpulime"}):  # the same picture is the same file
        figure.savefig(path, metadata={"Date": None})


def apart(heights: Sequence[float]) -> list[float]:
    """Move heights of labels, in 0 to 1, so that none overlap; their order is kept."""
    order = np.argsort(heights)
    moved = np.array(heights, float)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + APART)
    return (moved - max(0.0, moved.max() - 1) if len(moved) else moved).tolist()
