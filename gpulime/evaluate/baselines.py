"""Baselines: maps that know nothing of the model, to stand beside those of every method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpulime import arrays
from gpulime.errors import GpulimeError, check
from gpulime.ops.bernoulli import bernoulli

BITS = 24  # of a random value


def random_maps(segments: Any, labels: Any, seed: int = 0, keys: Any = None) -> Tensor:
    """Give every segment a random value, uniform in [0, 1).

    Parameters
    ----------
    segments : (n, h, w) integers
    labels : (n, l) int64
        Each class gets its own values.
    seed : int
    keys : (n,) int64, optional
        As for `gpulime.Explainer.explain`; values are a function of seed, key, class and segment.

    Returns
    -------
    (n, l, h, w) float32

    Raises
    ------
    GpulimeError
        If segments or labels are not integers of these shapes.
    """
    parts, classes = _checked(segments, labels)
    n, l = classes.shape
    seeds = torch.zeros(n, dtype=torch.int64) if keys is None else arrays.keys(keys, n)
    flat = parts.flatten(1).unique(return_inverse=True)[1]
    k = int(flat.max()) + 1
    # Row 0 of an image shows everything, so classes begin with row 1.
    bits = bernoulli(seeds.to(parts.device)[:, None], classes + 1, k * BITS, seed).unflatten(-1, (k, BITS))
    powers = 0.5 ** torch.arange(1, BITS + 1, device=parts.device)
    values: Tensor = (bits * powers).sum(-1)
    return values.gather(2, flat[:, None].expand(n, l, -1)).view(n, l, *parts.shape[1:])


def centre_maps(segments: Any, labels: Any) -> Tensor:
    """Give every pixel the height of a Gaussian at the centre of the image, with a standard deviation of a quarter of a side.

    Parameters
    ----------
    segments : (n, h, w) integers
        Only their shape counts.
    labels : (n, l) int64

    Returns
    -------
    (n, l, h, w) float32 in (0, 1]

    Raises
    ------
    GpulimeError
        If segments or labels are not integers of these shapes.
    """
    parts, classes = _checked(segments, labels)
    (n, l), (h, w) = classes.shape, parts.shape[1:]
    down, across = ((2 * torch.arange(side, device=parts.device) + 1 - side) / side for side in (h, w))
    blob = (-2 * (down[:, None] ** 2 + across**2)).exp()
    return blob.expand(n, l, h, w).contiguous()


def _checked(segments: Any, labels: Any) -> tuple[Tensor, Tensor]:
    parts, classes = arrays.tensor(segments), arrays.tensor(labels)
    for name, given, dimensions in (("segments", parts, "(n, h, w)"), ("labels", classes, "(n, l)")):
        if given is None or given.is_floating_point() or given.ndim != dimensions.count(",") + 1:
            got = "no integers" if given is None else f"{tuple(given.shape)} {given.dtype}"
            raise GpulimeError(f"{name} must be {dimensions} integers; got {got}")
    assert parts is not None
    assert classes is not None
    check(len(parts) == len(classes), f"labels must be (n, l) with n = {len(parts)} images; got {tuple(classes.shape)}")
    return parts, classes.to(parts.device).long()
