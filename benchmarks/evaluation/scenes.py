"""BAM without downloads: objects of Fashion-MNIST in ten pictures of scikit-image and scikit-learn, and a network for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.convergence import fashion

SIDE = 48
PICTURES = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry", "retina", "motorcycle")
PICTURES += ("china.jpg", "flower.jpg")  # of scikit-learn
CLASSES = 10


@dataclass(frozen=True)
class Scenes:
    """Scenes with and without an object, n of each.

    Attributes
    ----------
    images, scenes : (n, 3, 48, 48) float in [0, 1], with the object and without
    objects : (n, 48, 48) bool
    object_labels, scene_labels : (n,) int64
    """

    images: Tensor
    scenes: Tensor
    objects: Tensor
    object_labels: Tensor
    scene_labels: Tensor

    def where(self, which: Tensor) -> Scenes:
        """Some of them."""
        return Scenes(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


@cache
def pictures() -> list[Tensor]:
    """Ten pictures (3, h, w) in [0, 1], 120 pixels along the shorter side."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    def load(name: str) -> Any:
        if name == "motorcycle":
            return data.stereo_motorcycle()[0]
        return load_sample_image(name) if "." in name else getattr(data, name)()

    found = []
    for name in PICTURES:
        picture = torch.from_numpy(np.array(load(name))).permute(2, 0, 1)[None, :3] / 255
        scale = 120 / min(picture.shape[2:])
        found.append(nn.functional.interpolate(picture, scale_factor=scale, mode="area")[0])
    return found


def draw(n: int, part: str, seed: int, kind: int | None = None) -> Scenes:
    """Paste objects of a part of Fashion-MNIST, "train" or "t10k", at random places of random crops; of one kind if given."""
    random = torch.Generator().manual_seed(seed)

    def number(most: int) -> int:
        return int(torch.randint(most, (1,), generator=random))

    items, kinds = fashion.read(f"{part}-images-idx3")[:, 0], fashion.read(f"{part}-labels-idx1")
    if kind is not None:
        items, kinds = items[kinds == kind], kinds[kinds == kind]
    scenes, objects = torch.empty(n, 3, SIDE, SIDE), torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
    images, labels = torch.empty(n, 3, SIDE, SIDE), torch.arange(n) % CLASSES
    chosen = torch.randint(len(items), (n,), generator=random)
    for i in range(n):
        picture = pictures()[int(labels[i])]
        top, left = (number(length - SIDE) for length in picture.shape[1:])
        crop = picture[:, top : top + SIDE, left : left + SIDE]
        scenes[i] = crop.flip(2) if number(2) else crop
        item = items[chosen[i]]
        y, x = number(SIDE - 28), number(SIDE - 28)
        objects[i, y : y + 28, x : x + 28] = filled(item > 0.1)
        pasted = torch.zeros(SIDE, SIDE)
        pasted[y : y + 28, x : x + 28] = item
        images[i] = torch.where(objects[i], pasted, scenes[i])
    return Scenes(images, scenes, objects, kinds[chosen], labels)


def filled(mask: Tensor) -> Tensor:
    """A mask (h, w) without its holes: dark parts of an object belong to it."""
    from scipy.ndimage import binary_fill_holes

    return torch.from_numpy(binary_fill_holes(mask.numpy()))


def network(head: str = "global pooling") -> nn.Sequential:
    """Make an untrained network, with global pooling before the last layer or without."""
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)]
    if head != "global pooling":
        tail = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 6 * 6, CLASSES)]
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *tail,
    )


def trained(images: Tensor, labels: Tensor, epochs: int, make: Callable[[], nn.Module] = network) -> nn.Module:
    """Train a network."""
    torch.manual_seed(0)
    model = make()
    batches = -(-len(images) // 64)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for which in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[which]), labels[which]).backward()
            optimizer.step()
            falling.step()
    return model.eval()
