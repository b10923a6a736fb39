"""The only file that knows whether CUDA or CuPy exist."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from gpulime.errors import GpulimeError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def installed(package: str) -> str | None:
    """The installed version of ``package`` (a distribution's name), or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def cupy_version() -> str | None:
    """The version of whichever CuPy wheel is installed, or None."""
    return next((found for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy") if (found := installed(name))), None)


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory for an op to fill. Tests replace this by one that poisons it with NaN."""
    return torch.empty(shape, dtype=dtype, device=device)


def named(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises
    ------
    GpulimeError
        If there is no such device, or not on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise GpulimeError(f"device must be 'cpu', 'cuda' or 'cuda:N'; got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise GpulimeError(f"device must be 'cpu', 'cuda' or 'cuda:N'; got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise GpulimeError(f"device is {name!r}, and PyTorch sees {torch.cuda.device_count()} GPUs: gpulime doctor says more")
    return device


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Arithmetic as it is written: no gradients, and no autocast of the caller's."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


@cache
def keep_memory() -> None:
    """Let glibc keep the memory of up to 1 GB blocks that are freed on a CPU, for the rest of the process.

    By itself it hands large blocks back to the system, and then every layer of a model maps and clears its output's memory
    anew. The setting is the whole process's. Environments that choose for themselves are left alone.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not chosen:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has done what was asked of it; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe() -> dict[str, Any]:
    """What this machine has, which path will run on it, and the command that would make it faster."""
    cuda = torch.version.cuda
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    extra = f"cuda{cuda.split('.')[0]}" if cuda and cuda.split(".")[0] in ("12", "13") else None
    if gpu is None:
        path = f"PyTorch on the CPU, {torch.get_num_threads()} threads"
        advice = (
            "no GPU is visible to PyTorch: check nvidia-smi and the driver, or run on a machine that has one"
            if cuda
            else "this build of PyTorch has no CUDA: pip install --force-reinstall torch torchvision"
        )
    else:
        path = f"PyTorch operations on {gpu}"
        advice = "nothing faster is available in this version"
    return {
        "python": platform.python_version(),
        "gpulime": installed("gpulime"),
        "torch": torch.__version__,
        "torchvision": installed("torchvision"),
        "skimage": installed("scikit-image"),
        "cuda": cuda,
        "gpu": gpu,
        "cupy": cupy_version() or (f'not installed (extra {extra}: pip install "gpulime[{extra}]")' if extra else None),
        "path": path,
        "advice": advice,
    }
