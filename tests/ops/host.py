"""Kernels without a GPU: a source of kernels/ compiled by g++, with host.hpp before it, and launched on CPU tensors.

It takes the place of `gpulime.ops.source.compiled`, so that launchers run as they are.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import struct
import subprocess
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch

from gpulime.errors import GpulimeError

HEADER, PROGRAM = (Path(__file__).with_name(name) for name in ("host.hpp", "binary.hpp"))
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
FLAGS = (*FLAGS, "-Wno-unused-function", "-Wno-unused-variable")
FLAGS = (*FLAGS, "-U_FORTIFY_SOURCE")  # which some systems set, and which refuses a jump to another stack

_ENTRY = re.compile(
    r'extern\s+"C"\s+__global__\s+(?:void\s+(?:__launch_bounds__\([^)]*\)\s+)?|__launch_bounds__\([^)]*\)\s+void\s+)(\w+)'
)
_SHARED = re.compile(r"\bO host_shared\s+(\w+)\s+(\w+)(.*)")  # of objdump: a variable's size, the function that has it
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w\s]+?)\s+(\w+)\[\]\s*;")


# Out-of-bounds reads or writes, and undefined behaviour of C++, such as an address not aligned for its 16 bytes.
SANITIZE = (
    "-g",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-fsanitize-sections=host_shared",
)
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
ARGUMENT = struct.Struct("=c7xqqq8s")
MOST_SHARED = 48 * 1024  # bytes that a block of any GPU has unless a launch asks for more


class CompileError(GpulimeError):
    """g++ refuses a source."""


class Library:
    """A source compiled as a shared library; the functions run in this process, on CPU tensors."""

    def __init__(self, source):
        self.source, self.path = source, built(source, ("-shared", "-fPIC"), "")
        self.library = loaded(self.path)

    def run(self, name, grid, block, args, shared):
        check_shared(self, name, shared)
        self.call(name, grid, block, list(map(passed, args)), shared)

    def call(self, name, grid, block, arguments, shared):
        """Launch with arguments as `passed` gives them."""
        kinds, values = zip(*arguments, strict=True) if arguments else ("", ())
        addresses = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(value) for value in values))
        function = getattr(self.library, f"host_launch_{name}")
        function.restype = ctypes.c_char_p
        sizes = (ctypes.c_uint * 6)(*grid, *block)
        failure = function(sizes, ctypes.c_uint(shared), "".join(kinds).encode(), addresses)
        if failure is not None:
            raise GpulimeError(f"{self.source.file}: {name}: {failure.decode()}")


class Program:
    """A source compiled as a program of its own under AddressSanitizer and UndefinedBehaviorSanitizer, run once a launch."""

    def __init__(self, source):
        self.source, self.path = source, built(source, SANITIZE, f'#include "{PROGRAM}"\n')

    def run(self, name, grid, block, args, shared):
        check_shared(self, name, shared)
        written = [struct.pack("=64s8I", name.encode(), *grid, *block, shared, len(args))]
        places, tensors = {}, []
        for i, arg in enumerate(args):
            kind, value = passed(arg)
            if not isinstance(arg, torch.Tensor):
                written.append(ARGUMENT.pack(kind.encode(), -1, -1, 0, bytes(value).ljust(8, b"\0")))
                continue
            extent = arg.data_ptr(), span(arg)
            same = places.setdefault(extent, i)
            written.append(ARGUMENT.pack(b"p", -1 if same == i else same, extent[1], extent[0] % 16, bytes(8)))
            if same == i:
                written.append(ctypes.string_at(*extent))
                tensors.append(extent)
        with tempfile.TemporaryDirectory(dir=folder()) as place:
            paths = Path(place, "launch"), Path(place, "result")
            paths[0].write_bytes(b"".join(written))
            done = subprocess.run([self.path, *paths], capture_output=True, encoding="utf-8", check=False, env=ENVIRONMENT)
            if done.returncode:
                raise GpulimeError(f"{self.source.file}: {name}: {done.stderr}")
            result = paths[1].read_bytes()
        for address, size in tensors:
            ctypes.memmove(address, result[:size], size)
            result = result[size:]


def check_shared(module, name, dynamic):
    """Refuse a launch whose blocks need more shared memory than every GPU has for them."""
    own = static_shared(module.path)
    static = own.get(name, 0) + own.get("", 0)
    if static + dynamic > MOST_SHARED:
        needs = f"{static:,} bytes of shared memory and {dynamic:,} dynamic ones"
        raise GpulimeError(f"{module.source.file}: {name}: needs {needs} a block, more than {MOST_SHARED:,}")


@cache
def static_shared(path):
    """Bytes of shared variables of each kernel in a file; under "" the bytes of all functions that kernels call."""
    listed = subprocess.run(["objdump", "--syms", "--demangle", path], capture_output=True, encoding="utf-8", check=True)
    sizes = Counter()
    for size, function, rest in _SHARED.findall(listed.stdout):
        sizes[function if rest.startswith("::") else ""] += int(size, 16)
    return sizes


def span(tensor):
    """The bytes from a tensor's first element to its last."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in steps)) * tensor.element_size()


def passed(arg):
    """The kind of an argument, as host.hpp names it, and its value for C."""
    if arg is None or isinstance(arg, torch.Tensor):
        return "p", ctypes.c_void_p(None if arg is None else arg.data_ptr())
    if type(arg) is float:
        return "f", ctypes.c_float(arg)
    if isinstance(arg, np.generic):
        kind, made = {np.float64: ("d", ctypes.c_double), np.float32: ("f", ctypes.c_float), np.int32: ("i", ctypes.c_int)}[
            type(arg)
        ]
        return kind, made(arg.item())
    return "l", ctypes.c_longlong(int(arg))


def poison(dtype):
    """A value for memory that nothing has been written to: NaN, or a number that no result has."""
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return True if dtype == torch.bool else 255 if dtype == torch.uint8 else torch.iinfo(dtype).max - 1


def text(source):
    """C++ of a source: `extern __shared__` made a pointer, and a function ``host_launch_NAME`` for each kernel."""
    kernels = source.text
    entries = _ENTRY.findall(kernels)
    kernels = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(host::dynamic_shared);", kernels)
    launchers = "\n".join(
        f'extern "C" const char* host_launch_{name}(const unsigned* sizes, unsigned shared, const char* kinds, void** args) '
        f"{{ return host::launch({name}, sizes, shared, kinds, args); }}"
        for name in entries
    )
    table = ", ".join(f'{{"{name}", host_launch_{name}}}' for name in entries)
    launchers += f"\nnamespace host {{ static const Entry entries[] = {{{table}}}; }}"
    return f'#include "{HEADER.name}"\n{kernels}\n#line 1 "launchers"\n{launchers}\n'


@cache
def folder():
    """A folder of this process, until it ends."""
    place = tempfile.TemporaryDirectory(prefix="gpulime-kernels-")
    _kept.append(place)
    return Path(place.name)


_kept = []
_UNUSED = 30 * 86400  # seconds


@cache
def cached():
    """The folder of compiled sources, kept between processes; those that have not been used for a month are deleted."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gpulime-tests")
    try:
        place.mkdir(parents=True, exist_ok=True)
        for made in place.iterdir():
            if made.stat().st_mtime < time.time() - _UNUSED:
                made.unlink(missing_ok=True)
    except OSError:
        return folder()
    return place


@cache
def _compiler():
    return subprocess.run(["g++", "--version"], capture_output=True, encoding="utf-8", check=True).stdout


def built(source, flags, suffix):
    """The file that g++ makes of a source and a suffix; once for each text."""
    code = text(source) + suffix
    return _built(code, HEADER.read_text() + PROGRAM.read_text(), flags)


@cache
def loaded(path):
    """A shared library: once, since its fibers stay with it."""
    return ctypes.CDLL(str(path))


@cache
def _built(code, header, flags):
    name = hashlib.sha256(repr((code, header, flags, FLAGS, _compiler())).encode()).hexdigest()[:20]
    made = cached() / f"{name}.bin"
    if made.exists():
        made.touch()
        return made
    written, part = folder() / f"{name}.cpp", cached() / f"{name}.{os.getpid()}"
    written.write_text(code)
    _compile(*flags, "-I", _headers(flags), written, "-o", part)
    return part.replace(made)


@cache
def _headers(flags):
    """A folder with host.hpp, compiled before: it takes as long as a kernel."""
    place = Path(tempfile.mkdtemp(dir=folder()))
    (place / HEADER.name).write_text(f'#include "{HEADER}"\n')
    _compile(*flags, "-x", "c++-header", place / HEADER.name, "-o", place / f"{HEADER.name}.gch")
    return place


def _compile(*arguments):
    done = subprocess.run(["g++", *FLAGS, *arguments], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise CompileError(done.stderr)
