"""What a ratio must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AtMost:
    """The ratio is our time over theirs."""

    limit: float

    def ratio(self, ours: float, theirs: float) -> float:
        return ours / theirs

    def worst(self, ratios: Sequence[float]) -> float:
        return max(ratios)

    def holds(self, ratio: float) -> bool:
        return ratio <= self.limit

    def worsened(self, ratio: float, earlier: float) -> float:
        """How many times as bad it has become."""
        return ratio / earlier

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


@dataclass(frozen=True)
class AtLeast:
    """The ratio is their time over ours: how many times as fast we are; 0 asks for nothing."""

    limit: float = 0.0

    def ratio(self, ours: float, theirs: float) -> float:
        return theirs / ours

    def worst(self, ratios: Sequence[float]) -> float:
        return min(ratios)

    def holds(self, ratio: float) -> bool:
        return ratio >= self.limit

    def worsened(self, ratio: float, earlier: float) -> float:
        """How many times as bad it has become."""
        return earlier / ratio

    def __str__(self) -> str:
        return f"at least {self.limit:g}" if self.limit else "whatever it is"


Bound = AtMost | AtLeast
