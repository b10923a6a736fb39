"""The clock: sides run in processes of their own, and the sides of one ratio in turns."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from statistics import median, quantiles
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.setups import Setup

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Forward = Callable[[], Array | None]
T = TypeVar("T")

_RUNNING: dict[Process, ProcessPoolExecutor] = {}

# glibc hands large blocks back to the system as they are freed, and then every layer of a model maps and clears its memory
# anew, or not, by the chances of the heap. These settings let it keep them.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


@dataclass(frozen=True)
class Process:
    """Where sides run: what one leaves in the heap, in threads or in settings is not met by those elsewhere.

    ``fresh``: every repeat has a process of its own, as one who explains an image in a script or a notebook does, and pays for
    whatever comes with a first call; importing and loading stay outside the clock.
    """

    name: str
    keeps_memory: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Side:
    """What is measured: ``make(setup)`` prepares outside the clock, and one call of what it returns is one repeat."""

    name: str
    make: Callable[[Setup], Forward]
    process: Process | None = None  # None: this one
    b: int | None = None  # in place of the setup's
    precision: str | None = None

    def run(self, setup: Setup) -> Run:
        """One repeat, in the side's process."""
        own = {"b": self.b, "precision": self.precision}
        setup = replace(setup, **{name: value for name, value in own.items() if value is not None})
        if self.process is None:
            return _run(self.make, setup)
        if self.process.fresh:
            return apart(self.process, _run, self.make, setup)
        try:
            return _running(self.process).submit(_run, self.make, setup).result()
        except BrokenProcessPool:
            _RUNNING.pop(self.process, None)  # the next has a new one
            raise


@dataclass(frozen=True)
class Run:
    """One repeat: coefficients (n, k) where the side explains, and seconds; CPU time is that of all threads."""

    coefficients: Array | None
    cpu: float
    wall: float


@dataclass(frozen=True)
class Timing:
    """The repeats of one side."""

    runs: tuple[Run, ...]

    @property
    def cpu(self) -> float:
        """Seconds, the median."""
        return median(run.cpu for run in self.runs)

    @property
    def wall(self) -> float:
        """Seconds, the median."""
        return median(run.wall for run in self.runs)

    @property
    def spread(self) -> tuple[float, float]:
        """The 20 % and 80 % quantiles of the CPU time."""
        return spread([run.cpu for run in self.runs])

    @property
    def wall_spread(self) -> tuple[float, float]:
        """The same of the time on the wall."""
        return spread([run.wall for run in self.runs])

    def on_the_wall(self) -> dict[str, str]:
        """The columns of that time."""
        q20, q80 = self.wall_spread
        return {"s": f"{self.wall:.4g}", "q20": f"{q20:.4g}", "q80": f"{q80:.4g}"}

    def paired(self, other: Timing, of: Callable[[float, float], float]) -> float:
        """The median ratio of runs that followed each other, in which a machine that drifts has drifted least."""
        return median(of(mine.cpu, its.cpu) for mine, its in zip(self.runs, other.runs, strict=True))


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """The 20 % and 80 % quantiles."""
    fifths = quantiles(seconds, n=5, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 4
    return fifths[0], fifths[3]


def interleaved(sides: Sequence[Side], setup: Setup, repeats: int) -> list[Timing]:
    """Time every side ``repeats`` times, in the order A B B A A B ..., so that a machine that drifts hits all of them."""
    runs: list[list[Run]] = [[] for _ in sides]
    for turn in range(repeats):
        for side, of_side in in_turn(list(zip(sides, runs, strict=True)), turn):
            of_side.append(side.run(setup))
    return [Timing(tuple(of_side)) for of_side in runs]


def in_turn(sides: Sequence[T], turn: int) -> list[T]:
    """The order in which sides run: as given, then the other way round, and so on."""
    return list(reversed(sides)) if turn % 2 else list(sides)


def _run(make: Callable[[Setup], Forward], setup: Setup) -> Run:
    forward = _forward(make, setup)
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    coefficients = forward()
    if setup.device == "cuda":
        torch.cuda.synchronize()
    return Run(coefficients, time.process_time() - cpu, time.perf_counter() - wall)


@cache
def _forward(make: Callable[[Setup], Forward], setup: Setup) -> Forward:
    return make(setup)


def apart(process: Process, call: Callable[..., T], *arguments: Any) -> T:
    """``call(*arguments)`` in a new process."""
    with _start(process) as executor:
        return executor.submit(call, *arguments).result()


def _running(process: Process) -> ProcessPoolExecutor:
    """The process of that name, which stays."""
    if process not in _RUNNING:
        _RUNNING[process] = _start(process)
    return _RUNNING[process]


def _start(process: Process) -> ProcessPoolExecutor:
    """One process, started with its environment, since glibc reads it once."""
    environment = dict(os.environ)
    os.environ.update(KEEP_MEMORY if process.keeps_memory else {}, GPULIME_CACHE="off")  # what is learned is paid for
    try:
        executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        executor.submit(os.getpid).result()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return executor
