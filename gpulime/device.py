"""The only file that knows whether CUDA or CuPy exist."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gpulime.errors import GpulimeError

PINNED = 2**27  # bytes of the host's memory that a copy may pin: PyTorch never gives it back
OLDEST = 7, 5  # the compute capability that kernels are written for, and later ones

# What CUDA says, by torch's mouth and CuPy's, of errors after which every later call of the process fails.
_LOST = re.compile(
    "illegal memory access|illegal instruction|misaligned address|global/shared address space|invalid program counter|"
    "device-side assert|hardware stack error|launch failure|launch timed out|uncorrectable|"
    "IllegalAddress|ILLEGAL_ADDRESS|LaunchFailure|LAUNCH_FAILED|ECCUncorrectable|ECC_UNCORRECTABLE",
)

_CUDA = re.compile("CUDA error|CUDA_ERROR|cudaError|CUDA driver error")  # names it in an error

# What torch's CPU allocator and CUDA's libraries say where memory runs out; others have an error of their own for it.
_NO_MEMORY = "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"

_BFLOAT16 = "avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"  # of x86 and ARM, as PyTorch and Linux call them

_PYTORCH = "pip install --force-reinstall torch torchvision"
_DRIVER = "check nvidia-smi, and install a newer driver from nvidia.com/drivers"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def installed(package: str) -> str | None:
    """The installed version of ``package`` (a distribution's name), or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def cupy_wheels() -> dict[str, str]:
    """The CuPy packages that are installed, with their versions."""
    return {name: found for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy") if (found := installed(name))}


def cupy_extra() -> str | None:
    """The extra of gpulime that brings the CuPy of torch's CUDA, or None where there is none."""
    major = (torch.version.cuda or "").split(".")[0]
    return f"cuda{major}" if major in ("12", "13") else None


@cache
def kernels_missing(device: torch.device) -> str | None:
    """Why the kernels cannot run on ``device``, with the command that mends it; None where they can."""
    instead = f"PyTorch operations do the work of the kernels on {device}, more slowly"
    if device.type != "cuda" or torch.version.hip:
        return f"{instead}: kernels are for NVIDIA GPUs"
    extra = cupy_extra()
    if extra is None:
        found = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return f"{instead}: this PyTorch is {found}, kernels need one for CUDA 12 or 13: {_PYTORCH}"
    if not torch.cuda.is_available():
        return f"{instead}: PyTorch sees no driver that serves CUDA {torch.version.cuda}: {_DRIVER}"
    if (reason := _cupy_missing(extra)) is not None:
        return f"{instead}: {reason}"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        found, oldest = (".".join(map(str, pair)) for pair in (capability, OLDEST))
        name = torch.cuda.get_device_name(device)
        return (
            f"{instead}: {name} is of compute capability {found}, and kernels need {oldest} or later; no package changes that"
        )
    return None


def _cupy_missing(extra: str) -> str | None:
    """What is wrong with CuPy, and the command that mends it; None where nothing is."""
    wheels, wanted, install = cupy_wheels(), f"cupy-{extra}x", f'pip install "gpulime[{extra}]"'
    if not wheels:
        return f"CuPy is not installed: {install}"
    others = [name for name in wheels if name != wanted]
    if wanted in wheels and others:
        remove = f"pip uninstall -y {' '.join(others)}"
        return f"{' and '.join(others)} is in the way of {wanted}: {remove} && pip install --force-reinstall {wanted}"
    name, found = next(iter(wheels.items()))
    change = f"pip uninstall -y {' '.join(wheels)} && {install}"
    if name in ("cupy-cuda12x", "cupy-cuda13x") and name != wanted:
        return f"{name} is installed and PyTorch is for CUDA {torch.version.cuda}: {change}"
    try:
        import cupy

        cupy.cuda.nvrtc.getVersion()  # it is there to compile
        major, driver = (get() // 1000 for get in (cupy.cuda.runtime.runtimeGetVersion, cupy.cuda.runtime.driverGetVersion))
    except Exception as error:  # a library that CuPy misses shows in as many ways as there are libraries
        return f"CuPy {found} does not start ({type(error).__name__}: {error}): pip install --force-reinstall {wanted}"
    if f"cuda{major}" != extra:
        return f"{name} is for CUDA {major} and PyTorch for CUDA {torch.version.cuda}: {change}"
    if driver < major:
        return f"the driver serves CUDA {driver} and CuPy is for CUDA {major}: {_DRIVER}"
    if not hasattr(cupy.cuda.Stream, "from_external"):
        return f'CuPy {found} is too old: pip install --upgrade "{name}>=14"'
    return None


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory for an op to fill. Tests replace this by one that poisons it with NaN."""
    return torch.empty(shape, dtype=dtype, device=device)


def read_here(kept: torch.Tensor) -> torch.Tensor:
    """A tensor that may have been made on another stream, about to be read on torch's current one.

    Should it be dropped while it is read here, its memory waits for that.
    """
    if kept.is_cuda:
        kept.record_stream(torch.cuda.current_stream(kept.device))
    return kept


@contextmanager
def beside(device: torch.device, given: Iterable[object] = ()) -> Iterator[None]:
    """Inside, a GPU works beside what it was asked for before, on what comes from the host; what comes after waits for it.

    Where a tensor of ``given`` is on a GPU already, what makes it may still be at work, and everything stays in turn. What is
    made inside and used afterwards must pass through `read_here`.
    """
    if device.type != "cuda" or any(isinstance(one, torch.Tensor) and one.is_cuda for one in given):
        yield
        return
    here, aside = torch.cuda.current_stream(device), _aside(device)
    with torch.cuda.stream(aside):
        yield
    here.wait_stream(aside)


@cache
def _aside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)  # its small pieces of work go before the model's next


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


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``; a GPU fetches it when it comes to it, and the host does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes <= PINNED:
        return tensor.pin_memory().to(device, non_blocking=True)  # PyTorch keeps the pinned memory until it has been read
    return tensor.to(device)


def fetching(tensors: Sequence[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """Begin to copy tensors to the CPU; the call of what is returned waits for them, and not for what a GPU is asked later."""
    gpus = {tensor.device for tensor in tensors if tensor.is_cuda}
    if not gpus or sum(tensor.nbytes for tensor in tensors) > PINNED:
        return lambda: [tensor.cpu() for tensor in tensors]
    here = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    copied = [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

    def fetched() -> list[torch.Tensor]:
        for event in copied:
            event.synchronize()
        return [tensor.clone() if tensor.is_pinned() else tensor for tensor in here]  # whoever keeps them shall not pin memory

    return fetched


def name(device: torch.device) -> str:
    """What decides how fast ``device`` is: the GPU, or the CPU's instructions and the threads that PyTorch has there."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.backends.cpu.get_cpu_capability()} with {torch.get_num_threads()} threads"


@cache
def cpu_bfloat16() -> bool | None:
    """Whether the CPU has instructions that multiply bfloat16; None where neither PyTorch nor the system says."""
    if (ask := getattr(torch.cpu, "get_capabilities", None)) is not None:  # PyTorch 2.6 has none
        has = ask()
        known = [has[name] for name in _BFLOAT16 if name in has]
        return any(known) if known else None
    try:
        flags = re.search(r"^(?:flags|Features)\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        return None
    return None if flags is None else not set(_BFLOAT16).isdisjoint(flags[1].split())


def memory(device: torch.device) -> float:
    """The bytes that ``device`` has, whoever uses them; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # on Windows there is no sysconf
        return float("inf")


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


def lost(error: BaseException, device: torch.device) -> bool:
    """Whether ``device`` serves this process no more, after an illegal access, a failed assert in a kernel, broken memory ...

    Such errors come late, in whatever asks next, and one of theirs may hide behind another: so those behind ``error`` count
    too, and a GPU is asked. Where the work is done on a CPU, an error must name CUDA: a function may use a GPU of its own.
    """
    behind: BaseException | None = error
    while behind is not None:
        text = str(behind) if isinstance(behind, RuntimeError) else ""
        if _LOST.search(text) and (device.type == "cuda" or _CUDA.search(text)):
            return True
        behind = behind.__cause__ or behind.__context__
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what happened; CuPy raises a MemoryError, torch's CPU allocator and CUDA's libraries a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _NO_MEMORY)


class Stopwatch:
    """Adds up how long a device was at something, without waiting for it; what a lost device was at is not known."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Around what is timed; nothing is added where it fails."""
        if device.type == "cpu":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        stream = torch.cuda.current_stream(device)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(stream)
        yield
        end.record(stream)
        self._open.append((begin, end))
        self._close()

    @property
    def seconds(self) -> float:
        """What has been added up; on a GPU, what it has finished."""
        self._close()
        return self._seconds

    def __getstate__(self) -> dict[str, Any]:
        return {"_seconds": self.seconds, "_open": deque()}  # events are of one process

    def _close(self) -> None:
        try:
            while self._open and self._open[0][1].query():
                begin, end = self._open.popleft()
                self._seconds += begin.elapsed_time(end) / 1000
        except RuntimeError:  # the device is lost, which whoever works with it says
            self._open.clear()


def describe() -> dict[str, Any]:
    """What this machine has, which path will run on it, and the command that would make it faster."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    missing = kernels_missing(torch.device("cuda"))
    wheels = ", ".join(f"{name} {found}" for name, found in cupy_wheels().items())
    bfloat16 = {
        True: "instructions for bfloat16",
        False: "no instructions for bfloat16: float32 is likely as fast",
        None: "nothing is known of instructions for bfloat16",
    }[cpu_bfloat16()]
    if gpu is None:
        path = f"PyTorch on the CPU, {torch.get_num_threads()} threads"
        advice = (
            f"no GPU is visible to PyTorch: {_DRIVER}, or run on a machine that has one"
            if torch.version.cuda
            else f"this build of PyTorch has no CUDA: {_PYTORCH}"
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
        "cupy": wheels or (f'not installed: pip install "gpulime[{extra}]"' if (extra := cupy_extra()) else None),
        "path": path,
        "advice": advice,
    }
