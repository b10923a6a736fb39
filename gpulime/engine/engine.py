"""Engine: explains inputs of any kind, in flights that pass through one queue, and fits each flight's surrogates."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine import fit, rounds, walsh
from gpulime.engine.batch_size import BatchSize, row_bytes
from gpulime.engine.designs import Antithetic, Design, Exhaustive
from gpulime.engine.flight import Flight, slices
from gpulime.engine.logit import probabilities
from gpulime.engine.masked import Masked, Masker
from gpulime.engine.masks import Sampler
from gpulime.engine.model import Predictor
from gpulime.engine.planned_flight import PlannedFlight, has_equal_masks
from gpulime.engine.proximity import proximity
from gpulime.engine.queue import Queue
from gpulime.engine.rounds import DesignedFlight
from gpulime.engine.settings import SHAPLEY, WITH_SHAPLEY, Settings
from gpulime.engine.shapley import Sizes
from gpulime.engine.stopping import Stopping
from gpulime.engine.surrogate import check_memory
from gpulime.errors import GpulimeError, check, stage
from gpulime.explanations.batch import Explanations

E = TypeVar("E", bound=Explanations)  # the explanations of one kind of inputs
F = TypeVar("F", bound=Flight)
T = TypeVar("T")  # the result of a flight
# Rows of a flight, about; its inputs finish together. Few on a CPU, so that the first results come early. Small inputs fill a
# flight on a GPU up to some bytes of inputs and masks, since the launches of a flight take longer than their forwards.
FLIGHT_ROWS = defaultdict(lambda: 2**14, cpu=2**10)
FLIGHT_BYTES = defaultdict(int, cuda=20 * 2**20)


class Engine(Generic[E]):
    """LIME for inputs that consist of parts.

    Attributes
    ----------
    predictor, batch_size : the model's caller, and its rows per call
    masker : Masker, turns a batch into masked inputs
    sampler : Sampler or Design
    n_samples : int, s; with a stopping rule, what an input is expected to take
    top_labels : int, classes explained per input if no labels are given
    settings : Settings of the fit
    stopping : Stopping or None, the rule that ends the samples of an input
    seed : int, of the masks; set by each explainer
    progress : callable or None, called with the number of rows after each model batch of `passed`
    """

    seed: int
    progress: Callable[[int], object] | None = None

    def __init__(
        self,
        predictor: Predictor,
        batch_size: BatchSize,
        masker: Masker,
        sampler: Sampler | Design,
        n_samples: int,
        top_labels: int,
        settings: Settings,
        stopping: Stopping | None = None,
    ) -> None:
        self.predictor, self.batch_size, self.masker = predictor, batch_size, masker
        self.sampler, self.n_samples, self.top_labels, self.settings = sampler, n_samples, top_labels, settings
        if settings.kernel == SHAPLEY:
            if not isinstance(sampler, Antithetic):
                raise GpulimeError(f"{WITH_SHAPLEY}; got sampler={sampler.name!r}")
            self.sampler = Sizes(sampler.seed, n_samples)
        self.stopping, self._warned, self._tried, self._looked = stopping, False, False, False
        self._known: set[tuple[int, bool]] = set()  # numbers of parts, with all masks or not, for which the kernel is right

    @property
    def device(self) -> torch.device:
        """Device on which inputs from the CPU are explained."""
        return self.predictor.device(torch.empty(0))

    def prepare(self, batch: Any) -> Iterator[Flight]:
        """Turn a batch into flights of a few inputs each, for `queue`; every transfer from a GPU to the host happens here."""
        for inputs in self.masker.masked(batch):
            self._check(inputs)
            for piece in _pieces(inputs, self.n_samples):
                with devices.exact(piece.counts.device):  # a design's masks are the same in the caller's autocast
                    flight = self._flight(piece)
                yield flight

    def _flight(self, inputs: Masked) -> Flight:
        if not isinstance(self.sampler, Design):
            if has_equal_masks(inputs, self.n_samples):
                return PlannedFlight.distinct(inputs, self.n_samples, self.sampler, self.top_labels)
            return Flight(inputs, self.n_samples, self.sampler, self.top_labels)
        n_samples = None if self.stopping else self.n_samples
        process, shapley = self.settings.estimator == "gp", self.settings.kernel == SHAPLEY
        flight = DesignedFlight.of(inputs, n_samples, self.sampler, self.top_labels, self.stopping, process or shapley)
        if self.settings.estimator != "ridge" and not shapley and not callable(self.settings.distance):
            counts = set(zip(inputs.sizes.tolist(), flight.plan.exhaustive, strict=True))
            for count, whole in counts - self._known:
                if whole or process:
                    walsh.check_kernel(count, self.settings, whole)
            self._known |= counts
        return flight

    def queue(self, progress: Callable[[int], object] | None = None) -> Queue[E]:
        """Make an empty queue; ``put`` the flights from `prepare`, and ``finish`` it after the last."""
        return Queue(self.predictor, self.batch_size, self.solve, progress)

    def solve(self, flight: Flight) -> E | None:
        """Fit the surrogates of a flight with complete outputs; None if it goes on for another round."""
        if self.settings.link == "logit" and isinstance(flight, DesignedFlight) and not self._looked:
            self._looked = True
            needs = "link='logit' needs outputs that are probabilities and sum to 1"
            check(flight.classes > 1, f"{needs}; the model returns one column: take link='identity'")
            check(
                bool(probabilities(flight.whole).all()),
                f"{needs}: activation='softmax', or None if the model has a softmax, or else link='identity'; "
                f"got outputs from {float(flight.whole.min()):.3g} to {float(flight.whole.max()):.3g}",
            )
        with devices.exact(flight.labels.device):  # the queue solves between model batches, which may have autocast on
            if isinstance(flight, DesignedFlight):
                found = rounds.solve(flight, self.settings)
            else:
                found = fit.solve(flight, self.settings)
        return None if found is None else cast(E, flight.inputs.explained(found | _common(flight)))

    def explained(self, batch: Any) -> Iterator[E]:
        """Explain a single batch, without waiting for another to fill its last rows; ``len(batch)`` is its number of inputs."""
        queue = self.queue()
        flights = self._announced(batch)
        last = next(flights, None)
        if last is None:
            return
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
            Called with the number of rows after each model batch, while the model is in eval mode.

        Yields
        ------
        Explanations
            In the order of the inputs; a large batch may come back in several pieces.
        """
        queue = self.queue(progress)
        for batch in batches:
            for flight in self._announced(batch):
                yield from queue.put(flight)
        yield from queue.finish()

    def predicted(self, batch: Any, masks: Tensor) -> Iterator[Tensor]:
        """Outputs (n, s, l) of a batch for its labels and given masks (n, s, k) bool, without a fit; a few inputs at a time."""

        def begin(piece: Masked, where: slice) -> Flight:
            fits = f"masks must be (n, s, k) with k of {piece.most} {piece.parts} or more; got {tuple(masks.shape)}"
            check(masks.shape[2] >= piece.most, fits)
            given = _widened(masks[where].to(piece.keys.device), piece.k)
            return Flight(piece, masks.shape[1], given, self.top_labels)

        return self.passed(batch, masks.shape[1], begin, Flight.outputs)

    def passed(self, batch: Any, s: int, begin: Callable[[Masked, slice], F], solve: Callable[[F], T]) -> Iterator[T]:
        """Pass a batch without a fit; results come in the order of the inputs, a few of them at a time.

        Parameters
        ----------
        batch : as for `prepare`
        s : int
            About the rows of an input, by which inputs are put together in flights.
        begin : callable
            (some inputs, their place in the batch, a slice) -> flight
        solve : callable
            Complete flight -> result.
        """
        queue: Queue[T] = Queue(self.predictor, self.batch_size, cast(Callable[[Flight], T], solve), self.progress)
        self.predictor.announce(len(batch) * s)
        done = 0
        for inputs in self.masker.masked(batch):
            for piece in _pieces(inputs, s):
                yield from queue.put(begin(piece, slice(done, done + len(piece))))
                done += len(piece)
        yield from queue.finish()

    def redrawn(self, seed: int, n_samples: int | None = None) -> Self:
        """The same explainer, with the same model, and other masks.

        Parameters
        ----------
        seed : int
        n_samples : int, optional
            By default the same number.
        """
        made = copy(self)
        made.seed, made.n_samples = seed, self.n_samples if n_samples is None else n_samples
        made.sampler = cast(Any, type(self.sampler))(seed, made.n_samples)
        return made

    def _announced(self, batch: Any) -> Iterator[Flight]:
        """Flights of a batch; once the first one is there, and so the inputs are valid, the batch's rows are announced."""
        for i, flight in enumerate(self.prepare(batch)):
            if i == 0:
                alone = 1 if flight.inputs.shared else len(batch)
                self.predictor.announce(len(batch) + alone * (self.n_samples - 1))
            yield flight

    def _check(self, inputs: Masked) -> None:
        """Fail before any forward if a fit is impossible; warn once if only the penalty makes it possible."""
        k, estimator = inputs.most, self.settings.estimator
        if isinstance(self.sampler, Exhaustive):
            most, setting = self.n_samples, "n_samples"
            if self.stopping is not None:
                most, setting = self.stopping.max_samples, "max_samples"
            needs = f"sampler='exhaustive' takes all 2^{k} masks of {k} {inputs.parts}, and {setting} = {most}"
            with stage("masks"):
                check(2**k <= most, f"{needs}: take {setting} = 2^{k}, fewer {inputs.parts} or sampler='blocks'")
        pairs = isinstance(self.sampler, Design)
        # A mask and its complement differ by a constant, and sample 0 counts for lime's ridge only.
        different = (self.n_samples - 1) // 2 + (estimator == "ridge") if pairs else self.n_samples
        settled = self.stopping is not None or (pairs and 2**k <= self.n_samples)
        if self.n_samples < k and estimator == "gp" and not settled:
            why = "coefficients depend on the prior of estimator='gp'"
            self._warn_of_few(f"n_samples = {self.n_samples} is below k = {k} {inputs.parts}: {why}; take at least k samples")
        if k >= different and estimator != "gp" and not settled:
            few = f"n_samples = {self.n_samples}{', in pairs,' if pairs else ''}"
            without = f"{few} cannot fit k = {k} {inputs.parts} with"
            check(estimator == "ridge", f"{without} estimator={estimator!r}; take more samples or another estimator")
            check(self.settings.alpha > 0, f"{without} alpha = 0; take more samples or alpha > 0")
            more = f"{'not above twice' if pairs else 'not above'} k = {k} {inputs.parts}"
            times = 4 if pairs else 2
            why = "coefficients depend on the ridge penalty alpha"
            self._warn_of_few(f"{few} is {more}: {why}; take at least {times} k = {times * k} samples")
        check_memory(k, inputs.keys.device, inputs.one, inputs.parts)
        if not self._tried and (callable(self.settings.kernel) or callable(self.settings.distance)):
            self._tried = True  # test the user's kernel and distance with two masks
            proximity(torch.ones(1, 2, k, dtype=torch.bool), torch.tensor([k]), self.settings)

    def _warn_of_few(self, message: str) -> None:
        """Warn of too few samples, once."""
        if not self._warned:
            self._warned = True
            warnings.warn(message, stacklevel=3)


def _pieces(inputs: Masked, n_samples: int) -> Iterator[Masked]:
    """Inputs by flights; those that share their neighbourhood fly together."""
    device, each = inputs.keys.device.type, 2 * row_bytes(inputs.kind) + n_samples * inputs.k  # input, fill and masks
    size = max(1, FLIGHT_ROWS[device] // n_samples, FLIGHT_BYTES[device] // each)
    if inputs.shared or size >= len(inputs):
        yield inputs
        return
    yield from map(inputs.part, slices(len(inputs), size))


def _widened(masks: Tensor, k: int) -> Tensor:
    """Pad or cut masks to (n, s, k); columns beyond an input's parts have no meaning."""
    return masks[..., :k] if masks.shape[-1] >= k else torch.nn.functional.pad(masks, (0, k - masks.shape[-1]))


def _common(flight: Flight) -> dict[str, Tensor]:
    """Tensors of `gpulime.explanations.batch.Explanations` that need no fit."""
    return {
        "labels": flight.labels,
        "predictions": flight.first.clone(),
        "predicted": flight.predicted,
        "predicted_probs": flight.predicted_probs,
        "counts": flight.inputs.counts,
    }
