"""Attribution of an object: the mean of a map over its pixels, as BAM prepares the map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gpulime import labels as classes
from gpulime.errors import check
from gpulime.evaluate.method_maps import check_images, logits, maps_of
from gpulime.evaluate.methods.method import Method

CLIPPED = 0.99  # quantile of a map that becomes 1


def prepared(maps: Tensor) -> Tensor:
    """Positive parts of maps (..., h, w), scaled to [0, 1] from their lowest value to their 99th percentile: float64.

    A method's map is a sum over channels, so this is the positive part of the sum. NaN if both values are the same.
    """
    flat = maps.double().clamp(min=0).flatten(-2)
    low = flat.amin(-1, keepdim=True)
    high = torch.stack([one.quantile(CLIPPED) for one in flat.flatten(0, -2)]).view(low.shape)
    scaled = ((flat - low) / (high - low)).clamp(0, 1)
    return torch.where(high > low, scaled, torch.nan).view(maps.shape)


def attribution(maps: Tensor, objects: Tensor) -> Tensor:
    """Mean of prepared maps (n, h, w) over the pixels of their objects (n, h, w) bool: (n,) float64, 0 to 1."""
    return torch.where(objects, prepared(maps), 0.0).sum((1, 2)) / objects.sum((1, 2))


def attributions(
    name: str, model: nn.Module, images: Tensor, objects: Tensor, labels: Any, method: Method
) -> tuple[Tensor, dict[int, str]]:
    """Attributions (n,) of the objects for a model, and reasons not to count an image."""
    check_images(images)
    n, _, h, w = images.shape
    fits = isinstance(objects, Tensor) and objects.shape == (n, h, w) and objects.dtype == torch.bool
    got = f"{tuple(objects.shape)} {objects.dtype}" if isinstance(objects, Tensor) else type(objects).__name__
    check(fits, f"objects must be (n, h, w) = {(n, h, w)} bool, True on the object; got {got}")
    given = classes.of_batch(labels, n).to(images.device)
    check(given.shape[1] == 1, f"labels must be (n,), the right class of each image; got {tuple(given.shape)}")
    values = attribution(maps_of(method, model, images, given)[:, 0], objects)
    conditions = {
        f"the map for the {name} has no spread among its positive parts": values.isnan(),
        f"the {name} classifies it wrong": logits(model, images).argmax(1) != given[:, 0],
        "the object has no pixel": objects.flatten(1).sum(1) == 0,
    }
    reasons = {i: why for why, which in conditions.items() for i in which.nonzero().flatten().tolist()}
    return values, reasons
