"""Ownership of a model: if nobody else uses it, it may be converted, and frozen on a GPU.

`gpulime explain` and `gpulime bench` make their models and own them. A library user's model is never converted, and not frozen
on a GPU: it may be trained between two explanations, and a write through ``.data`` shows only in the weights' content, which
the host cannot compare without waiting for the device.

The precision of an owned model is autocast's, too: a frozen graph keeps the weights as autocast casts them. Converting only the
convolutions and linear layers to bfloat16 gives the same numbers, bit for bit. Converting the whole model is worse: on a CPU
the highest probability of EfficientNet-Lite0 then errs by 4.1 % of itself, the mean of 64 images; with autocast by 3.1 %.
"""

from __future__ import annotations

from weakref import WeakSet

import torch
from torch import nn

_owned: WeakSet[nn.Module] = WeakSet()


def own(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model that nobody else uses to its device, for good; on a GPU in the memory format of its rows."""
    model = model.to(device)
    _owned.add(model)
    if device.type == "cuda":  # else cuDNN converts the weights in each call, since the rows are in channels_last
        convert(model, torch.channels_last)
    return model


def is_owned(model: nn.Module) -> bool:
    """Tell if nobody but gpulime, and the model itself, writes to the weights."""
    return model in _owned


def convert(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Convert the weights of 2D convolutions, if the model is owned."""
    for part in model.modules() if is_owned(model) else ():
        if isinstance(part, nn.Conv2d):
            part.to(memory_format=memory_format)
