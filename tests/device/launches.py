"""CuPy's API over g++ and the shim of tests/ops, with every launch checked against the kernel's signature."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from tests.device.findings import LAUNCH, report, where
from tests.device.memory import MEMORY
from tests.device.streams import current
from tests.ops import host

LAUNCHED = Counter()  # {kernel: launches}
_entered = []  # the pointer of the stream that launches go to
MOST_SHARED = 227 * 1024  # bytes of a block, if it asks for them: an H200's

_KERNEL = re.compile(r'extern\s+"C"\s+__global__[^(]*?(?:__launch_bounds__\([^)]*\)[^(]*?)?(\w+)\s*\(([^)]*)\)')
_MACRO = re.compile(r"^#define (\w+) (.+)$", re.MULTILINE)
_NUMBERS = {  # of a signature: the shim's letter, the type that CuPy passes as it, and that of C
    "long long": ("l", int, ctypes.c_longlong),
    "int": ("i", np.int32, ctypes.c_int),
    "float": ("f", np.float32, ctypes.c_float),
    "double": ("d", np.float64, ctypes.c_double),
}
_DTYPES = {
    "long long": {torch.int64},
    "int": {torch.int32},
    "float": {torch.float32},
    "double": {torch.float64},
    "unsigned char": {torch.uint8, torch.bool},
    "unsigned short": {torch.uint16},
}
_BITS = {"unsigned char": 1, "unsigned short": 2, "unsigned int": 4, "unsigned long long": 8}  # of a macro, any dtype


class Parameter(NamedTuple):
    """A parameter of a kernel: the type without const and pointer, both of which are told apart."""

    type: str
    points: bool
    is_const: bool
    is_bits: bool  # the type stands for any dtype of its size

    def takes(self, dtype):
        if self.is_bits:
            return dtype.itemsize == _BITS[self.type]
        return dtype in _DTYPES[self.type]


def signatures(code):
    """{kernel: parameters} of a source, in which the launcher's macros stand for types."""
    macros = dict(_MACRO.findall(code))

    def parameter(text):
        words = text.replace("*", " * ").replace("__restrict__", "").split()
        kind = " ".join(word for word in words[:-1] if word not in ("const", "*"))
        return Parameter(macros.get(kind, kind), "*" in words, "const" in words, kind == "BITS")

    return {name: [*map(parameter, inside.split(","))] for name, inside in _KERNEL.findall(code)}


class CompileException(Exception):
    """As cupy.cuda.compiler.CompileException."""


class RawModule:
    """As cupy.RawModule, with the arguments that gpulime passes."""

    def __init__(self, *, code, options):
        self.text, self.file, self.options = code, "RawModule", options

    def compile(self):
        try:
            self.library = host.Library(self)
        except host.CompileError as error:
            raise CompileException(str(error)) from error

    def get_function(self, name):
        return RawKernel(self.library, name, signatures(self.text)[name])


class RawKernel:
    """As cupy.RawKernel."""

    def __init__(self, library, name, parameters):
        self.library, self.name, self.parameters = library, name, parameters
        own = host.static_shared(library.path)
        self.static = own.get(name, 0) + own.get("", 0)
        self._most_shared = host.MOST_SHARED - self.static

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._most_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        if self.static + size > MOST_SHARED:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._most_shared = size

    def __call__(self, grid, block, args, *, shared_mem=0):
        if shared_mem > self._most_shared:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: {shared_mem} bytes of shared memory")
        stream = current()
        if _entered != [stream.cuda_stream]:
            self._wrong(f"launched on {_entered}, and torch's stream is {stream.cuda_stream}")
        if len(args) != len(self.parameters):
            self._wrong(f"{len(args)} arguments for {len(self.parameters)} parameters")
        piece = stream.begins()
        values = [
            self._pointer(place, parameter, arg, stream, piece) if parameter.points else self._number(place, parameter, arg)
            for place, (parameter, arg) in enumerate(zip(self.parameters, args, strict=True))
        ]
        self.library.call(self.name, grid, block, values, shared_mem)
        LAUNCHED[self.name] += 1

    def _pointer(self, place, parameter, address, stream, piece):
        if type(address) is not int:
            self._wrong(f"argument {place} is a {type(address).__name__} for a pointer")
        block = MEMORY.holding(address)
        if block is None and address:
            self._wrong(f"argument {place} points to no tensor of the device that is alive")
        if block is not None:
            tensor = block.passed.get(address)
            if tensor is not None and not parameter.takes(tensor.dtype):
                self._wrong(f"argument {place} is a {tensor.dtype} tensor for {parameter.type}*")
            if tensor is not None and not _is_dense(tensor):
                self._wrong(f"argument {place} has strides {tensor.stride()} for {tuple(tensor.shape)}")
            block.use(stream, piece, not parameter.is_const, self.name)
        return "p", ctypes.c_void_p(address or None)

    def _number(self, place, parameter, number):
        kind, passed, made = _NUMBERS[parameter.type]
        if type(number) is not passed:
            self._wrong(f"argument {place} is a {type(number).__name__} for {parameter.type}")
        return kind, made(number if passed is int else number.item())

    def _wrong(self, text):
        report(LAUNCH, f"{self.name}: {text}: {where()}")
        raise RuntimeError(f"{self.name}: {text}")


def _is_dense(tensor):
    """True if the elements lie without gaps, in the order of either memory format."""
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.is_contiguous() or channels_last


class ExternalStream:
    """As cupy.cuda.Stream."""

    def __init__(self, pointer):
        self.pointer = pointer

    @classmethod
    def from_external(cls, stream):
        version, pointer = stream.__cuda_stream__()
        assert version == 0
        return cls(pointer)

    def __enter__(self):
        _entered.append(self.pointer)

    def __exit__(self, *error):
        _entered.pop()


def cupy():
    """The modules that take CuPy's place, by name."""
    whole, cuda, compiler = ModuleType("cupy"), ModuleType("cupy.cuda"), ModuleType("cupy.cuda.compiler")
    compiler.CompileException = CompileException
    cuda.compiler, cuda.Stream = compiler, ExternalStream
    version = int(torch.version.cuda.split(".")[0]) * 1000
    cuda.runtime = SimpleNamespace(runtimeGetVersion=lambda: version, driverGetVersion=lambda: version)
    cuda.nvrtc = SimpleNamespace(getVersion=lambda: (version // 1000, 0))
    whole.cuda, whole.RawModule, whole.RawKernel, whole.__version__ = cuda, RawModule, RawKernel, "14.2.0"
    return {module.__name__: module for module in (whole, cuda, compiler)}
