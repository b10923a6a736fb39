"""Peak memory in bytes: on a GPU the memory that PyTorch allocated, else the resident memory of the process."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_PROC = Path("/proc/self")


def start(device: torch.device) -> int:
    """Forget earlier peaks; return the memory in use now. On a CPU only Linux can: elsewhere 0."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    with suppress(OSError):
        (_PROC / "clear_refs").write_text("5", encoding="utf-8")  # resets the high-water mark
    return _status("VmRSS") or 0


def peak(device: torch.device) -> int | None:
    """Return the peak since `start`; without Linux, since the process began; None if the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if (found := _status("VmHWM")) is not None or resource is None:
        return found
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)


def _status(field: str) -> int | None:
    """Read a field of /proc/self/status. Unlike getrusage it is not inherited from the parent process."""
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB", (_PROC / "status").read_text(encoding="utf-8"), re.M)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
