"""Seconds of a call, quantiles of many, and calls in turns, so that a drifting machine slows all sides alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import quantiles
from typing import NamedTuple, TypeVar

import torch

from gpulime import device as devices
from gpulime.errors import GpulimeError
from gpulime.runs.progress.exits import DeviceLostError

TURNS = 5
MOST_LETTERS = 240  # of a reason

T = TypeVar("T")


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


def in_turns(
    sides: Mapping[str, Callable[[], T]], must: Collection[str], device: torch.device, turns: int = TURNS
) -> tuple[dict[str, list[T]], dict[str, str]]:
    """Call each side ``turns`` times, in the order A B B A A B ...

    Returns the results of each side, and the reason for each side that failed. An error of a side in ``must`` is raised.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    failed: dict[str, str] = {}
    for turn in range(turns):
        for name in order(sides, turn):
            if name in must:
                results[name].append(sides[name]())
            elif name in results:
                done, why = attempt(sides[name], device)
                if done is None:
                    failed[name] = why
                    del results[name]
                else:
                    results[name].append(done)
    return results, failed


def order(sides: Iterable[T], turn: int) -> list[T]:
    """The order of a turn: as given, then reversed, and so on."""
    return list(sides)[::-1] if turn % 2 else list(sides)


def attempt(make: Callable[[], T], device: torch.device) -> tuple[T | None, str]:
    """Return the result of ``make``, or None and the error in one line. An error that loses the device is raised."""
    try:
        return make(), ""
    except Exception as error:  # from a model, a compiler or a driver
        text = " ".join(str(error).split())
        message = text if isinstance(error, GpulimeError) else f"{type(error).__name__}: {text}"
        message = message if len(message) <= MOST_LETTERS else f"{message[:MOST_LETTERS]} ..."
        if devices.lost(error, device):
            raise DeviceLostError(f"the device is lost: {message}") from error
        return None, message
