"""What every side of an entry is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import MEAN, MODELS, STD, model
from benchmarks.pictures import label_maps, photographs, segmented


@dataclass(frozen=True)
class Setup:
    """A model, the first n photographs, s samples each, b rows of a model batch.

    ``segments``: every side segments for itself, inside the clock; else all are given the same label maps.
    """

    model_name: str = "EfficientNet-Lite0"
    n: int = 4
    s: int = 300
    b: int | str = 10
    precision: str = "float32"
    sampler: str = "bernoulli"
    seed: int = 0
    segments: bool = False
    device: str = "cpu"

    @property
    def rows(self) -> int:
        return self.n * self.s

    @property
    def batch(self) -> int:
        """Rows of a batch for those who cannot choose."""
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
        """The same as the model takes them."""
        return (self.images - MEAN) / STD

    @property
    def label_maps(self) -> Tensor:
        """(n, h, w)."""
        return label_maps(MODELS[self.model_name].side)[: self.n].to(self.device)

    def label_map(self, i: int) -> Tensor:
        """That of photograph i (h, w): found anew where every side segments for itself."""
        if self.segments:
            return segmented(photographs(MODELS[self.model_name].side)[i]).to(self.device)
        return self.label_maps[i]

    @cached_property
    def targets(self) -> Tensor:
        """(n,): the class whose coefficients are compared, the first in float32."""
        with torch.no_grad():
            targets: Tensor = self.model(self.normalised).argmax(1)
        return targets.cpu()

    def autocast(self) -> Any:
        """The precision, as everyone but gpulime asks PyTorch for it."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16")
