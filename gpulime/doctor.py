"""``gpulime doctor``: versions and device of this machine, the path that runs on it, and the command for a faster one."""

from __future__ import annotations

import platform
from typing import Any

import torch

from gpulime import device
from gpulime.device import installed


def describe() -> dict[str, Any]:
    """Facts of this machine, the path that will run on it, and the command for a faster one."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    missing = device.kernels_missing(torch.device("cuda"))
    wheels = ", ".join(f"{name} {found}" for name, found in device.cupy_wheels().items())
    bfloat16 = {
        True: "instructions for bfloat16",
        False: "no instructions for bfloat16: float32 is likely as fast",
        None: "nothing is known of instructions for bfloat16",
    }[device.cpu_bfloat16()]
    if gpu is None:
        path = f"PyTorch on the CPU, {torch.get_num_threads()} threads"
        advice = (
            f"no GPU is visible to PyTorch: {device.DRIVER}, or run on a machine that has one"
            if torch.version.cuda
            else f"this build of PyTorch has no CUDA: {device.PYTORCH}"
        )
    else:
        path = f"PyTorch operations on {gpu}" if missing else f"kernels compiled by CuPy on {gpu}"
        advice = missing or "nothing faster is available in this version"
    return {
        "python": platform.python_version(),
        "gpulime": installed("gpulime"),
        "torch": torch.__version__,
        "torchvision": installed("torchvision"),
        "skimage": installed("scikit-image"),
        "cpu": f"{torch.backends.cpu.get_cpu_capability()}, {bfloat16}",
        "cuda": torch.version.cuda,
        "gpu": gpu,
        "cupy": wheels or (f'not installed: pip install "gpulime[{extra}]"' if (extra := device.cupy_extra()) else None),
        "path": path,
        "advice": advice,
    }
