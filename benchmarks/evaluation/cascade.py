"""``python -m benchmarks.evaluation.cascade``: maps of models that lose their weights, from the logits down.

Reproduces the cascade of Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018: maps of the gradient and LIME change
at once, Guided Backprop shows the same picture until the lower layers change. Each method stands beside its ceiling, the
similarity of its maps with another seed.

Adebayo's own network, Inception v3, and ImageNet's validation images are replaced by EfficientNet-Lite0 and eight photographs.
The last two stages of EfficientNet-Lite0 are not reproduced: re-initialised BatchNorms shrink the logits' spread
to nothing, so the cascade stops there rather than compare rounding errors.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.convergence import fashion, photographs
from benchmarks.evaluation import sides
from benchmarks.rows import RESULTS, columns, parser, read, save, where, yes
from gpulime.evaluate import randomisation

MOST = 8  # photographs
PICTURES = 24  # of Fashion-MNIST
AT_LEAST, AT_MOST = {"Guided Backprop": 0.95}, {"gradient": 0.15, "LIME": 0.3}  # of the signed rank correlation
TOP = 3  # stages in which Guided Backprop must not change


class Row(
    columns(
        "entry method stage spread spearman spearman_abs ssim hog ceiling ceiling_abs ceiling_ssim ceiling_hog images bound ok"
    )
):
    """Mean similarities, over images, of maps at a stage to those of the trained model; ``spearman`` is that of signed maps.

    ``spread`` is that of the logits; similarities are empty once it has collapsed. The ceiling is the same for other seeds.
    """

    FOLDER = "evaluation/cascade"
    KEY = ("entry", "method", "stage")

    def __str__(self) -> str:
        bound = f", {self.bound}: {'ok' if self.ok == 'yes' else 'FAILED'}" * bool(self.bound)
        similar = f"signed {self.spearman} (ceiling {self.ceiling}), absolute {self.spearman_abs} ({self.ceiling_abs})"
        similar = similar if self.spearman else "the spread of the logits collapsed"
        return f"{self.entry}, {self.method}, {self.stage}: {similar}, spread {self.spread}{bound}"


@dataclass(frozen=True)
class Entry:
    """A model, images as it takes them, and the stages of its cascade."""

    model: Callable[[], nn.Module]
    images: Callable[[], Tensor]
    stages: dict[str, list[str]]
    bounded: str  # stages to which the bounds of gradient and LIME apply
    methods: tuple[str, ...] = ("gradient", "Guided Backprop", "Grad-CAM")


def photos() -> Tensor:
    """Photographs, normalised for EfficientNet-Lite0."""
    return (torch.stack([picture for _, picture in islice(photographs.photographs(), MOST)]) - models.MEAN) / models.STD


def blocks(start: int, stop: int) -> list[str]:
    """Names of blocks of EfficientNet-Lite0."""
    return [f"_blocks.{i}" for i in range(start, stop)]


ENTRIES = {
    "EfficientNet-Lite0": Entry(
        lambda: models.model("EfficientNet-Lite0"),
        photos,
        {
            "logits": ["_fc"],
            "head": ["_conv_head", "_bn1"],
            "blocks 12-15": blocks(12, 16),
            "blocks 6-11": blocks(6, 12),
            "blocks 0-5": blocks(0, 6),
            "stem": ["_conv_stem", "_bn0"],
        },
        "all",
    ),
    "Fashion-MNIST CNN": Entry(
        fashion.model,
        lambda: fashion.read("t10k-images-idx3")[:PICTURES],
        {"logits": ["7"], "convolution 2": ["3"], "convolution 1": ["0"]},
        "last",
        ("gradient", "Guided Backprop", "Grad-CAM", "IG"),
    ),
}


def measure(name: str) -> list[Row]:
    """Return a row for each method and stage."""
    entry = ENTRIES[name]
    model, images = entry.model(), entry.images()
    keys = torch.arange(len(images))  # images of one size would share masks, and so noise
    found = sides.methods("sum", entry.methods)
    pairs = {method: (one, one) for method, one in found.items()}
    pairs[sides.LIME] = (sides.lime(0, keys=keys), sides.lime(1, keys=keys))
    rows = []
    for method, (one, another) in pairs.items():
        result = randomisation(model, images, one, stages=entry.stages, another=another)
        means = {key: values.nanmean((1, 2)) for key, values in result.similarities.items()}
        ceiling = {key: f"{float(values.nanmean()):.2f}" for key, values in result.ceiling.items()}
        for i, stage in enumerate(result.stages):
            shown = {key: f"{float(mean[i]):.2f}" if bool(mean[i].isfinite()) else "" for key, mean in means.items()}
            row = Row(
                name,
                method,
                stage,
                spread=f"{float(result.spreads[i + 1]):.2g}",
                **shown,
                ceiling=ceiling["spearman"],
                **{f"ceiling_{key}": ceiling[of] for key, of in (("abs", "spearman_abs"), ("ssim", "ssim"), ("hog", "hog"))},
                images=str(len(images)),
                **judged(name, method, i, float(means["spearman"][i])),
                **where(),
            )
            print(row, flush=True)
            rows.append(row)
    return rows


def judged(name: str, method: str, stage: int, value: float) -> dict[str, str]:
    """The columns of a bound, if there is one for a method and stage and its similarity is known."""
    entry = ENTRIES[name]
    if math.isnan(value):
        return {}
    if method in AT_MOST and (entry.bounded == "all" or stage == len(entry.stages) - 1):
        return {"bound": f"|signed| at most {AT_MOST[method]:g}", "ok": yes(abs(value) <= AT_MOST[method])}
    if method in AT_LEAST and stage < TOP and entry.bounded == "all":
        return {"bound": f"signed at least {AT_LEAST[method]:g}", "ok": yes(value >= AT_LEAST[method])}
    return {}


def plot(rows: Sequence[Row]) -> None:
    """Draw the signed rank correlations of all entries."""
    shown = {name: [row for row in rows if row.entry == name] for name in ENTRIES}
    shown = {name: of_entry for name, of_entry in shown.items() if of_entry}
    stages = {name: list(ENTRIES[name].stages) for name in shown}
    panels = {
        name: {
            method: [
                float(row.spearman or "nan")
                for stage in stages[name]
                for row in found
                if (row.method, row.stage) == (method, stage)
            ]
            for method in dict.fromkeys(row.method for row in found)
        }
        for name, found in shown.items()
    }
    ceilings = {name: {row.method: float(row.ceiling) for row in found} for name, found in shown.items()}
    y = "signed rank correlation"
    sides.line_panels(panels, ceilings, stages, y, RESULTS / Row.FOLDER / "cascade.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a bound is missed."""
    given = parser("evaluation.cascade", __doc__, ENTRIES).parse_args(argv)
    rows = [row for name in given.only or ENTRIES for row in measure(name)]
    if given.save:
        plot(read(save(rows), Row))
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
