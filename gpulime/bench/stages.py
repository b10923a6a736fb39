"""Where the time of a run goes: an Explainer that notes how long each stage takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine.flight import Flight
from gpulime.engine.model import Model
from gpulime.explainer import Explainer
from gpulime.explanations.batch import Explanations
from gpulime.images.batch import Batch

# "prepare" brings images to the device, with fill colours and normalised; "masking" draws masks and makes the rows; "rest" is
# what no stage has: the queue, labels, rows of the store.
STAGES = ("load", "segment", "prepare", "masking", "model", "fit", "rest")
ONCE = ("load", "segment", "prepare", "rest")  # done once an image, however many samples it has
READING = ("load", "segment")


class Stages:
    """Seconds by stage.

    A GPU works while the host goes on: for its stages to be told apart it is waited for at the borders of each, which costs
    some speed. So that is done in pieces of their own, and in others (``waits`` False) it is left alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.waits = device, False
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def clear(self) -> None:
        """Start anew."""
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Around the work of one stage."""
        if self.waits:
            devices.synchronize(self.device)
        start = time.perf_counter()
        yield
        if self.waits:
            devices.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - start


class Staged(Explainer):
    """An Explainer with a clock at the stages that are its own; `Predictor.watch` has the model's."""

    def __init__(self, stages: Stages, model: Model, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.stages = stages

    def prepare(self, batch: Batch) -> Iterator[Flight]:
        """As an Explainer does."""
        flights = super().prepare(batch)
        while True:
            with self.stages.at("prepare"):
                flight = next(flights, None)
            if flight is None:
                return
            yield flight

    def compose(self, flight: Flight, start: int, stop: int) -> Tensor:
        """As an Explainer does."""
        with self.stages.at("masking"):
            return super().compose(flight, start, stop)

    def solve(self, flight: Flight) -> Explanations:
        """As an Explainer does."""
        with self.stages.at("fit"):
            return super().solve(flight)
