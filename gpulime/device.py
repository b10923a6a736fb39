"""The only file that knows whether CUDA or CuPy exist."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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

# Messages of torch's CPU allocator, CUDA, Triton, CuPy and CUDA's libraries if memory runs out.
_NO_MEMORY = re.compile("can't allocate memory|out of memory|(CUBLAS|CUDNN|CUSOLVER)_STATUS_ALLOC_FAILED")

_BFLOAT16 = "avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"  # of x86 and ARM, as PyTorch and Linux call them

PYTORCH = "pip install --force-reinstall torch torchvision"
DRIVER = "check nvidia-smi, and install a newer driver from nvidia.com/drivers"
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
    """The extra of gpulime with the CuPy for torch's CUDA, or None."""
    major = (torch.version.cuda or "").split(".")[0]
    return f"cuda{major}" if major in ("12", "13") else None


@cache
def kernels_missing(device: torch.device) -> str | None:
    """The reason why kernels cannot run on ``device``, with the command that helps; None if they can."""
    instead = f"PyTorch operations do the work of the kernels on {device}, more slowly"
    if device.type != "cuda" or torch.version.hip:
        return f"{instead}: kernels are for NVIDIA GPUs"
    extra = cupy_extra()
    if extra is None:
        found = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return f"{instead}: this PyTorch is {found}, kernels need one for CUDA 12 or 13: {PYTORCH}"
    if not torch.cuda.is_available():
        return f"{instead}: PyTorch sees no driver that serves CUDA {torch.version.cuda}: {DRIVER}"
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
    """The problem with CuPy and the command that helps; None if CuPy works."""
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
    if (reason := _unwritable()) is not None:  # before the import, which makes the folder
        return reason
    try:
        import cupy

        cupy.cuda.nvrtc.getVersion()  # its task is to compile
        major, driver = (get() // 1000 for get in (cupy.cuda.runtime.runtimeGetVersion, cupy.cuda.runtime.driverGetVersion))
    except Exception as error:  # a library that CuPy misses shows in as many ways as there are libraries
        return f"CuPy {found} does not start ({type(error).__name__}: {error}): pip install --force-reinstall {wanted}"
    if f"cuda{major}" != extra:
        return f"{name} is for CUDA {major} and PyTorch for CUDA {torch.version.cuda}: {change}"
    if driver < major:
        return f"the driver serves CUDA {driver} and CuPy is for CUDA {major}: {DRIVER}"
    if not hasattr(cupy.cuda.Stream, "from_external"):
        return f'CuPy {found} is too old: pip install --upgrade "{name}>=14"'
    return None


def _unwritable() -> str | None:
    """The reason why CuPy cannot keep what it compiles, with the remedy; None if it can."""
    if os.environ.get("CUPY_CACHE_IN_MEMORY") == "1":
        return None
    folder = Path(os.environ.get("CUPY_CACHE_DIR") or "~/.cupy/kernel_cache").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"CuPy cannot write to {folder} ({error.strerror}): set CUPY_CACHE_DIR to a folder that can be written"


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory for an op to fill. Tests replace this by one that poisons it with NaN."""
    return torch.empty(shape, dtype=dtype, device=device)


def memory_format(images: torch.Tensor) -> torch.memory_format:
    """The memory format of (n, c, h, w) images: contiguous if both formats describe them, or neither."""
    plain = images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


def filled(rows: torch.Tensor, b: int) -> torch.Tensor:
    """Pad rows to b by repeating the first, in the memory format of ``rows``."""
    if rows.shape[0] == b:
        return rows
    full = torch.empty((b, *rows.shape[1:]), dtype=rows.dtype, device=rows.device, memory_format=memory_format(rows))
    full[: len(rows)] = rows
    full[len(rows) :] = rows[:1]
    return full


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Batches of matrix products; over one column by broadcasting, for which PyTorch 2.14 would need a C compiler on a GPU."""
    return left * right if left.shape[-1] == 1 else left @ right


def read_here(kept: torch.Tensor) -> torch.Tensor:
    """Prepare a tensor made on another stream for reading on torch's current one.

    If it is freed while it is read, its memory is kept until the read is over.
    """
    if kept.is_cuda:
        kept.record_stream(torch.cuda.current_stream(kept.device))
    return kept


@contextmanager
def beside(device: torch.device, given: Iterable[object] = ()) -> Iterator[None]:
    """Run work on data from the host on a side stream, concurrently with earlier work; later work waits for it.

    If a tensor of ``given`` is on a GPU already, it may still be in use, so the current stream stays. Tensors that are made
    inside and used afterwards must pass through `read_here`.
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
    return torch.cuda.Stream(device, priority=-1)  # its small kernels run before the model's next


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
    """``tensor`` on ``device``; for a GPU the copy is asynchronous."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes <= PINNED:
        if 0 in tensor.stride():  # PyTorch pins no expanded tensor
            tensor = tensor.contiguous()
        return tensor.pin_memory().to(device, non_blocking=True)  # PyTorch keeps the pinned memory until it has been read
    return tensor.to(device)


def fetching(tensors: Sequence[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """Begin to copy tensors to the CPU; the returned function waits for the copy, but not for later work of the GPU.

    Tensors of a GPU arrive in pinned memory: clone those that are kept, since PyTorch never gives such memory back.
    """
    gpus = {tensor.device for tensor in tensors if tensor.is_cuda}
    if not gpus or sum(tensor.nbytes for tensor in tensors) > PINNED:
        return lambda: [tensor.cpu() for tensor in tensors]
    here = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    copied = [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

    def fetched() -> list[torch.Tensor]:
        for event in copied:
            event.synchronize()
        return here

    return fetched


def name(device: torch.device) -> str:
    """A name for the speed of ``device``: the GPU, or the CPU's instructions and PyTorch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.backends.cpu.get_cpu_capability()} with {torch.get_num_threads()} threads"


@cache
def cpu_bfloat16() -> bool | None:
    """True if the CPU has instructions that multiply bfloat16; None if unknown to PyTorch and the system."""
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
    """Total memory of ``device`` in bytes, used or not; infinite if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # on Windows there is no sysconf
        return float("inf")


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Plain arithmetic: no gradients, and no autocast of the caller."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


@cache
def keep_memory() -> None:
    """Let glibc keep freed blocks of up to 1 GB on a CPU, for the rest of the process.

    By default it returns large blocks to the system, so every layer of a model maps and clears its output's memory again. The
    setting affects the whole process. Environments with settings of their own are left alone.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not chosen:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has finished; returns at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def lost(error: BaseException, device: torch.device) -> bool:
    """True if the CUDA context is unusable (illegal access, device-side assert, ECC error); then ``error`` is kept for good.

    Such errors appear late, in any following call, and may be the cause of another error. So the causes of ``error`` are
    checked, too, and a GPU is synchronised. For work on a CPU an error must name CUDA: a function may use a GPU of its own.
    """
    if _names_loss(error, device) or _fails(device):
        keep_for_good(error)
        return True
    return False


def _names_loss(error: BaseException, device: torch.device) -> bool:
    behind: BaseException | None = error
    while behind is not None:
        text = str(behind) if isinstance(behind, RuntimeError) else ""
        if _LOST.search(text) and (device.type == "cuda" or _CUDA.search(text)):
            return True
        behind = behind.__cause__ or behind.__context__
    return False


def _fails(device: torch.device) -> bool:
    try:
        synchronize(device)
    except RuntimeError:
        return True
    return False


def keep_for_good(held: object) -> None:
    """Never free ``held``, nor what it refers to, such as the tensors in the frames of an error.

    Memory that a second stream or a copy to the host has used is freed with an event. On a lost GPU that event fails, and
    PyTorch ends the process by SIGABRT: finished rows would not be written, and the exit code would be wrong.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def out_of_memory(error: BaseException) -> bool:
    """True if memory ran out; CuPy raises a MemoryError, torch's CPU allocator and CUDA's libraries a RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
