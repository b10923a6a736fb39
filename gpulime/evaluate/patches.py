"""Functionally insignificant patches: an object is changed until the model's outputs are those without it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpulime.engine.eval_mode import evaluating
from gpulime.engine.outputs import found
from gpulime.evaluate.method_maps import logits

ROWS = 64  # patched together; gradients do not pass through the queue


def insignificant_patches(
    model: nn.Module,
    images: Tensor,
    scenes: Tensor,
    objects: Tensor,
    bounds: tuple[float, float] | None = None,
    steps: int = 300,
    rate: float = 500.0,
    weight: float = 0.01,
) -> Tensor:
    """Scenes x with patches d in place of objects, so that the outputs f(x + d) are near f(x).

    Gradient descent on ``||f(x + d) - f(x)|| - weight ||d|| + weight o``, with o the sum of the distances of pixels from their
    bounds, as in Yang and Kim, 2019. d begins as the object, and is 0 outside of it.

    Parameters
    ----------
    model : nn.Module
    images, scenes : (n, c, h, w) float
        With and without the object.
    objects : (n, h, w) bool
    bounds : (low, high), optional
        Lowest and highest value of a pixel, as the model takes it; by default those of the images and scenes. ``rate`` and
        ``weight`` are for pixels from 0 to 255, to which this range is scaled.
    steps : int
    rate, weight : float

    Returns
    -------
    (n, c, h, w) float, x + d
    """
    low, high = bounds or (float(torch.minimum(images, scenes).min()), float(torch.maximum(images, scenes).max()))
    unit = (high - low) / 255
    made = []
    for with_object, x, inside in zip(images.split(ROWS), scenes.split(ROWS), objects[:, None].split(ROWS), strict=True):
        before = logits(model, x)
        patch = torch.where(inside, with_object - x, 0.0) / unit
        with evaluating(model):
            for _ in range(steps):
                patch.requires_grad_()
                patched = x + unit * patch
                outside = (low - patched).relu() + (patched - high).relu()
                change, size = (found(model(patched)) - before).norm(dim=1), patch.flatten(1).norm(dim=1)
                loss = change - weight * size + weight * outside.flatten(1).sum(1) / unit
                (gradient,) = torch.autograd.grad(loss.sum(), patch)
                patch = torch.where(inside, patch - rate * gradient, 0.0).detach()
        made.append(x + unit * patch)
    return torch.cat(made)
