"""Methods that the reproductions compare, and pictures of their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gpulime import Explainer
from gpulime.evaluate import as_method
from gpulime.evaluate.methods import GradCam, Gradient, GuidedBackprop, IntegratedGradients, Method, Occlusion
from gpulime.segments import Grid

LIME = "LIME"
CELLS = 6  # along a side of the grid that LIME explains
SAMPLES = 64
COLOURS = {  # of Okabe and Ito, which colour-blind readers can tell apart
    LIME: "#D55E00",
    "Guided Backprop": "#0072B2",
    "gradient": "#009E73",
    "Grad-CAM": "#CC79A7",
    "IG": "#E69F00",
    "occlusion": "#56B4E9",
}


def lime(seed: int = 0, samples: int | None = SAMPLES, keys: Tensor | None = None, **settings: Any) -> Method:
    """LIME with a grid of cells as segments, for images as the model takes them."""
    options = {"n_samples": samples, "segments": Grid(CELLS, CELLS), "seed": seed, "mean": 0, "std": 1, "normalized": True}
    options |= settings
    return as_method(lambda model: Explainer(model, **options), keys=keys)


def methods(channels: str, names: Sequence[str]) -> dict[str, Method]:
    """Methods of gradients, with the sum of channels or of their positive parts."""
    known: dict[str, Method] = {
        "gradient": Gradient(channels=channels),
        "Guided Backprop": GuidedBackprop(channels=channels),
        "Grad-CAM": GradCam(),
        "IG": IntegratedGradients(channels=channels),
        "occlusion": Occlusion(activation=None),
    }
    return {name: known[name] for name in names}


def line_panels(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    ceilings: Mapping[str, Mapping[str, float]],
    stages: Mapping[str, Sequence[str]],
    y: str,
    path: Path,
) -> None:
    """Write a picture with a panel of lines by stage for each entry; a dashed line is a ceiling below 1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * len(panels), 4), layout="constrained")
    for panel, (entry, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for method, values in sorted(lines.items(), key=lambda line: list(COLOURS).index(line[0])):
            colour = COLOURS[method]
            panel.plot(range(len(values)), values, color=colour, marker="o", markersize=3.5, label=method)
            if (ceiling := ceilings[entry][method]) < 0.995:
                panel.axhline(ceiling, color=colour, linestyle="--", linewidth=1, label=f"{method}, another seed")
        panel.axhline(0, color="0.8", linewidth=1, zorder=0)
        panel.set_xticks(range(len(stages[entry])), stages[entry], fontsize="small")
        panel.set_ylim(-0.5, 1.05)
        panel.set_title(entry, fontsize="medium")
        panel.set_ylabel(y)
        if any(math.isnan(values[-1]) for values in lines.values()):
            note = "the spread of\nthe logits collapsed"
            panel.annotate(note, (len(stages[entry]) - 1, 0.1), ha="right", fontsize="x-small", color="0.4")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize="x-small")
    write(figure, path)


def bar_panels(panels: Mapping[str, Mapping[str, float]], path: Path, alike: bool = False) -> None:
    """Write a picture with a panel of bars, one for each method, for each score; ``alike`` scores share an axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for panel, (score, values) in zip(figure.subplots(1, len(panels), sharex=alike, sharey=True), panels.items(), strict=True):
        names = list(values)
        panel.barh(names, list(values.values()), color=[COLOURS.get(name, "0.6") for name in names])
        panel.axvline(0, color="0.6", linewidth=1)
        panel.set_title(score, fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].invert_yaxis()  # of all: the first method is on top
    write(figure, path)


def write(figure: Any, path: Path) -> None:
    """Write a small picture; the same figure is the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
