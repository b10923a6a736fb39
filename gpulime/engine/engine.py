"""Engine: explains inputs of any kind, in flights that pass through one queue."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from gpulime.engine import fit
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked, Masker
from gpulime.engine.masks import Sampler
from gpulime.engine.model import Predictor
from gpulime.engine.proximity import proximity
from gpulime.engine.queue import Queue
from gpulime.engine.settings import Settings
from gpulime.engine.surrogate import check_memory
from gpulime.errors import check
from gpulime.explanations.batch import Explanations

E = TypeVar("E", bound=Explanations)  # the explanations of one kind of inputs
# Rows of a flight, about; its inputs finish together. Few on a CPU, so that the first results come early.
FLIGHT_ROWS = defaultdict(lambda: 2**14, cpu=2**10)


class Engine(Generic[E]):
    """LIME for inputs that consist of parts.

    Attributes
    ----------
    predictor, batch_size
        The model's caller, and its rows per call.
    masker : Masker
        Turns a batch into masked inputs.
    sampler : Sampler
    n_samples : int, s
    top_labels : int
        Classes explained per input if no labels are given.
    settings : Settings of the fit
    """

    def __init__(
        self,
        predictor: Predictor,
        batch_size: BatchSize,
        masker: Masker,
        sampler: Sampler,
        n_samples: int,
        top_labels: int,
        settings: Settings,
    ) -> None:
        self.predictor, self.batch_size, self.masker = predictor, batch_size, masker
        self.sampler, self.n_samples, self.top_labels, self.settings = sampler, n_samples, top_labels, settings
        self._warned = self._tried = False

    def prepare(self, batch: Any) -> Iterator[Flight]:
        """Turn a batch into flights of a few inputs each, for `queue`; every transfer from a GPU to the host happens here."""
        for inputs in self.masker.masked(batch):
            self._check(inputs)
            for piece in _pieces(inputs, self.n_samples):
                draw = partial(piece.draw, self.sampler)
                choose = partial(piece.wanted.choose, top_labels=self.top_labels, one=piece.one)
                yield Flight(piece, self.n_samples, draw, choose)

    def queue(self, progress: Callable[[int], object] | None = None) -> Queue[E]:
        """Make an empty queue; ``put`` the flights from `prepare`, and ``finish`` it after the last."""
        return Queue(self.predictor, self.batch_size, self.solve, progress)

    def solve(self, flight: Flight) -> E:
        """Fit the surrogates of a flight with complete outputs."""
        return cast(E, flight.inputs.explained(fit.solve(flight, self.settings)))

    def explained(self, batch: Any) -> Iterator[E]:
        """Explain a single batch, without waiting for another to fill its last rows; ``len(batch)`` is its number of inputs."""
        queue = self.queue()
        flights = self.prepare(batch)
        last = next(flights, None)  # raises if the inputs are invalid, before any row is announced
        if last is None:
            return
        self.predictor.announce(len(batch) * self.n_samples)
        for flight in flights:
            yield from queue.put(last)
            last = flight
        yield from queue.put(last, is_last=True)

    def stream(self, batches: Iterable[Any], progress: Callable[[int], object] | None = None) -> Iterator[E]:
        """Explain batches as they come, in one queue: a model batch may hold rows of two or more of them.

        Parameters
        ----------
        batches : iterable of batches, as for `prepare`
        progress : callable, optional
            Called with the number of rows after each model batch.

        Yields
        ------
        Explanations
            In the order of the inputs; a large batch may come back in several pieces.
        """
        queue = self.queue(progress)
        for batch in batches:
            for flight in self.prepare(batch):
                yield from queue.put(flight)
        yield from queue.finish()

    def predicted(self, batch: Any, masks: Tensor) -> Iterator[Tensor]:
        """Outputs (n, s, l) of a batch for its labels and given masks (n, s, k) bool, without a fit; a few inputs at a time."""
        queue = Queue(self.predictor, self.batch_size, lambda flight: flight.outputs)
        done = 0
        for inputs in self.masker.masked(batch):
            fits = f"masks must be (n, s, k) with k of {inputs.most} {inputs.parts} or more; got {tuple(masks.shape)}"
            check(masks.shape[2] >= inputs.most, fits)
            for piece in _pieces(inputs, masks.shape[1]):
                given = _widened(masks[done : done + len(piece)].to(piece.keys.device), piece.k)
                choose = partial(piece.wanted.choose, top_labels=self.top_labels, one=piece.one)
                yield from queue.put(Flight(piece, masks.shape[1], partial(_picked, given), choose))
                done += len(piece)
        yield from queue.finish()

    def _check(self, inputs: Masked) -> None:
        """Fail before any forward if a fit is impossible; warn once if only the penalty makes it possible."""
        k = inputs.most
        if k >= self.n_samples:
            few = f"n_samples = {self.n_samples}"
            check(
                self.settings.alpha > 0,
                f"{few} cannot fit k = {k} {inputs.parts} with alpha = 0; take more samples or alpha > 0",
            )
            if not self._warned:
                self._warned = True
                more = f"not above k = {k} {inputs.parts}: coefficients depend on the ridge penalty alpha"
                warnings.warn(f"{few} is {more}; take at least 2 k = {2 * k} samples", stacklevel=2)
        check_memory(k, inputs.keys.device)
        if not self._tried and (callable(self.settings.kernel) or callable(self.settings.distance)):
            self._tried = True  # test the user's kernel and distance with two masks
            proximity(torch.ones(1, 2, k, dtype=torch.bool), torch.tensor([k]), self.settings)


def _pieces(inputs: Masked, n_samples: int) -> Iterator[Masked]:
    """Inputs by flights; those that share their neighbourhood fly together."""
    size = max(1, FLIGHT_ROWS[inputs.keys.device.type] // n_samples)
    if inputs.shared or size >= len(inputs):
        yield inputs
        return
    for start in range(0, len(inputs), size):
        yield inputs.part(slice(start, start + size))


def _picked(masks: Tensor, index: Tensor, samples: Tensor) -> Tensor:
    return masks[index, samples]


def _widened(masks: Tensor, k: int) -> Tensor:
    """Pad or cut masks to (n, s, k); columns beyond an input's parts have no meaning."""
    return masks[..., :k] if masks.shape[-1] >= k else torch.nn.functional.pad(masks, (0, k - masks.shape[-1]))
