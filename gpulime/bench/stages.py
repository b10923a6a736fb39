"""Seconds of each stage of a run, from an Explainer that times them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
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
READING = ("load", "segment")


class Stages:
    """Seconds by stage.

    A GPU works asynchronously. To separate its stages the host must wait at the end of each, which costs some speed, so only
    some pieces do so (``waits``).
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.waits = device, False
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def clear(self) -> None:
        """Set all to 0."""
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Time the work of one stage."""
        if self.waits:
            devices.synchronize(self.device)
        start = time.perf_counter()
        yield
        if self.waits:
            devices.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - start


class Staged(Explainer):
    """An Explainer with a clock at its own stages; `Predictor.watch` times the model."""

    def __init__(self, stages: Stages, model: Model, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.stages = stages

    def prepare(self, batch: Batch) -> Iterator[Flight]:
        """As an Explainer does, with flights whose rows are timed."""
        flights = super().prepare(batch)
        while True:
            with self.stages.at("prepare"):
                flight = next(flights, None)
            if flight is None:
                return
            flight.rows = partial(self._rows, flight.rows)  # type: ignore[method-assign]
            yield flight

    def _rows(self, rows: Callable[[int, int], Tensor], start: int, stop: int) -> Tensor:
        with self.stages.at("masking"):
            return rows(start, stop)

    def solve(self, flight: Flight) -> ExplainedImages:
        """As an Explainer does."""
        with self.stages.at("fit"):
            return super().solve(flight)
