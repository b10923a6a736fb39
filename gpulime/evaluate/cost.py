"""Cost of a method: forwards, backwards and seconds, counted from outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from gpulime import device as devices
from gpulime.engine import outputs
from gpulime.evaluate.methods.method import Classifier


@dataclass
class Cost:
    """Cost of a method.

    Attributes
    ----------
    forwards, backwards : int, rows that were passed through the model, and back
    seconds : float, wall time
    """

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0


@contextmanager
def counted(device: torch.device) -> Iterator[Cost]:
    """Count what happens inside: outermost calls of models, and gradients of their outputs.

    Models are modules with parameters, and functions that a method calls as a `Classifier`. The hooks are PyTorch's global
    ones, so methods need not cooperate; they see all threads of the process.
    """
    cost, depth = Cost(), 0

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal depth
        depth -= 1
        found = outputs.found(output)
        is_model = isinstance(module, Classifier) or next(module.parameters(), None) is not None
        if depth or not isinstance(found, Tensor) or not found.ndim or not is_model:
            return
        cost.forwards += len(found)
        if found.requires_grad:
            found.register_hook(back)

    def back(slope: Tensor) -> None:
        cost.backwards += len(slope)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    devices.synchronize(device)
    start = time.perf_counter()
    try:
        yield cost
    finally:
        devices.synchronize(device)
        cost.seconds = time.perf_counter() - start
        for handle in handles:
            handle.remove()
