"""Measure sides in turns, so that a drifting machine slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

import torch

from gpulime import device as devices
from gpulime.errors import GpulimeError
from gpulime.runs.progress.exits import DeviceLostError

TURNS = 5
MOST_LETTERS = 240  # of a reason

T = TypeVar("T")


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
            if name in failed:
                continue
            done, why = attempt(sides[name], device) if name not in must else (sides[name](), "")
            if done is None:
                failed[name] = why
            else:
                results[name].append(done)
    return {name: of_side for name, of_side in results.items() if name not in failed}, failed


def order(sides: Iterable[T], turn: int) -> list[T]:
    """The order of a turn: as given, then reversed, and so on."""
    return list(sides)[::-1] if turn % 2 else list(sides)


def attempt(make: Callable[[], T], device: torch.device) -> tuple[T | None, str]:
    """Return the result of ``make``, or None and the error in one line. An error that loses the device is raised."""
    try:
        return make(), ""
    except Exception as error:  # from a model, a compiler or a driver
        if devices.lost(error, device):
            raise DeviceLostError(f"the device is lost: {_line(error)}") from error
        return None, _line(error)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    message = text if isinstance(error, GpulimeError) else f"{type(error).__name__}: {text}"
    return message if len(message) <= MOST_LETTERS else f"{message[:MOST_LETTERS]} ..."
