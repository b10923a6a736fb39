"""Fashion-MNIST: a small convolutional network, and the 49 parts of a 7 x 7 grid on pictures of 28 x 28."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.convergence.games import Case, Game, of_picture
from benchmarks.convergence.targets import FOLDER, written
from gpulime import Explainer

DATA = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist
WEIGHTS = FOLDER / "fashion-weights.npy"  # kept, since training differs between machines and the targets belong to them
PICTURES = 200
GRID = torch.arange(49).view(7, 7).repeat_interleave(4, 0).repeat_interleave(4, 1)


def read(name: str) -> Tensor:
    """Labels (n,), or pictures (n, 1, 28, 28) in [0, 1]."""
    content = np.frombuffer(gzip.decompress((DATA / f"{name}-ubyte.gz").read_bytes()), np.uint8)
    if "labels" in name:
        return torch.from_numpy(content[8:].astype(np.int64))
    return torch.from_numpy(content[16:].reshape(-1, 1, 28, 28) / np.float32(255))


def network() -> nn.Sequential:
    """Make an untrained network."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1568, 10)),
    )


def trained(epochs: int = 4) -> nn.Module:
    """Train the network; its weights are rounded to float16, as they are kept."""
    torch.manual_seed(0)
    model, images, labels = network(), read("train-images-idx3"), read("train-labels-idx1")
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for where in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[where]), labels[where]).backward()
            optimizer.step()
    return model


@cache
def model() -> nn.Module:
    """The network with the kept weights; it is trained if there are none."""
    if not WEIGHTS.exists():
        weights = nn.utils.parameters_to_vector(trained().parameters()).detach().half().numpy()
        written(WEIGHTS, lambda file: np.save(file, weights))
    made = network()
    nn.utils.vector_to_parameters(torch.from_numpy(np.load(WEIGHTS)).float(), made.parameters())
    return made.eval()


def games() -> Iterator[Game]:
    """The first pictures of the test set.

    Raises
    ------
    FileNotFoundError
        If the data set is not installed.
    """
    explainer = Explainer(model(), mean=0, std=1)
    for i, picture in enumerate(read("t10k-images-idx3")[:PICTURES]):
        made = of_picture(explainer, f"{i:03}", picture, GRID, classes=10)
        yield replace(made, parts=zlib.crc32(picture.numpy().tobytes() + WEIGHTS.read_bytes()))


CASE = Case("fashion", games, n_masks=20_000)
