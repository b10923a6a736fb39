"""The parts of CuPy that gpulime uses, on the stub of CUDA: nothing is compiled, and launches are counted."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import torch

_driver = ctypes.CDLL("libcuda.so.1")
_version = 1000 * int(torch.version.cuda.split(".")[0])


class RawModule:
    def __init__(self, *, code, options):
        self.code = code

    def compile(self):
        pass

    def get_function(self, name):
        assert name in self.code
        return Function()


class Function:
    max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid, block, args, *, shared_mem=0):
        _driver.cuLaunchKernel()


class Stream:
    @classmethod
    def from_external(cls, stream):
        stream.__cuda_stream__()
        return cls()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass


cuda = SimpleNamespace(
    Stream=Stream,
    compiler=SimpleNamespace(CompileException=RuntimeError),
    nvrtc=SimpleNamespace(getVersion=lambda: divmod(_version, 1000)),
    runtime=SimpleNamespace(runtimeGetVersion=lambda: _version, driverGetVersion=lambda: _version),
)
