"""The most memory that was taken: of a GPU, what PyTorch gave out; else the process's own, in bytes."""

from __future__ import annotations

import sys

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def start(device: torch.device) -> None:
    """Forget earlier peaks, which only a GPU can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """The peak since `start`; of a CPU, since the process began; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if resource is None:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)
