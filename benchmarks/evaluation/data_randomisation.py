"""``python -m benchmarks.evaluation.data_randomisation``: maps of a network that learned permuted labels of Fashion-MNIST.

Reproduces the test of Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. The reference is a network that learned
the true labels from another start: a method passes if its maps of permuted labels are far below it. Guided Backprop fails, as
Adebayo et al. say: its maps of permuted labels are as similar as those of the reference. Their network and MNIST are not used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.convergence import fashion
from benchmarks.evaluation import sides
from benchmarks.rows import RESULTS, columns, parser, save, where, yes
from gpulime.evaluate import data_randomisation, train_networks
from gpulime.evaluate.data_randomisation import ENOUGH

TRAINING, PICTURES = 2000, 60  # pictures to train with, test pictures
EPOCHS = 300  # at most
SAMPLES = 300  # of LIME
ENTRY = "Fashion-MNIST CNN"


class Row(
    columns(
        "entry method spearman reference spearman_abs reference_abs ssim reference_ssim hog reference_hog images training "
        "accuracy_true accuracy_permuted accuracy_another bound ok"
    )
):
    """Mean similarities of maps to those of true labels: for permuted labels, and for the reference."""

    FOLDER = "evaluation/data_randomisation"
    KEY = ("entry", "method")

    def __str__(self) -> str:
        known = f"accuracies {self.accuracy_true}, {self.accuracy_permuted}, {self.accuracy_another}"
        similar = f"signed {self.spearman} ({self.reference}), absolute {self.spearman_abs} ({self.reference_abs})"
        return f"{self.entry}, {self.method}: {similar}; {known}: {'ok' if self.ok == 'yes' else 'FAILED'}"


def trained(images: Tensor, labels: Tensor, epochs: int = EPOCHS) -> nn.Module:
    """Train a network until it knows the labels."""
    model = fashion.network()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        right = 0
        for where_ in torch.randperm(len(images)).split(64):
            outputs = model(images[where_])
            right += int((outputs.argmax(1) == labels[where_]).sum())
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs, labels[where_]).backward()
            optimizer.step()
        if right > 0.995 * len(images):
            break
    return model.eval()


def measure(training: int = TRAINING, pictures: int = PICTURES, epochs: int = EPOCHS) -> list[Row]:
    """Return a row for each method."""
    images, labels = (fashion.read(f"train-{name}")[:training] for name in ("images-idx3", "labels-idx1"))
    networks = train_networks(lambda given: trained(images, given, epochs), images, labels)
    tested = fashion.read("t10k-images-idx3")[:pictures]
    found = sides.methods("sum", ["gradient", "Guided Backprop", "Grad-CAM", "IG"])
    found[sides.LIME] = sides.lime(samples=SAMPLES, keys=torch.arange(pictures))
    rows = []
    for method, one in found.items():
        result = data_randomisation(networks, tested, one)
        means = {}
        for column, of in (("", "spearman"), ("_abs", "spearman_abs"), ("_ssim", "ssim"), ("_hog", "hog")):
            means[of] = f"{float(result.permuted[of].nanmean()):.2f}"
            means[f"reference{column}"] = f"{float(result.another[of].nanmean()):.2f}"
        row = Row(
            ENTRY,
            method,
            **means,
            images=str(pictures),
            training=str(training),
            **{f"accuracy_{name}": f"{value:.3f}" for name, value in networks.accuracies.items()},
            bound=f"accuracies above {ENOUGH}",
            ok=yes(networks.are_trained),
            **where(),
        )
        print(row, flush=True)
        rows.append(row)
    return rows


def plot(rows: Sequence[Row]) -> None:
    """Draw the signed rank correlations of each method."""
    scores = {
        "permuted labels": {row.method: float(row.spearman) for row in rows},
        "true labels, another start": {row.method: float(row.reference) for row in rows},
    }
    sides.bar_panels(scores, RESULTS / Row.FOLDER / "data_randomisation.png", alike=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a network does not know the labels that it was trained on."""
    given = parser("evaluation.data_randomisation", __doc__).parse_args(argv)
    rows = measure()
    if given.save:
        save(rows)
        plot(rows)
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
