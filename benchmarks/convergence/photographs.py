"""Photographs: EfficientNet-Lite0 in bfloat16 and about 60 segments of SLIC; the class with the highest output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as images

from benchmarks import models, setups
from benchmarks.convergence.games import Case, Game, of_picture
from gpulime import Explainer
from gpulime.segments import Slic

FOLDER = "CONVERGENCE_PHOTOGRAPHS"  # environment variable: a folder of photographs; without it, those of scikit-image
MOST = 24


def photographs() -> Iterator[tuple[str, Tensor]]:
    """Names and pictures (3, 224, 224) in [0, 1]."""
    if FOLDER not in os.environ:
        yield from zip(setups.PHOTOGRAPHS, setups.photographs(), strict=True)
        return
    files = sorted(path for path in Path(os.environ[FOLDER]).iterdir() if path.suffix.lower() in {".jpeg", ".jpg", ".png"})
    for path in files[:: max(1, len(files) // MOST)][:MOST]:
        picture = images.resize(Image.open(path).convert("RGB"), 256)
        yield path.stem, images.to_tensor(images.center_crop(picture, 224))


def games() -> Iterator[Game]:
    """One game for each photograph."""
    normalisation = {"mean": models.MEAN, "std": models.STD}
    model = models.model("EfficientNet-Lite0")
    explainer = Explainer(model, precision="bfloat16", batch_size=64, compile=True, **normalisation)
    for name, picture in photographs():
        labels = Slic(n_segments=60)(picture.permute(1, 2, 0).contiguous().numpy())
        segments = torch.from_numpy(np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
        yield of_picture(explainer, name, picture, segments, classes=1000)


CASE = Case("photographs", games, n_masks=20_000, sizes=(128, 256, 384, 512))
