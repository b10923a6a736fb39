"""A bare model as torch.compile makes it, beside which gpulime has its own `gpulime.engine.compiled`."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn


def compiled(model: nn.Module, graphs: bool = False) -> nn.Module:
    """The model compiled for batches of fixed sizes; ``graphs``: launched as one CUDA graph."""
    needs_a_compiler()
    made: nn.Module = torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else None)  # type: ignore[assignment]
    return made


def needs_a_compiler() -> None:
    """Raise `ModuleNotFoundError` where torch.compile lacks what it calls."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ModuleNotFoundError(f"torch.compile needs a C++ compiler, and {compiler} is not there")
