"""Setup of an entry, the same problem for every side: a model, photographs and their segments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models import MEAN, MODELS, STD, model

PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")  # of scikit-image
SEGMENTS = 70  # number passed to SLIC


@cache
def photographs(side: int = 224) -> Tensor:
    """(4, 3, side, side) float32 in [0, 1]: resized to 8/7 of that, centre crop."""
    from PIL import Image
    from skimage import data

    crops = []
    for name in PHOTOGRAPHS:
        picture = Image.fromarray(getattr(data, name)())
        scale = side * 8 // 7 / min(picture.size)
        w, h = (round(length * scale) for length in picture.size)
        left, top = (w - side) // 2, (h - side) // 2
        picture = picture.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
        crops.append(torch.from_numpy(np.asarray(picture) / np.float32(255)))
    return torch.stack(crops).permute(0, 3, 1, 2).contiguous()


def segmented(image: Tensor) -> Tensor:
    """(h, w) int64: SLIC's segments of an image (3, h, w) in [0, 1], from 0 without gaps."""
    from skimage.segmentation import slic

    labels = slic(image.permute(1, 2, 0).contiguous().numpy(), n_segments=SEGMENTS, start_label=0)
    return torch.from_numpy(labels).unique(return_inverse=True)[1]


@cache
def label_maps(side: int = 224) -> Tensor:
    """(4, side, side) int64: the segments of the photographs."""
    return torch.stack([segmented(image) for image in photographs(side)])


@dataclass(frozen=True)
class Setup:
    """A model, the first n photographs, s samples each, b rows of a model batch."""

    model_name: str = "EfficientNet-Lite0"
    n: int = 4
    s: int = 300
    b: int | str = 10
    precision: str = "float32"
    sampler: str = "bernoulli"
    seed: int = 0
    segments: bool = False  # each side segments for itself, inside the clock; else all are given the same label maps
    device: str = "cpu"

    @property
    def rows(self) -> int:
        return self.n * self.s

    @property
    def batch(self) -> int:
        """Rows of a batch for sides that cannot choose."""
        return self.b if isinstance(self.b, int) else 10

    @property
    def model(self) -> nn.Module:
        return model(self.model_name, self.device)

    @property
    def model_channels_last(self) -> nn.Module:
        return model(self.model_name, self.device, channels_last=True)

    @property
    def images(self) -> Tensor:
        """(n, 3, h, w) in [0, 1]."""
        return photographs(MODELS[self.model_name].side)[: self.n].to(self.device)

    @property
    def normalised(self) -> Tensor:
        """Images (n, 3, h, w) normalised for the model."""
        return (self.images - MEAN) / STD

    @property
    def label_maps(self) -> Tensor:
        """(n, h, w)."""
        return label_maps(MODELS[self.model_name].side)[: self.n].to(self.device)

    def label_map(self, i: int) -> Tensor:
        """Segments of photograph i (h, w): computed again if every side segments for itself."""
        if self.segments:
            return segmented(photographs(MODELS[self.model_name].side)[i]).to(self.device)
        return self.label_maps[i]

    @cached_property
    def targets(self) -> Tensor:
        """(n,): the class whose coefficients are compared, the most probable in float32."""
        with torch.no_grad():
            targets: Tensor = self.model(self.normalised).argmax(1)
        return targets.cpu()

    def autocast(self) -> Any:
        """The precision, as PyTorch's users ask for it."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16")
