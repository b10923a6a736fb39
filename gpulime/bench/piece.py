"""Pieces of work: so many images and samples that a piece takes a second or two, and how long it took."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpulime.bench.stages import ONCE

LEAST_BATCHES = 4  # of the model, in a piece of an image


@dataclass(frozen=True)
class Size:
    """Images and samples of a piece, and the rows b of its model batches, which are all full where that can be had."""

    images: int
    samples: int
    b: int

    @classmethod
    def of(cls, s: int, b: int, rows: float, least: int) -> Size:
        """About so many ``rows``: whole images where that is at least one, else one with fewer samples, ``least`` of them.

        A run's batches are full, whichever images their rows come from; so are these, if for that some samples are left out.
        """
        if rows < s:
            wanted = max(rows, least, 2, LEAST_BATCHES * b)
            return cls(1, min(s, math.ceil(wanted / b) * b), b)
        n = max(1, round(rows / s))
        exact = next((i for i in range(n, 2 * n + 1) if i * s % b == 0), None)
        if exact is not None:
            return cls(exact, s, b)
        while (samples := s // (step := b // math.gcd(b, n)) * step) < s / 2:
            n += 1
        return cls(n, samples, b)


@dataclass(frozen=True)
class Piece:
    """What a piece was and how long it took.

    Attributes
    ----------
    images, forwards : that it had
    seconds : that it took
    stages : seconds by stage, which add up to these
    apart : whether the stages are told apart; else those of a GPU run into each other
    """

    images: float
    forwards: int
    seconds: float
    stages: dict[str, float]
    apart: bool = True

    def an_image(self, s: int) -> float:
        """Seconds for an image with s samples: what is done once an image, and s times what a forward takes."""
        return sum(self.stages_of_an_image(s).values()) if self.apart else self.seconds / self.forwards * s

    def stages_of_an_image(self, s: int) -> dict[str, float]:
        """The same by stage."""
        once = {stage: self.stages[stage] / self.images for stage in ONCE} if self.images else {}
        each = {stage: seconds / self.forwards * s for stage, seconds in self.stages.items() if stage not in once}
        return {stage: {**once, **each}[stage] for stage in self.stages}
