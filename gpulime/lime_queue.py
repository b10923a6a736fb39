"""Queue of inputs for lime's explainers; an input that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import torch

from gpulime.engine.batch_size import BatchSize
from gpulime.engine.flight import Flight
from gpulime.engine.isolate import DeviceError, Explained, Failed, Isolate
from gpulime.engine.model import Predictor
from gpulime.engine.queue import Queue
from gpulime.errors import GpulimeError
from gpulime.lime_base import LimeInput, LimeLabels

Prepared = TypeVar("Prepared", bound=LimeInput)  # an input with its masks, ready for a flight; its `LimeLabels` refer to it
Explanation = TypeVar("Explanation")

AHEAD = {"cpu": 0, "cuda": 1}  # explanations on their way to the host while the next input is prepared
HOPELESS = 3  # if this many first inputs all fail, the rest are not tried


class UnexplainedError(GpulimeError):
    """Some inputs could not be explained; the explanations of the others are kept here.

    Attributes
    ----------
    explanations : dict, number of the input -> its explanation
    failures : dict, number of the input -> its error; an input in neither dict was not tried
    n : int, the number of inputs given
    one : str, name of an input in the message
    """

    def __init__(
        self, explanations: Mapping[int, Any], failures: Mapping[int, BaseException], n: int, one: str = "image"
    ) -> None:
        self.explanations, self.failures, self.n, self.one = dict(explanations), dict(failures), n, one
        super().__init__(self._message())

    def __reduce__(self) -> tuple[type[UnexplainedError], tuple[Any, ...]]:
        return type(self), (self.explanations, self.failures, self.n, self.one)

    def _message(self) -> str:
        error = self.failures[first := min(self.failures)]
        kind = "" if isinstance(error, GpulimeError) else f"{type(error).__name__}: "
        said = [f"{self.one} {first}: {kind}{error}"]
        if more := len(self.failures) - 1:
            said.append(f"{more} more failed, in this error's `failures`")
        if untried := self.n - len(self.explanations) - len(self.failures):
            said.append(f"{untried} were not tried, as the first {HOPELESS} all failed")
        if self.explanations:
            said.append(f"{len(self.explanations)} of {self.n} were explained, in this error's `explanations`")
        return "; ".join(said)


@dataclass
class LimeQueue(Generic[Prepared, Explanation]):
    """Inputs in one queue, by their numbers."""

    predictor: Predictor
    batch_size: BatchSize
    prepare: Callable[[int], Prepared]
    flight: Callable[[int, Prepared], Flight]
    solve: Callable[[Prepared, Flight], Callable[[], Explanation]]  # the returned function waits for a GPU
    progress: Callable[[int], object]  # called with the number of rows after each model batch, except for retried rows
    one: str = "image"  # name of an input in messages
    explanations: dict[int, Explanation] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._prepared: dict[int, Prepared] = {}  # of the inputs in flight
        self._device = self.predictor.device(torch.empty(0))
        self._isolate = self._isolated()

    def _isolated(self) -> Isolate[int, Explanation]:
        return Isolate(
            self.predictor,
            self._device,
            queue=lambda alone: Queue(self.predictor, self.batch_size, self._solved, None if alone else self.progress),
            flights=lambda number: iter([self.flight(number, self._prepared[number])]),
            size=lambda _: 1,
            fetching=lambda explained: explained,
            once=True,
        )

    def _solved(self, flight: Flight) -> Callable[[], Explanation]:
        return self.solve(cast(Prepared, cast(LimeLabels, flight.inputs.wanted).one), flight)

    @property
    def hopeless(self) -> bool:
        """Tell if all of the first inputs failed: the inputs are then hardly the cause."""
        return all(number in self.failures for number in range(HOPELESS))

    def run(self, n: int) -> list[Explanation]:
        """Explain inputs 0 to n - 1, in order.

        Raises
        ------
        UnexplainedError
            If some of them failed.
        KeyboardInterrupt
            With the ``explanations`` so far.
        """
        try:
            for i in range(n):
                self._put(i)
                if self.hopeless:
                    break
            self._take(self._isolate.finish())
        except KeyboardInterrupt as interrupt:
            if self.explanations:
                interrupt.explanations = self.explanations  # type: ignore[attr-defined]
                done = f"{len(self.explanations)} of {n} {self.one}s were explained"
                interrupt.add_note(f"{done}: sys.last_value.explanations")
            raise
        if self.failures:
            raise UnexplainedError(self.explanations, self.failures, n, self.one) from self.failures[min(self.failures)]
        return [self.explanations[i] for i in range(n)]

    def _put(self, number: int) -> None:
        """Add an input, and pass full model batches."""
        try:
            prepared = self.prepare(number)
            flight = self.flight(number, prepared)
        except (Exception, SystemExit) as error:  # a segmentation_fn may call sys.exit
            self.failures[number] = error
            return
        self._prepared[number] = prepared
        self._take(self._isolate.put([number], [flight], AHEAD[self._device.type]))

    def _take(self, outcomes: Iterator[Explained[int, Explanation] | Failed[int]]) -> None:
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
