"""CUDA sources of ``kernels/``: found, joined with their headers, compiled once per device, launched on torch's stream."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.errors import GpulimeError, check

# Arithmetic as it is written: a product and a sum are fused only by an explicit __fmaf_rn.
OPTIONS = ("-std=c++17", "-fmad=false")

Argument = Tensor | int | float | np.generic | None
Defines = tuple[tuple[str, str], ...]
T = TypeVar("T")

_PACKAGE = Path(__file__).parents[1]
_INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"\s*')
_MOST_BLOCKS = (2**31 - 1, 65_535, 65_535)  # of a grid, in x, y and z
_MOST_THREADS = 1024  # of a block


class Module(Protocol):
    """A compiled source."""

    def run(self, name: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Argument], shared: int) -> None:
        """Launch its function ``name``."""


class Source(NamedTuple):
    """A file of ``kernels/`` and the macros it is compiled with."""

    file: str
    defines: Defines = ()

    @property
    def text(self) -> str:
        """The text to compile: the macros, then the file with its headers in place of their includes."""
        return "".join(f"#define {macro} {value}\n" for macro, value in self.defines) + joined(self.file)


def launch(
    file: str,
    name: str,
    grid: Sequence[int],
    block: Sequence[int],
    args: Sequence[Argument],
    *,
    defines: Mapping[str, str] | None = None,
    shared: int = 0,
    device: torch.device,
) -> None:
    """Launch a kernel on torch's current stream of a device.

    Parameters
    ----------
    file : str
        A file of ``kernels/``, such as "masked_images.cu".
    name : str
        An ``extern "C" __global__`` function in it.
    grid, block : 1 to 3 ints
        Blocks of the grid, threads of a block.
    args : sequence
        A tensor is passed as the address of its first element, None as a null pointer, an int as ``long long``, a float as
        ``float``, an np.float64 as ``double``, an np.int32 as ``int``.
    defines : mapping of macro to text
        The source is compiled once for each file, defines and device.
    shared : int
        Bytes of dynamic shared memory of a block.
    device : torch.device
        That of all tensors.

    Raises
    ------
    GpulimeError
        If the source does not compile (with its file and line), a tensor is elsewhere, or a grid or block cannot be launched.
    """
    home = torch.device("cuda", _index(device)) if device.type == "cuda" else device
    for place, arg in enumerate(args):
        if isinstance(arg, Tensor) and arg.device != home:
            raise GpulimeError(f"{name}: argument {place} is on {arg.device} and the launch on {device}")
    blocks, threads = _three(grid), _three(block)
    fit = min(blocks + threads) >= 1 and all(map(operator.le, blocks, _MOST_BLOCKS))
    check(
        fit and math.prod(threads) <= _MOST_THREADS,
        lambda: f"{name}: a grid of {tuple(grid)} blocks of {tuple(block)} threads cannot be launched",
    )
    module(file, defines or {}, device).run(name, blocks, threads, args, shared)


def module(file: str, defines: Mapping[str, str], device: torch.device) -> Module:
    """A file of ``kernels/``, compiled with its macros for a device. Its ``run`` checks nothing; `launch` does."""
    return compiled(Source(file, tuple(sorted(defines.items()))), device)


def available(device: torch.device) -> bool:
    """Report if kernels can run on ``device``; on a GPU without them, warn once with the command that installs them."""
    missing = devices.kernels_missing(device)
    if missing is not None and device.type == "cuda":
        _warn_once(missing)
    return missing is None


@cache
def folder() -> Path:
    """``kernels/``: in a wheel inside the package, in a checkout beside it."""
    places = (_PACKAGE / "kernels", _PACKAGE.parent / "kernels")
    for place in places:
        if any(place.glob("*.cu")):
            return place
    raise GpulimeError(f"no *.cu in {' or '.join(map(str, places))}: the installation of gpulime is not whole")


def joined(file: str) -> str:
    """A source of `folder` with the text of every header in place of its first include.

    ``#line`` keeps files and lines of compile errors right. Headers are joined here since CuPy keys its cache of compiled
    sources by their text, in which an include would not show that its header has changed.
    """
    return _joined(file, set())


def _joined(file: str, seen: set[str]) -> str:
    seen.add(file)
    lines = [f'#line 1 "{file}"']
    for number, line in enumerate((folder() / file).read_text(encoding="utf-8").splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append(line)
        elif include[1] not in seen:
            lines += [_joined(include[1], seen), f'#line {number + 1} "{file}"']
        else:
            lines.append("")
    return "\n".join(lines) + "\n"


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def compiled(source: Source, device: torch.device) -> Module:
    """The source, compiled for a device. Tests replace this by one that compiles for the CPU."""
    return _compiled(source, _index(device))


@cache
def _compiled(source: Source, index: int) -> Module:
    return _CupyModule(source, index)


def apart(compile_one: Callable[[], T]) -> T:
    """Call NVRTC in a thread of its own and return the result.

    NVRTC of CUDA 12.4 leaves the locale "C" in the thread that called it: text files opened there would be ASCII from then on.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(compile_one).result()


def _index(device: torch.device) -> int:
    if device.index is None and device.type == "cuda":
        return torch.cuda.current_device()
    return device.index or 0


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = [*map(int, shape), 1, 1][:3]
    return x, y, z


class _CupyModule:
    """A source that CuPy compiles and launches; torch owns memory, device and stream."""

    def __init__(self, source: Source, index: int) -> None:
        import cupy

        self.source, self.index = source, index
        self.module = cupy.RawModule(code=source.text, options=OPTIONS)
        self.functions: dict[str, Any] = {}
        self.most_shared: dict[str, int] = {}  # bytes of dynamic shared memory, beside a function's own
        try:
            apart(self._compile)
        except cupy.cuda.compiler.CompileException as error:
            gpu = torch.cuda.get_device_name(index)
            raise GpulimeError(f"kernels/{source.file} does not compile for {gpu}:\n{error}") from error

    def _compile(self) -> None:
        with torch.cuda.device(self.index):
            self.module.compile()

    def run(self, name: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Argument], shared: int) -> None:
        import cupy

        with torch.cuda.device(self.index), cupy.cuda.Stream.from_external(_CurrentStream(self.index)):
            function = self.functions.get(name)
            if function is None:
                function = self.functions[name] = self.module.get_function(name)
                self.most_shared[name] = function.max_dynamic_shared_size_bytes
            if shared > self.most_shared[name]:  # more has to be asked for
                function.max_dynamic_shared_size_bytes = self.most_shared[name] = shared
            function(tuple(grid), tuple(block), tuple(map(_passed, args)), shared_mem=shared)


class _CurrentStream:
    """Torch's current stream of a device, by the CUDA stream protocol, which torch's own streams follow only since 2.10."""

    def __init__(self, index: int) -> None:
        self.pointer = torch.cuda.current_stream(index).cuda_stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def _passed(arg: Argument) -> Any:
    """Convert an argument for CuPy: its int is a ``long long`` (or a pointer), and a float would be a ``double``."""
    if isinstance(arg, Tensor):
        return arg.data_ptr()
    if arg is None or isinstance(arg, int):
        return int(arg or 0)  # a bool too, which would be one byte
    return np.float32(arg) if type(arg) is float else arg
