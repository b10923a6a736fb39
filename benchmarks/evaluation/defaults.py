"""``python -m benchmarks.evaluation.defaults [--save]``: segments, their number and fill, by what explanations are worth.

Every setting explains the predicted class of the same photographs with the preset "fast", in bfloat16. All maps play the same
game: pixels in steps of equal area, with fills that no setting has chosen for itself; rows of a random order of segments and of
a blob at the centre stand beside them. Held-out R2 is that of a setting's own segments and fill.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from benchmarks import models
from benchmarks.evaluation.photographs import GREY, MODEL, NORMALISATION, photographs, source
from benchmarks.rows import RESULTS, columns, parser, save, where
from gpulime import Explainer
from gpulime.evaluate import centre_maps, curves, held_out, random_maps
from gpulime.explanations.images import ExplainedImages
from gpulime.segments import Felzenszwalb, Grid, Quickshift, Segmenter, Slic

BATCH, TOGETHER, STEPS, MASKS = 32, 4, 12, 50
PRECISION = "bfloat16"
JUDGES = {"blur": "blur", "grey": GREY, "black": 0.0}  # fills of the game
FILLS = {"mean": "mean", **JUDGES}
DEFAULT = "slic 60, mean"
SEGMENTERS: dict[str, Segmenter] = {
    "slic 30": Slic(n_segments=30),
    "slic 60": Slic(n_segments=60),
    "slic 100": Slic(n_segments=100),
    "slic 200": Slic(n_segments=200),
    "grid 7 x 7": Grid(7, 7),
    "grid 10 x 10": Grid(10, 10),
    "quickshift": Quickshift(),
    "felzenszwalb": Felzenszwalb(scale=300, sigma=0.8, min_size=300),
}
SETTINGS: dict[str, tuple[Segmenter, Any]] = {f"{name}, mean": (made, "mean") for name, made in SEGMENTERS.items()}
SETTINGS |= {f"slic 60, {fill}": (SEGMENTERS["slic 60"], value) for fill, value in FILLS.items()}
SETTINGS["grid 7 x 7, blur"] = SEGMENTERS["grid 7 x 7"], "blur"
NUMBERS = ("segments", "gap", *(f"gap_{name}" for name in JUDGES), "r2")


class Row(columns(f"photographs setting n {' '.join(NUMBERS)} gap_error r2_error gap_less gap_less_error")):
    """Means over n photographs, and standard errors; ``gap_less`` is the gap less that of the setting `DEFAULT`."""

    FOLDER, KEY = "evaluation/defaults", ("photographs", "setting")

    def __str__(self) -> str:
        of_r2 = f", held-out R2 {self.r2} ({self.r2_error})" if self.r2 else ""
        less = f", {self.gap_less} ({self.gap_less_error}) beside the default" if self.gap_less else ""
        return f"{self.setting:20} {self.segments:>5} segments: gap {self.gap} ({self.gap_error}){less}{of_r2}"


def explainer(segments: Segmenter, fill: Any, quality: str = "fast", compile: bool = True, **samples: int) -> Explainer:
    """The explainer of a setting; all share one compiled model."""
    how = {"quality": quality, "batch_size": BATCH, "precision": PRECISION, "compile": compile, "top_labels": 1, **samples}
    return Explainer(models.model(MODEL), segments=segments, fill=fill, **how, **NORMALISATION)


def gaps(judge: Explainer, images: Tensor, maps: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Insertion minus deletion (n,) of maps for each fill of the game, and their mean."""
    found = {
        f"gap_{name}": curves(judge, images, maps, "pixels", STEPS, fill, labels).gap[:, 0] for name, fill in JUDGES.items()
    }
    return {"gap": torch.stack(list(found.values())).mean(0), **found}


def scores(judge: Explainer, images: Tensor, keys: Tensor) -> tuple[dict[str, Tensor], ExplainedImages]:
    """Numbers (n,) of a setting by name, and its explanations."""
    explained = judge.explain(images, keys=keys)
    fit = held_out(judge, images, explained, MASKS, keys=keys)
    numbers = {"segments": explained.counts.double(), **gaps(judge, images, explained.heatmaps(), explained.labels)}
    return numbers | {"r2": fit.r2[:, 0]}, explained


def baselines(judge: Explainer, images: Tensor, explained: ExplainedImages, keys: Tensor) -> dict[str, dict[str, Tensor]]:
    """Gaps of maps that know nothing of the model."""
    given = explained.segments, explained.labels
    made = {"random": random_maps(*given, keys=keys), "centre": centre_maps(*given)}
    return {name: gaps(judge, images, maps, explained.labels) for name, maps in made.items()}


def rows(found: Mapping[str, Mapping[str, list[float]]]) -> list[Row]:
    """A row for each setting of the numbers of its photographs."""
    made = []
    for setting, numbers in found.items():
        means = {name: f"{fmean(values):.3f}" for name, values in numbers.items()}
        less = [one - other for one, other in zip(numbers["gap"], found[DEFAULT]["gap"], strict=True)]
        errors = {"gap_error": error(numbers["gap"]), "gap_less": f"{fmean(less):+.3f}", "gap_less_error": error(less)}
        if "r2" in numbers:
            errors["r2_error"] = error(numbers["r2"])
            means["segments"] = f"{fmean(numbers['segments']):.0f}"
        made.append(Row(source(), setting, str(len(less)), **means, **errors, **where()))
    return made


def error(values: Sequence[float]) -> str:
    """Standard error of a mean."""
    return f"{stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""


def plot(made: Sequence[Row], path: Path) -> None:
    """Write a picture of each setting's gap and held-out R2 with their standard errors."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = [row.setting for row in made]
    for panel, number, title in zip(panels, ("gap", "r2"), ("insertion minus deletion", "held-out R2"), strict=True):
        drawn = [(i, row) for i, row in enumerate(made) if getattr(row, number)]
        places = [i for i, _ in drawn]
        values, errors = ([float(getattr(row, name) or 0) for _, row in drawn] for name in (number, f"{number}_error"))
        colours = ["#D55E00" if names[i] == DEFAULT else "#0072B2" for i in places]
        panel.errorbar(values, places, xerr=errors, fmt="none", ecolor="0.6")
        panel.scatter(values, places, c=colours, zorder=3, s=22)
        panel.set_xlabel(title)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", color="0.9")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    title = f"{made[0].n} photographs of {made[0].photographs}, {MODEL} in {PRECISION}; means and standard errors"
    figure.suptitle(title, fontsize="medium")
    with rc_context({"svg.hashsalt": "gpulime"}):  # the same picture is the same file
        figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure some photographs at a time; rows are kept after each of them."""
    made = parser("evaluation.defaults", __doc__, SETTINGS)
    made.add_argument("--photographs", type=int, default=24)
    given = made.parse_args(argv)
    images, keys = photographs(given.photographs), torch.arange(given.photographs)
    judges = {name: explainer(*SETTINGS[name]) for name in [DEFAULT, *(given.only or SETTINGS)]}
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for start in range(0, len(images), TOGETHER):
        some = images[start : start + TOGETHER], keys[start : start + TOGETHER]
        measured = {}
        for name, judge in judges.items():
            measured[name], explained = scores(judge, *some)
            if name == DEFAULT:
                others = baselines(judge, some[0], explained, some[1])
        measured |= others
        for name, numbers in measured.items():
            for number, values in numbers.items():
                found[name][number] += values.tolist()
        kept = rows(found)
        print(f"{min(start + TOGETHER, len(images))} photographs", *kept, sep="\n", flush=True)
        if given.save:
            save(kept)
            plot(kept, RESULTS / Row.FOLDER / "defaults.svg")
    return 0


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ridge penalty")
        sys.exit(main())
