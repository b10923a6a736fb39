"""Home of a model: the device of the work."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gpulime.errors import check


def home(weights: Iterable[Tensor], wanted: torch.device | None, inputs: Tensor) -> torch.device:
    """Device of the work: the one that was asked for, else the weights', else that of the inputs.

    Raises
    ------
    GpulimeError
        If a layer is lazy, the weights are on another device than ``wanted``, or the device is no CPU and no NVIDIA GPU.
    """
    weights = list(weights)
    lazy = any(isinstance(t, nn.UninitializedParameter | nn.UninitializedBuffer) for t in weights)
    check(not lazy, "the model has lazy layers without weights: call it once, or load its weights first")
    theirs = next((t.device for t in weights), None)
    if theirs is not None and wanted is not None:
        same = theirs.type == wanted.type and wanted.index in (None, theirs.index)
        check(
            same,
            f"the model is on {theirs} and device={str(wanted)!r} was asked for; move it with model.to({str(wanted)!r})",
        )
    device = theirs or wanted or inputs.device
    check(device.type in ("cpu", "cuda"), f"gpulime works on 'cpu' and 'cuda'; got {str(device)!r}: move it there with .to")
    return device
