"""Kernels compiled for GPUs without a GPU: NVRTC, which comes with PyTorch for CUDA, called through ctypes.

``python tests/ops/nvrtc.py`` prints registers, shared memory and spills of every kernel on every architecture.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

from gpulime.errors import GpulimeError
from gpulime.ops import source

ARCHITECTURES = (75, 80, 90, 100, 120)
MOST_STACK = 64  # bytes of local memory: a few are spilled by one ptxas or another, an array there takes more

_WARNING = re.compile(r"\bwarning\b")
_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


class Kernel(NamedTuple):
    """The compiler's report on one kernel and one architecture; sizes in bytes."""

    name: str
    registers: int
    shared: int
    stack: int
    spilled: int


@cache
def library():
    """Libnvrtc of the PyTorch that is installed, or None."""
    places = [Path(torch.__file__).parents[1] / "nvidia", Path(torch.__file__).parent / "lib"]
    found = [str(path) for place in places for path in sorted(place.rglob("libnvrtc.so*"))]
    for path in [*found, "libnvrtc.so"]:
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    return None


@cache
def missing(architecture):
    """Reason why nothing can be compiled for an architecture here, found with an empty source; None if it works."""
    if library() is None:
        return "there is no libnvrtc: it comes with PyTorch for CUDA"
    refused, log = _compiled("", "empty.cu", [f"--gpu-architecture=sm_{architecture}"])
    return f"this libnvrtc does not compile for sm_{architecture}: {' '.join(log.split())}" if refused else None


@cache
def kernels(wanted, architecture):
    """The kernels of a source, compiled for an architecture with the options of `source`.

    Raises
    ------
    GpulimeError
        With the compiler's words, files and lines, if it refuses the source or warns of it.
    """
    # As CuPy compiles, which adds -ftz=true. Warnings are looked for in the log: not every NVRTC can make them errors.
    options = [*source.OPTIONS, "-ftz=true", f"--gpu-architecture=sm_{architecture}", "-Xptxas=-v"]
    refused, log = _compiled(wanted.text, wanted.file, options)
    if refused or _WARNING.search(log):
        raise GpulimeError(f"kernels/{wanted.file} does not compile for sm_{architecture}:\n{log}")
    return tuple(_kernel(*part) for part in _parts(log))


def _compiled(text, file, options):
    """NVRTC's status, 0 if it compiled the source, and its log."""
    nvrtc, program = library(), ctypes.c_void_p()
    values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    _sure(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), file.encode(), 0, None, None))
    try:
        status = source.apart(lambda: nvrtc.nvrtcCompileProgram(program, len(options), values))
        size = ctypes.c_size_t()
        _sure(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        _sure(nvrtc.nvrtcGetProgramLog(program, log))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()


def sources():
    """Every source of kernels/ with every set of macros that its launcher compiles it with."""
    for file in sorted(path.name for path in source.folder().glob("*.cu")):
        launcher = importlib.import_module(f"gpulime.ops.{Path(file).stem}")
        for defines in getattr(launcher, "VARIANTS", ({},)):
            yield source.Source(file, tuple(sorted(defines.items())))


def _parts(log):
    """The name of each kernel and its part of the report."""
    names = list(_ENTRY.finditer(log))
    ends = [*(name.start() for name in names[1:]), len(log)]
    return [(name[1], log[name.end() : end]) for name, end in zip(names, ends, strict=True)]


def _kernel(name, said):
    stack, stores, loads = map(int, _SPILLS.search(said).groups())
    registers, shared = (int(number or 0) for number in _USED.search(said).groups())
    return Kernel(name, registers, shared, stack, stores + loads)


def _sure(status):
    if status:
        raise RuntimeError(f"NVRTC answers {status}")


def main():
    """Print the table; 1 if a kernel takes much local memory or cannot be compiled here."""
    much = left_out = 0
    print(f"{'source':44} {'kernel':28} {'sm':>4} {'registers':>9} {'shared':>7} {'stack':>6} {'spilled':>7}")
    for wanted in sources():
        title = " ".join([wanted.file, *(f"{macro}={value}" for macro, value in wanted.defines)])
        for architecture in ARCHITECTURES:
            if reason := missing(architecture):
                print(f"{title:44} not for {architecture}: {reason}")
                left_out += 1
                continue
            for kernel in kernels(wanted, architecture):
                name, *numbers = kernel
                print(f"{title:44} {name:28} {architecture:4} {numbers[0]:9} {numbers[1]:7} {numbers[2]:6} {numbers[3]:7}")
                much += kernel.stack > MOST_STACK
    return int(much > 0 or left_out > 0)


if __name__ == "__main__":
    sys.exit(main())
