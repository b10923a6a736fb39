"""Pieces of work that take a second or two, and an Explainer that times their stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from gpulime import device as devices
from gpulime.engine.flight import Flight
from gpulime.engine.model import Model
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch

# "prepare" brings images to the device, normalises them and finds fill colours; "masking" draws masks and makes rows; "rest"
# is the time of no stage: the queue, labels, rows of the store.
STAGES = ("load", "segment", "prepare", "masking", "model", "fit", "rest")
ONCE = ("load", "segment", "prepare", "rest")  # once per image, for any number of samples
LEAST_BATCHES = 4  # of the model, in a piece of an image


@dataclass(frozen=True)
class Piece:
    """Some images or a part of one, and the seconds they took; ``an_image`` are those of an image with all samples, s.

    ``stages`` are the seconds of an image by stage: only forwards and their stages are scaled to s samples. The stages of a GPU
    overlap unless the host waits for each; then ``an_image`` is scaled from the whole.
    """

    images: float
    forwards: int
    seconds: float
    an_image: float
    stages: dict[str, float]

    @classmethod
    def of(cls, s: int, images: float, forwards: int, seconds: float, stages: dict[str, float], apart: bool = True) -> Piece:
        """Scale the stages of a piece to an image."""
        each = {stage: its / (images if stage in ONCE else forwards / s) for stage, its in stages.items()}
        return cls(images, forwards, seconds, sum(each.values()) if apart else seconds / forwards * s, each)


def size_of(s: int, b: int, rows: float, least: int) -> tuple[int, int]:
    """Images and samples of a piece of about ``rows`` rows: whole images, or one with at least ``least`` of its s samples.

    A run's batches are full, since they mix rows of several images; so are these, if possible.
    """
    if rows >= s:
        n = max(1, round(rows / s))
        return next((i for i in range(n, 2 * n + 1) if i * s % b == 0), n), s
    return 1, min(s, math.ceil(max(rows, least, LEAST_BATCHES * b) / b) * b)


class Staged(Explainer):
    """An Explainer with a clock at its own stages; `Predictor.watch` times the model.

    A GPU works asynchronously. To separate its stages the host must wait at the end of each (``waits``), which costs speed.
    """

    def __init__(self, model: Model, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.home, self.waits = self.device, False
        self.clear()

    def clear(self) -> None:
        """Set all clocks to 0."""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.forwards, self.begun = 0, time.perf_counter()
        self._model = self.predictor.watch.seconds

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Time the work of one stage."""
        if self.waits:
            devices.synchronize(self.home)
        start = time.perf_counter()
        yield
        if self.waits:
            devices.synchronize(self.home)
        self.seconds[stage] += time.perf_counter() - start

    def prepare(self, batch: Batch) -> Iterator[Flight]:
        """As an Explainer does, with flights whose rows are timed."""
        flights = super().prepare(batch)
        while True:
            with self.at("prepare"):
                flight = next(flights, None)
            if flight is None:
                return
            flight.rows = partial(self._rows, flight.rows)  # type: ignore[method-assign]
            yield flight

    def _rows(self, rows: Callable[[int, int], Tensor], start: int, stop: int) -> Tensor:
        with self.at("masking"):
            return rows(start, stop)

    def solve(self, flight: Flight) -> ExplainedImages | None:
        """As an Explainer does."""
        with self.at("fit"):
            return super().solve(flight)

    def count(self, b: int) -> None:
        """Count the rows of a model batch."""
        self.forwards += b

    def piece(self, s: int) -> Piece:
        """The piece since the clocks were cleared."""
        devices.synchronize(self.home)
        seconds = time.perf_counter() - self.begun
        stages = {**self.seconds, "model": self.predictor.watch.seconds - self._model}
        stages["rest"] = seconds - sum(stages.values())
        return Piece.of(s, self.forwards / self.n_samples, self.forwards, seconds, stages, self.waits)
