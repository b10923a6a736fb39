"""Games: one input each, whose parts are shown or hidden, and the model's outputs for any masks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpulime import Explainer

Array = np.ndarray  # masks (s, k) bool and outputs (s, classes) float


@dataclass
class Game:
    """An input of k parts; ``label`` is the class that is explained."""

    name: str
    k: int
    label: int
    predict: Callable[[Array], Array]  # masks (s, k) bool -> outputs (s, classes)
    parts: int = 0  # checksum of the division into parts, which a stored target must share
    truth: Array | None = None  # (k,) the exact target, if it is known

    @property
    def seed(self) -> int:
        """Seed of the independent draws behind this game's target."""
        return zlib.crc32(self.name.encode())


def of_picture(explainer: Explainer, name: str, picture: Tensor, segments: Tensor, classes: int) -> Game:
    """Game of a picture (c, h, w) and its segments (h, w), of the class with the highest output."""
    k, labels = int(segments.max()) + 1, torch.arange(classes)[None]

    def predict(masks: Array) -> Array:
        given = torch.from_numpy(np.ascontiguousarray(masks))
        return explainer.outputs(picture[None], given[None], labels, segments[None])[0].numpy()

    best = int(predict(np.ones((1, k), bool))[0].argmax())
    return Game(name, k, best, predict, zlib.crc32(segments.to(torch.int32).numpy().tobytes()))


@dataclass
class Case:
    """Games of one kind; ``games`` yields them one by one, in an order of which any first part can be used."""

    name: str
    games: Callable[[], Iterator[Game]]
    n_masks: int = 0  # of the targets; 0 if every game knows its target
    sizes: tuple[int, ...] = (128, 256, 384, 512, 1000)  # design rows
    repeats: int = 1
