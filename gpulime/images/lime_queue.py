"""Many images of lime's explainer in one queue, each of which is explained or has its error: none takes another with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gpulime.engine.batch_size import BatchSize
from gpulime.engine.flight import Flight
from gpulime.engine.model import Predictor
from gpulime.engine.queue import Queue
from gpulime.errors import GpulimeError
from gpulime.explanations.image import ImageExplanation
from gpulime.images import lime_rows
from gpulime.images.lime_rows import Array

HOPELESS = 3  # failures of the first images, after which the others are not tried


class UnexplainedError(GpulimeError):
    """Some images could not be explained; what was explained is here.

    Attributes
    ----------
    explanations : dict, image's number -> ImageExplanation
    failures : dict, image's number -> the error it met; an image in neither was not tried
    n : int, images that were given
    """

    def __init__(self, explanations: Mapping[int, ImageExplanation], failures: Mapping[int, Exception], n: int) -> None:
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
    """One image on its way: what lime's explanation of it needs besides the model's outputs."""

    image: Array
    segments: Array
    masks: Array
    labels: list[int] = field(default_factory=list)


@dataclass
class LimeQueue:
    """Images in one queue.

    Where the queue fails, any image under way may be the reason, since a model batch holds rows of several: each of them is
    passed once more, by itself.

    Attributes
    ----------
    predictor, batch_size
        As for `gpulime.engine.queue.Queue`.
    prepare : callable number -> Prepared
    flight : callable (number, Prepared) -> Flight
    choose_labels : callable (Prepared, outputs of the image itself) -> (1, l)
    solve : callable (Prepared, Flight) -> ImageExplanation
    progress : callable
        Called with the number of rows after each model batch.
    explanations, failures : dict
        What has become of the images, by their numbers.
    """

    predictor: Predictor
    batch_size: BatchSize
    prepare: Callable[[int], Prepared]
    flight: Callable[[int, Prepared], Flight]
    choose_labels: Callable[[Prepared, Tensor], Tensor]
    solve: Callable[[Prepared, Flight], ImageExplanation]
    progress: Callable[[int], object]
    explanations: dict[int, ImageExplanation] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._under_way: dict[int, Prepared] = {}
        self._queue = self._new_queue(self.progress)

    @property
    def hopeless(self) -> bool:
        """Whether all of the first images failed: what is wrong is then hardly the images."""
        return all(number in self.failures for number in range(HOPELESS))

    def put(self, number: int) -> None:
        """Take in an image, and pass full model batches."""
        try:
            prepared = self.prepare(number)
            flight = self.flight(number, prepared)
        except Exception as error:
            self.failures[number] = error
            return
        self._under_way[number] = prepared
        self._keep(self._queue.put(flight))

    def finish(self) -> None:
        """Pass what is left."""
        self._keep(self._queue.finish())

    def _keep(self, solved: Iterator[tuple[int, ImageExplanation]]) -> None:
        try:
            self._take(solved)
        except Exception as error:
            suspects = dict(self._under_way)
            self._under_way.clear()
            self._queue = self._new_queue(self.progress)
            if len(suspects) == 1:
                self.failures |= dict.fromkeys(suspects, error)
                return
            for number, prepared in suspects.items():
                if not self.hopeless:
                    self._alone(number, prepared)

    def _alone(self, number: int, prepared: Prepared) -> None:
        """Pass an image once more by itself; its rows are counted already."""
        self._under_way[number] = prepared
        queue = self._new_queue(lambda b: None)
        try:
            self._take(queue.put(self.flight(number, prepared)))
            self._take(queue.finish())
        except Exception as error:
            self.failures[number] = error
            del self._under_way[number]

    def _take(self, solved: Iterator[tuple[int, ImageExplanation]]) -> None:
        for number, explanation in solved:
            self.explanations[number] = explanation
            del self._under_way[number]

    def _new_queue(self, progress: Callable[[int], object]) -> Queue[tuple[int, ImageExplanation]]:
        def prepared(flight: Flight) -> Prepared:
            return self._under_way[int(flight.keys)]

        return Queue(
            self.predictor,
            self.batch_size,
            compose=lambda flight, start, stop: lime_rows.compose(flight, start, stop, prepared(flight).masks),
            choose_labels=lambda flight, outputs: self.choose_labels(prepared(flight), outputs),
            solve=lambda flight: (int(flight.keys), self.solve(prepared(flight), flight)),
            progress=progress,
        )
