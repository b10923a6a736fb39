"""A model as torch.compile makes it; the one place to change when gpulime compiles models itself."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn


def compiled(model: nn.Module, graphs: bool = False) -> nn.Module:
    """The model compiled for batches of fixed sizes; ``graphs``: launched as one CUDA graph."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ModuleNotFoundError(f"torch.compile needs a C++ compiler, and {compiler} is not there")
    made: nn.Module = torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else None)  # type: ignore[assignment]
    return made
