"""Pairs of an engine function and its slow twin, which one test compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pair:
    fast: Callable[..., Any]
    slow: Callable[..., Any]
    options: dict[str, Any]

    def __str__(self):
        options = "-".join(str(value) for value in self.options.values())
        return "-".join(filter(None, [self.slow.__name__, options]))


PAIRS: list[Pair] = []


def replicates(fast, **options):
    """Say that the decorated function does what ``fast`` does with these options, slower and simpler."""

    def register(slow):
        PAIRS.append(Pair(fast, slow, options))
        return slow

    return register
