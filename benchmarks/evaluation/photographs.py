"""Photographs that the benchmarks of evaluation explain, with their model."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as images

from benchmarks import models, setups
from benchmarks.convergence.photographs import FOLDER

NORMALISATION = {"mean": models.MEAN, "std": models.STD}
GREY = models.MEAN  # 0 after normalisation
MODEL = "EfficientNet-Lite0"


def source() -> str:
    """The name of the set of photographs."""
    return "ImageNet" if FOLDER in os.environ else "scikit-image"


@cache
def photographs(most: int) -> Tensor:
    """(n, 3, 224, 224) in [0, 1], at most that many, spread over the folder.

    Without a folder they are those of scikit-image, then their mirror images.
    """
    if FOLDER not in os.environ:
        four = setups.photographs()
        return torch.cat([four, four.flip(-1)])[:most]
    files = sorted(path for path in Path(os.environ[FOLDER]).iterdir() if path.suffix.lower() in {".jpeg", ".jpg", ".png"})
    chosen = [files[i * len(files) // min(most, len(files))] for i in range(min(most, len(files)))]
    crops = [images.center_crop(images.resize(Image.open(path).convert("RGB"), 256), 224) for path in chosen]
    return torch.stack([images.to_tensor(crop) for crop in crops])
