"""The machine of a measurement, and the peak of its memory."""

from __future__ import annotations

import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gpulime import __version__

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_PROC = Path("/proc/self")


def machine(device: torch.device) -> dict[str, Any]:
    """Name, threads or cores, and versions of libraries."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "kind": device.type,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpulime": __version__,
    }


def processor() -> str:
    """Name of the processor: Linux's, or Python's on other systems."""
    name = _found(Path("/proc/cpuinfo"), r"model name\s*: (.*)")
    return name.strip() if name else platform.processor() or platform.machine()


def forget_peak(device: torch.device) -> int:
    """Forget earlier peaks of memory; return the bytes in use now. On a CPU only Linux can: elsewhere 0."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    with suppress(OSError):
        (_PROC / "clear_refs").write_text("5", encoding="utf-8")  # resets the high-water mark
    return _status("VmRSS") or 0


def peak_memory(device: torch.device) -> int | None:
    """Return the most bytes since `forget_peak`: on a GPU those allocated by PyTorch, else those resident in the process.

    Without Linux it is the peak since the process began; None if the system does not tell.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if (found := _status("VmHWM")) is not None or resource is None:
        return found
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most) * (1 if sys.platform == "darwin" else 1024)


def _status(field: str) -> int | None:
    """Read bytes of /proc/self/status. Unlike getrusage it is not inherited from the parent process."""
    found = _found(_PROC / "status", rf"{field}:\s*(\d+) kB")
    return 1024 * int(found) if found else None


def _found(file: Path, pattern: str) -> str | None:
    """The group of a pattern that begins a line of a file; None without the file or the line."""
    with suppress(OSError):
        if match := re.search(f"^{pattern}", file.read_text(encoding="utf-8"), re.MULTILINE):
            return match[1]
    return None
