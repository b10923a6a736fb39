"""Sides in turns, piece by piece: a machine that drifts hits all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

import torch

from gpulime import device as devices
from gpulime.bench.piece import Piece
from gpulime.errors import GpulimeError
from gpulime.runs.progress.exits import DeviceLostError

TURNS = 5
MOST_LETTERS = 240  # of a reason

T = TypeVar("T")


class Runs(Protocol):
    """What is run piece by piece."""

    def run(self) -> Piece:
        """One piece."""


def in_turns(
    sides: Mapping[str, Runs], must: Collection[str], device: torch.device
) -> tuple[dict[str, list[Piece]], dict[str, str]]:
    """`TURNS` pieces of each side, in the order A B B A A B ...; and why a side has none: all but ``must`` may fail."""
    pieces: dict[str, list[Piece]] = {name: [] for name in sides}
    failed: dict[str, str] = {}
    for turn in range(TURNS):
        order = list(sides)
        for name in reversed(order) if turn % 2 else order:
            if name in failed:
                continue
            done, why = attempt(sides[name].run, device) if name not in must else (sides[name].run(), "")
            if done is None:
                failed[name] = why
            else:
                pieces[name].append(done)
    return {name: of_side for name, of_side in pieces.items() if name not in failed}, failed


def attempt(make: Callable[[], T], device: torch.device) -> tuple[T | None, str]:
    """What ``make`` returns, or why it returned nothing, in one line; an error after which nothing runs goes through."""
    try:
        return make(), ""
    except Exception as error:  # whatever a model, a compiler or a driver raises is the user's to read
        if devices.lost(error, device):
            raise DeviceLostError(f"the device is lost: {_line(error)}") from error
        return None, _line(error)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    message = text if isinstance(error, GpulimeError) else f"{type(error).__name__}: {text}"
    return message if len(message) <= MOST_LETTERS else f"{message[:MOST_LETTERS]} ..."
