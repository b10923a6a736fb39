"""``python -m benchmarks.evaluation.sensitivity [--save]``: sensitivity_max with masks fixed by keys, beside captum's Lime.

The logits of Fashion-MNIST's network are explained for test pictures. Noise is uniform with a radius of 0.02 in normalised
units, as captum adds it to the model's input, 10 draws. captum's Lime draws new masks each time, so its number stays about the
same without noise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.convergence import fashion
from benchmarks.rows import columns, parser, save, where, yes
from gpulime import Explainer
from gpulime.evaluate import sensitivity

N, SAMPLES, MOST = 8, 200, 0.02
NOISY = 0.1  # captum's Lime has at least that


MEAN, STD = 0.2860, 0.3530  # of Fashion-MNIST


class Normalised(nn.Module):
    """The network for normalised pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.network = fashion.model()

    def forward(self, images: Tensor) -> Tensor:
        """(b, 1, 28, 28), normalised -> (b, 10)."""
        return self.network(images * STD + MEAN)


class Row(columns("side radius n samples sensitivity_max bound ok")):
    """The mean over n pictures."""

    FOLDER, KEY = "evaluation/sensitivity", ("side", "radius")

    def __str__(self) -> str:
        bound = f", {self.bound}: {self.ok}" if self.bound else ""
        return f"{self.side}, radius {self.radius}: sensitivity_max {self.sensitivity_max}{bound}"


def ours(images: Tensor, labels: Tensor, radius: float) -> float:
    """Mean over pictures, gpulime."""
    explainer = Explainer(Normalised(), SAMPLES, fill=0.0, activation=None, mean=MEAN, std=STD, normalized=True)
    keys, parts = torch.arange(len(images)), fashion.GRID.expand(len(images), -1, -1)
    return float(sensitivity(explainer, images, labels, radius, segments=parts, keys=keys).sensitivity_max.mean())


def captums(images: Tensor, labels: Tensor, radius: float) -> float:
    """Mean over pictures, captum's Lime with captum's metric."""
    from captum.attr import Lime
    from captum.metrics import sensitivity_max

    lime = Lime(Normalised())

    def attribute(inputs: tuple[Tensor, ...], **given: Any) -> tuple[Tensor, ...]:
        """Explain one by one, since captum's Lime shares masks in a batch."""
        settings = {"n_samples": SAMPLES, "perturbations_per_eval": SAMPLES, "feature_mask": fashion.GRID[None, None]}
        return (torch.cat([lime.attribute(one[None], **settings, **given) for one in inputs[0]]),)

    found = [
        sensitivity_max(attribute, image[None], perturb_radius=radius, target=int(label))
        for image, label in zip(images, labels, strict=True)
    ]
    return float(torch.cat(found).mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; status 1 if a number is beyond its bound."""
    given = parser("evaluation.sensitivity", __doc__).parse_args(argv)
    torch.manual_seed(0)
    images = (fashion.read("t10k-images-idx3")[:N] - MEAN) / STD
    with torch.no_grad():
        labels = Normalised()(images).argmax(1)
    common = {"n": str(N), "samples": str(SAMPLES), **where()}
    made = []
    for radius in (0.02, 0.0):
        for side, measure in (("gpulime", ours), ("captum", captums)):
            value = measure(images, labels, radius)
            fits = value <= MOST if side == "gpulime" else value >= NOISY
            bound = f"at most {MOST}" if side == "gpulime" else f"{NOISY} or more"
            made.append(Row(side, f"{radius:g}", sensitivity_max=f"{value:.4f}", bound=bound, ok=yes(fits), **common))
            print(made[-1], flush=True)
    if given.save:
        save(made)
    return int(any(row.ok == "no" for row in made))


if __name__ == "__main__":
    sys.exit(main())
