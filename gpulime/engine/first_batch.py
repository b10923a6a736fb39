"""Warnings after the model's first batch, if explanations will be slow or wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from gpulime import device as devices


def warn(outputs: Tensor, activation: str | Callable[[Tensor], Tensor] | None, precision: torch.dtype, is_steady: bool) -> None:
    """Warn about a random model, about a precision that this CPU lacks, and about a second softmax.

    Parameters
    ----------
    outputs : (b, classes)
        Outputs of the first batch, before their activation.
    is_steady : bool
        False if the model gave different outputs for the same input.
    """
    if not is_steady:
        warnings.warn(
            "the model gives different outputs for the same input: is dropout or BatchNorm in train mode? "
            "Call model.eval() if you pass a function around a model; otherwise explanations are noise",
            stacklevel=3,
        )
    if precision == torch.bfloat16 and outputs.device.type == "cpu" and devices.cpu_bfloat16() is False:
        warnings.warn(
            "this CPU has no instructions for bfloat16: precision='float32' is likely as fast; gpulime bench measures it",
            stacklevel=3,
        )
    near = max(1e-3, 2 * torch.finfo(outputs.dtype).eps)
    if activation == "softmax" and bool(((outputs >= 0).all(1) & ((outputs.float().sum(1) - 1).abs() < near)).all()):
        warnings.warn(
            "the model's outputs already sum to one, so activation='softmax' would apply softmax twice: pass activation=None",
            stacklevel=3,
        )
