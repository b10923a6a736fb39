"""Calls of CUDA's functions in a program that runs on the stub: launches, waits of the host, allocations."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

# Kernels, graphs, copies, and functions of libraries that compute.
_LAUNCH = re.compile(r"_*cu(da)?Launch\w*Kernel\w*|cu(da)?GraphLaunch|cu(da)?Mem(cpy|set)\w*")
_LIBRARY = re.compile(r"(cublas|cusolver|cusparse|cufft|cudnn)\w*")
_NO_WORK = re.compile(r"\w*(Create|Destroy|Set[A-Z]|Get[A-Z]|Init|bufferSize)\w*")
# The host waits, or may wait: memory is freed only after its last use.
_WAIT = re.compile(r"\w+Synchronize|cuda(Memcpy|Memset|MemcpyToSymbol|Free|FreeHost)|cuMemcpy(DtoH|HtoD)(_v2)?|copy_pageable")
_ALLOCATION = re.compile(r"cuda(Malloc|HostAlloc)\w*|cuMemAlloc\w*")


@cache
def _stub() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def counts() -> Counter[str]:
    """Calls of each function so far."""
    text = ctypes.create_string_buffer(2**17)
    _stub().stub_counts(text, ctypes.c_size_t(len(text)))
    return Counter({name: int(count) for name, count in map(str.split, text.value.decode().splitlines())})


def answer(*readings: Sequence[int]) -> None:
    """Let the host find these int64 values whenever it reads that many bytes from the device; the stub holds two of them."""
    for i, values in enumerate(readings):
        array = (ctypes.c_int64 * len(values))(*values)
        _stub().stub_answer(i, array, ctypes.c_size_t(ctypes.sizeof(array)))


def launches(calls: Counter[str]) -> int:
    """Number of calls that put work on a stream."""
    return sum(count for name, count in calls.items() if _is_launch(name))


def waits(calls: Counter[str]) -> dict[str, int]:
    """Calls for which the host may wait."""
    return {name: count for name, count in calls.items() if _WAIT.fullmatch(name)}


def allocations(calls: Counter[str]) -> dict[str, int]:
    """Calls that make memory, on the device or pinned."""
    return {name: count for name, count in calls.items() if _ALLOCATION.fullmatch(name)}


def _is_launch(name: str) -> bool:
    return bool(_LAUNCH.fullmatch(name) or (_LIBRARY.fullmatch(name) and not _NO_WORK.fullmatch(name)))
