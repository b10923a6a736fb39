"""``python -m benchmarks.evaluation.samples [--save]``: the worth of explanations by their number of samples.

Each preset explains the predicted class of the same photographs with more and more samples, twice, from two seeds. Beside what
`benchmarks.evaluation.defaults` measures stand the R2 of the fit, which flatters few samples, and the stability of the map.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from benchmarks.evaluation import defaults
from benchmarks.evaluation.photographs import photographs, source
from benchmarks.rows import RESULTS, columns, parser, save, where
from gpulime import Explainer
from gpulime.evaluate import stability
from gpulime.segments import Segmenter, Slic

SEGMENTS: Segmenter = Slic(n_segments=60)
SAMPLES = {"lime": (100, 300, 1000), "fast": (129, 257, 513, 1025)}  # of each preset
PANELS = {"gap": "insertion minus deletion", "r2": "R2 (dashed: of the fit)", "spearman": "rank correlation of two seeds"}
COLOURS = {"lime": "#0072B2", "fast": "#D55E00"}


class Row(columns("photographs quality samples n gap gap_error r2 r2_error fit spearman spearman_error")):
    """Means over n photographs, with standard errors; ``fit`` is the R2 on the samples of the fit."""

    FOLDER, KEY = "evaluation/samples", ("photographs", "quality", "samples")

    def __str__(self) -> str:
        r2 = f"R2 {self.fit} of the fit, {self.r2} ({self.r2_error}) held out"
        return f"{self.quality}, {self.samples}: gap {self.gap} ({self.gap_error}), {r2}, two seeds {self.spearman}"


def measured(judge: Explainer, images: Tensor, keys: Tensor) -> dict[str, list[float]]:
    """Numbers of each image by name."""
    found, explained = defaults.scores(judge, images, keys)
    again = stability(judge, images, explained, keys=keys)
    found |= {"fit": explained.scores[:, 0], "spearman": again.spearman[:, 0]}
    return {name: found[name].tolist() for name in ("gap", "r2", "fit", "spearman")}


def row(quality: str, samples: int, numbers: Mapping[str, Sequence[float]]) -> Row:
    """The row of the numbers of some photographs."""
    means = {name: f"{fmean(values):.3f}" for name, values in numbers.items()}
    errors = {f"{name}_error": defaults.error(numbers[name]) for name in PANELS}
    return Row(source(), quality, str(samples), str(len(numbers["gap"])), **means, **errors, **where())


def plot(made: Sequence[Row], path: Path) -> None:
    """Write a picture of each number over the samples, a line for each preset."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for panel, (name, title) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for quality, of_one in groupby(made, key=lambda row: row.quality):
            some = list(of_one)
            x, colour = [int(row.samples) for row in some], COLOURS[quality]
            values, errors = ([float(getattr(row, column) or 0) for row in some] for column in (name, f"{name}_error"))
            panel.errorbar(x, values, yerr=errors, color=colour, marker="o", markersize=4, capsize=2, label=quality)
            if name == "r2":
                panel.plot(x, [float(row.fit) for row in some], color=colour, linestyle="--")
        panel.set(xscale="log", xlabel="samples", title=title)
        panel.set_xticks(ticks := [100, 300, 1000], list(map(str, ticks)))
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.9")
        panel.title.set_fontsize("medium")
    figure.axes[0].legend(title="quality", frameon=False)
    with rc_context({"svg.hashsalt": "gpulime"}):  # the same picture is the same file
        figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure some photographs at a time; rows are kept after each of them."""
    made = parser("evaluation.samples", __doc__)
    made.add_argument("--photographs", type=int, default=24)
    given = made.parse_args(argv)
    images, keys = photographs(given.photographs), torch.arange(given.photographs)
    judges = {
        (quality, samples): defaults.explainer(SEGMENTS, "mean", quality, n_samples=samples)
        for quality, each in SAMPLES.items()
        for samples in each
    }
    found: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for start in range(0, len(images), defaults.TOGETHER):
        some = images[start : start + defaults.TOGETHER], keys[start : start + defaults.TOGETHER]
        for setting, judge in judges.items():
            for name, values in measured(judge, *some).items():
                found[setting][name] += values
        kept = [row(*setting, numbers) for setting, numbers in found.items()]
        print(f"{start + len(some[0])} photographs", *kept, sep="\n", flush=True)
        if given.save:
            save(kept)
            plot(kept, RESULTS / Row.FOLDER / "samples.svg")
    return 0


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ridge penalty")
        sys.exit(main())
