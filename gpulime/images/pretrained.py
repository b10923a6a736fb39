"""Normalisation recorded in a model, as timm does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

Both = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std, an entry per channel

SOURCES = {  # packages whose classifiers need normalised images but do not record mean and std
    "torchvision": "weights.transforms() has them",
    "transformers": "its image processor has them, as image_mean and image_std",
}


def bare(model: Any) -> Any:
    """Unwrap DataParallel, DistributedDataParallel and torch.compile's module."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def recorded(model: Any) -> Both | None:
    """Mean and std for images in [0, 1], from timm's ``pretrained_cfg``; None if there is none."""
    model = bare(model)
    holders = (model, getattr(model, "config", None))  # transformers keeps a timm model's pretrained_cfg in its config
    config = next((found for holder in holders if (found := getattr(holder, "pretrained_cfg", None))), None)
    if not isinstance(config, Mapping) or not config.get("mean") or not config.get("std"):
        return None
    mean, std = (tuple(float(value) for value in config[name]) for name in ("mean", "std"))
    return mean, std


def for_channels(both: Both, channels: int | None) -> Both:
    """Average mean and std over channels for a single-channel model, since a model converted from RGB keeps RGB's values."""
    if channels != 1:
        return both
    mean, std = ((sum(values) / len(values),) for values in both)
    return mean, std


def normalisation(model: Any) -> Both | None:
    """Recorded mean and std; None if there are none, or if they do not fit the model's channels."""
    both, c = recorded(model), channels_of(model)
    both = None if both is None else for_channels(both, c)
    return both if both is None or c is None or {len(both[0]), len(both[1])} <= {1, c} else None


def channels_of(model: object) -> int | None:
    """Number of input channels, from the model's first convolution; None without one."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return next((module.in_channels or None for module in modules if isinstance(module, nn.Conv2d)), None)


def lacking(model: Any) -> str | None:
    """Warning for a torchvision or transformers classifier without mean and std; None for other models."""
    package = type(bare(model)).__module__.partition(".")[0]
    if package not in SOURCES:
        return None
    return (
        f"images reach the model in [0, 1], and most models of {package} want them normalised: pass mean and std "
        f"({SOURCES[package]}), or mean=0, std=1 if this one takes them as they are"
    )
