"""``python -m benchmarks.evaluation.fills [--save | --draw]``: deletion and insertion of methods under four fills.

LIME explains with the fill of the game. Insertion minus deletion must put LIME above random segments and above a blob at the
centre under each fill, in both units; deletion alone need not. ``--draw`` draws the kept rows and measures nothing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import models
from benchmarks.evaluation.photographs import GREY, MODEL, NORMALISATION, photographs, source
from benchmarks.rows import RESULTS, columns, file_of, parser, read, save, where, yes
from gpulime import Explainer
from gpulime.evaluate import centre_maps, curves, random_maps
from gpulime.evaluate.methods import GradCam, Gradient
from gpulime.segments import Slic

FILLS = {"segment mean": "mean", "blur": "blur", "black": 0.0, "grey": GREY}
UNITS = ("segments", "pixels")
LIME, BASELINES = "LIME", ("random segments", "centre blob")
BATCH, STEPS, N = 16, 16, 8


class Row(columns("photographs unit fill method n deletion insertion gap ok")):
    """Mean areas over n photographs; ``ok`` tells if the gap of LIME is above those of the baselines."""

    FOLDER, KEY = "evaluation/fills", ("photographs", "unit", "fill", "method")

    def __str__(self) -> str:
        verdict = {"yes": ", above random and centre", "no": ", NOT above random and centre", "": ""}[self.ok]
        return f"{self.unit}, {self.fill}, {self.method}: {self.deletion} / {self.insertion}, gap {self.gap}{verdict}"


def methods(images: Tensor, labels: Tensor, segments: Tensor) -> dict[str, Tensor]:
    """Maps (n, 1, h, w) of methods that do not depend on the fill."""
    model, ready = models.model(MODEL), (images - NORMALISATION["mean"]) / NORMALISATION["std"]
    keys = torch.arange(len(images))
    return {
        "Grad-CAM": GradCam()(model, ready, labels),
        "abs. gradient": Gradient(channels="abs")(model, ready, labels),
        "random segments": random_maps(segments, labels, keys=keys),
        "centre blob": centre_maps(segments, labels),
    }


def measured(images: Tensor, compile: bool = True) -> Iterator[Row]:
    """Rows of all units, fills and methods."""
    shared: dict[str, Any] = {"quality": "fast", "segments": Slic(n_segments=60), "batch_size": BATCH, "top_labels": 1}
    explainer = Explainer(models.model(MODEL), compile=compile, **shared, **NORMALISATION)
    others: dict[str, Tensor] = {}
    for fill, value in FILLS.items():
        judge = explainer.with_fill(value)
        explained = judge.explain(images, keys=torch.arange(len(images)))
        others = others or methods(images, explained.labels, explained.segments)
        given = {"labels": explained.labels, "segments": explained.segments}
        for unit in UNITS:
            areas = {LIME: curves(judge, images, explained, unit, STEPS)}
            areas |= {name: curves(judge, images, maps, unit, STEPS, **given) for name, maps in others.items()}
            gaps = {name: float(found.gap.mean()) for name, found in areas.items()}
            for name, found in areas.items():
                ok = yes(all(gaps[LIME] > gaps[other] for other in BASELINES)) if name == LIME else ""
                both = (f"{float(area.mean()):.3f}" for area in (found.deletion_auc, found.insertion_auc))
                yield Row(source(), unit, fill, name, str(len(images)), *both, f"{gaps[name]:.3f}", ok, **where())


def plot(made: Sequence[Row], path: Path) -> None:
    """Write a picture of each method's deletion, and of its insertion minus deletion, under each fill in each unit."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    colours = {LIME: "#D55E00", "Grad-CAM": "#CC79A7", "abs. gradient": "#009E73", BASELINES[1]: "0.35", BASELINES[0]: "0.7"}
    columns = {"deletion": "deletion, lower is better", "gap": "insertion minus deletion, higher is better"}
    for along, unit in zip(panels, UNITS, strict=True):
        for panel, (column, title) in zip(along, columns.items(), strict=True):
            for method, colour in colours.items():
                values = {row.fill: float(getattr(row, column)) for row in made if (row.unit, row.method) == (unit, method)}
                panel.scatter(
                    list(values.values()), [list(FILLS).index(fill) for fill in values], color=colour, label=method, zorder=3
                )
            panel.set_title(f"by {unit}: {title}", fontsize="medium")
            panel.set_yticks(range(len(FILLS)), list(FILLS))
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", color="0.9")
    panels[0, 0].invert_yaxis()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(colours), frameon=False)
    figure.suptitle(f"{made[0].n} photographs of {made[0].photographs}, {MODEL}", fontsize="medium")
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "gpulime"}):  # the same picture is the same file
        figure.savefig(path, metadata={"Date": None})


def draw() -> None:
    """Draw the kept rows of this device."""
    plot(read(file_of(where()["device"], Row.FOLDER), Row), RESULTS / Row.FOLDER / "fills.svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; status 1 if LIME is not above the baselines."""
    made = parser("evaluation.fills", __doc__)
    made.add_argument("--photographs", type=int, default=N)
    made.add_argument("--draw", action="store_true", help="draw the kept rows, and measure nothing")
    given, found = made.parse_args(argv), []
    if given.draw:
        draw()
        return 0
    for row in measured(photographs(given.photographs)):
        found.append(row)
        print(row, flush=True)
    if given.save:
        save(found)
        draw()
    return int(any(row.ok == "no" for row in found))


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ridge penalty")
        sys.exit(main())
