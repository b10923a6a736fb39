"""The machine of a measurement."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

from gpulime import __version__


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
    try:
        name = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        name = None
    return name[1].strip() if name else platform.processor() or platform.machine()
