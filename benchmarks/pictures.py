"""What is explained: four photographs that come with scikit-image, their label maps, and pictures that need no package."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")
SEGMENTS = 70  # that SLIC is asked for


@cache
def photographs(side: int = 224) -> Tensor:
    """(4, 3, side, side) float32 in [0, 1]: shorter side to 8/7 of that, centre crop."""
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
    """(4, side, side) int64: those of the photographs."""
    return torch.stack([segmented(image) for image in photographs(side)])


def synthetic(n: int, h: int, w: int) -> Tensor:
    """(n, 3, h, w) float32 in [0, 1] with surfaces, edges and grain, as photographs have."""
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(n, 3, 5, 5, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)
    edges = torch.nn.functional.interpolate(torch.rand(n, 1, 9, 9, generator=random), (h, w))
    return 0.5 * smooth + 0.4 * edges + 0.1 * torch.rand(n, 3, h, w, generator=random)
