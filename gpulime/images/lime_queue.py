"""Queue of images for lime's explainer; an image that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from gpulime.engine.batch_size import BatchSize
from gpulime.engine.flight import Flight
from gpulime.engine.isolate import DeviceError, Explained, Failed, Isolate
from gpulime.engine.model import Predictor
from gpulime.engine.queue import Queue
from gpulime.errors import GpulimeError
from gpulime.explanations.image import ImageExplanation
from gpulime.images.lime_rows import Array

HOPELESS = 3  # if this many first images all fail, the rest are not tried


class UnexplainedError(GpulimeError):
    """Some images could not be explained; the explanations of the others are kept here.

    Attributes
    ----------
    explanations : dict, image's number -> ImageExplanation
    failures : dict, image's number -> its error; an image in neither dict was not tried
    n : int, the number of images given
    """

    def __init__(self, explanations: Mapping[int, ImageExplanation], failures: Mapping[int, BaseException], n: int) -> None:
        self.explanations, self.failures, self.n = dict(explanations), dict(failures), n
        super().__init__(self._message())

    def __reduce__(self) -> tuple[type[UnexplainedError], tuple[Any, ...]]:
        return type(self), (self.explanations, self.failures, self.n)

    def _message(self) -> str:
        error = self.failures[first := min(self.failures)]
        kind = "" if isinstance(error, GpulimeError) else f"{type(error).__name__}: "
        said = [f"image {first}: {kind}{error}"]
        if more := len(self.failures) - 1:
            said.append(f"{more} more failed, in this error's `failures`")
        if untried := self.n - len(self.explanations) - len(self.failures):
            said.append(f"{untried} were not tried, as the first {HOPELESS} all failed")
        if self.explanations:
            said.append(f"{len(self.explanations)} of {self.n} were explained, in this error's `explanations`")
        return "; ".join(said)


@dataclass
class Prepared:
    """An image in the queue, with the segments, masks and labels of its explanation."""

    image: Array
    segments: Array
    masks: Array
    labels: list[int] = field(default_factory=list)


@dataclass
class LimeQueue:
    """Images in one queue, by their numbers."""

    predictor: Predictor
    batch_size: BatchSize
    prepare: Callable[[int], Prepared]
    flight: Callable[[int, Prepared], Flight]
    solve: Callable[[Flight], ImageExplanation]
    progress: Callable[[int], object]  # called with the number of rows after each model batch, except for retried rows
    explanations: dict[int, ImageExplanation] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._prepared: dict[int, Prepared] = {}  # of the images in flight
        self._isolate = self._isolated()

    def _isolated(self) -> Isolate[int, ImageExplanation]:
        return Isolate(
            self.predictor,
            self.predictor.device(torch.empty(0)),
            queue=lambda alone: Queue(self.predictor, self.batch_size, self.solve, None if alone else self.progress),
            flights=lambda number: iter([self.flight(number, self._prepared[number])]),
            size=lambda _: 1,
            once=True,
        )

    @property
    def hopeless(self) -> bool:
        """Tell if all of the first images failed: the images are then hardly the cause."""
        return all(number in self.failures for number in range(HOPELESS))

    def put(self, number: int) -> None:
        """Add an image, and pass full model batches."""
        try:
            prepared = self.prepare(number)
            flight = self.flight(number, prepared)
        except (Exception, SystemExit) as error:  # a segmentation_fn may call sys.exit
            self.failures[number] = error
            return
        self._prepared[number] = prepared
        self._take(self._isolate.put([number], [flight]))

    def finish(self) -> None:
        """Pass the remaining rows."""
        self._take(self._isolate.finish())

    def _take(self, outcomes: Iterator[Explained[int, ImageExplanation] | Failed[int]]) -> None:
        try:
            for outcome in outcomes:
                del self._prepared[outcome.item]
                if isinstance(outcome, Explained):
                    self.explanations[outcome.item] = outcome.piece
                    continue
                self.failures[outcome.item] = outcome.error
                if self.hopeless:
                    return
        except DeviceError as error:
            self.failures |= dict.fromkeys(error.items, error.__cause__ or error)
            self._prepared.clear()
            self._isolate = self._isolated()
