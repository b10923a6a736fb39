"""Seconds of one call, and quantiles of many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import NamedTuple

import torch

from gpulime import device as devices


class Seconds(NamedTuple):
    """Time on the wall, and CPU time of all threads."""

    wall: float
    cpu: float


class Quantiles(NamedTuple):
    """The 20 %, 50 % and 80 % quantiles of repeated measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Of one value or more."""
        tenths = quantiles(values, n=10, method="inclusive") if len(values) > 1 else [*values] * 9
        return cls(tenths[1], tenths[4], tenths[7])


def timed(call: Callable[[], object], device: torch.device) -> Seconds:
    """Time one call, with the work that it launches on the device."""
    devices.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    devices.synchronize(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)
