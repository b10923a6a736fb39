"""Plots of curves as points of inline SVG: deletion and insertion side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpulime.runs.evaluation.rows import DELETION, INSERTION

W, H = 120, 60  # of a panel, in units of the picture

Points = npt.NDArray[np.floating[Any]]


class Line(NamedTuple):
    """A curve: its method, and its points as SVG takes them."""

    method: str
    points: str


class Plot(NamedTuple):
    """Two panels with one scale from ``low`` to ``high``."""

    low: float
    high: float
    panels: list[tuple[str, list[Line]]]


def plot(curves: Mapping[str, Mapping[str, tuple[Points, Points]]]) -> Plot | None:
    """A plot of metric -> method -> (area, output); None if there is no curve."""
    outputs = [output for methods in curves.values() for _, output in methods.values()]
    if not outputs:
        return None
    low, high = min(0.0, *(float(one.min()) for one in outputs)), max(float(one.max()) for one in outputs)
    span = high - low or 1.0

    def points(area: Points, output: Points) -> str:
        pairs = zip(W * area, H * (1 - (output - low) / span), strict=True)
        return " ".join(f"{x:.0f},{y:.1f}".replace(".0", "") for x, y in pairs)

    panels = [
        (metric, [Line(method, points(*curve)) for method, curve in reversed([*curves.get(metric, {}).items()])])
        for metric in (DELETION, INSERTION)
    ]
    return Plot(low, high, panels)


def of_methods(drawn: Mapping[str, Any], methods: Sequence[str]) -> Plot | None:
    """The plot of one input's curves, `measured.Drawn` by method."""
    known = {
        metric: {name: getattr(drawn[name], metric) for name in methods if name in drawn and getattr(drawn[name], metric)}
        for metric in (DELETION, INSERTION)
    }
    return plot(known)
