"""Pieces of work that take a second or two: their size and their seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpulime.bench.stages import ONCE

LEAST_BATCHES = 4  # of the model, in a piece of an image


@dataclass(frozen=True)
class Size:
    """Images and samples of a piece, and the rows b of its model batches, all full if possible."""

    images: int
    samples: int
    b: int

    @classmethod
    def of(cls, s: int, b: int, rows: float, least: int) -> Size:
        """Choose about ``rows`` rows: whole images if that is at least one, else one image with at least ``least`` samples.

        A run's batches are full, since they mix rows of several images; so are these, even if some samples are left out.
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
    """A piece and its seconds.

    Attributes
    ----------
    images, forwards : of the piece
    seconds : of the whole piece
    stages : seconds by stage, which add up to ``seconds``
    apart : True if the stages are separated; otherwise a GPU's stages overlap
    """

    images: float
    forwards: int
    seconds: float
    stages: dict[str, float]
    apart: bool = True

    def an_image(self, s: int) -> float:
        """Seconds of an image with s samples: the stages that come once, and s times those of a forward."""
        return sum(self.stages_of_an_image(s).values()) if self.apart else self.seconds / self.forwards * s

    def stages_of_an_image(self, s: int) -> dict[str, float]:
        """Seconds of an image with s samples, by stage."""
        once = {stage: self.stages[stage] / self.images for stage in ONCE} if self.images else {}
        each = {stage: seconds / self.forwards * s for stage, seconds in self.stages.items() if stage not in once}
        return {stage: {**once, **each}[stage] for stage in self.stages}
