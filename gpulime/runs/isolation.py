"""Isolation: images are explained together, and where that fails each by itself, so that a fault costs the image that has it.

Masks hang on an image's key alone, so that an image has the same ones by itself and among others.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gpulime import device as devices
from gpulime.errors import GpulimeError, line_of
from gpulime.explainer import Explainer
from gpulime.explanations.batch import Explanations
from gpulime.images.batch import Batch
from gpulime.runs.progress.exits import DeviceLostError, EndOfRunError, ModelFailsError
from gpulime.runs.progress.signals import Stopped
from gpulime.runs.reading.read import Group, Read
from gpulime.runs.store.store import DEVICE

# Pieces of explanations that may be on their way to the CPU while a device works on the next ones.
AHEAD = defaultdict(int, cuda=1)
UNPROVEN_IMAGES = 8  # a model that fails for so many, before it has explained any, fails for all
MESSAGE_LENGTH = 1000
KINDS = {
    "gpulime.images.batch": "image",
    "gpulime.images.normalisation": "image",
    "gpulime.segments": "segments",
    "gpulime.images.segments": "segments",
    "gpulime.images.fills": "fill",
    "gpulime.engine.masks": "masks",
    "gpulime.engine.model": "model",
    "gpulime.engine.surrogate": "surrogate",
    "gpulime.engine.proximity": "surrogate",
    "gpulime.engine.selection": "surrogate",
    "gpulime.engine.ridge": "surrogate",
}
ELSEWHERE = "explainer"


@dataclass(frozen=True)
class Finished:
    """An image that is explained: number ``i`` of explanations on the CPU."""

    read: Read
    explanations: Explanations
    i: int


Outcome = Finished | Read  # a `Read` with its error


class Isolation:
    """Explains images and finds those that fail.

    Parameters
    ----------
    explainer : Explainer
    alone : callable Read -> Batch
        The batch of one image.
    progress : callable
        Called with the number of rows after each model batch; an `EndOfRunError` that it raises goes through.
    proven : bool
        Whether the model is known to explain images of this run: then none of its errors is taken for the model's own.
    suspects : collection of str
        Images that a process had in hand when it lost its device. One that is by itself when that happens again is at fault.
    """

    def __init__(
        self,
        explainer: Explainer,
        alone: Callable[[Read], Batch],
        progress: Callable[[int], None],
        proven: bool,
        suspects: Collection[str] = (),
    ) -> None:
        self.explainer, self.alone, self.progress, self.proven, self.suspects = explainer, alone, progress, proven, suspects
        self._queue = explainer.queue(progress)
        self._waiting: deque[Read] = deque()  # for their explanations, in order
        self._coming: deque[tuple[Callable[[], Explanations], list[Read]]] = deque()  # to the CPU, with whose they are
        self._most = explainer.predictor.most  # rows that fit into memory when an image was last explained
        self._held: list[Read] = []  # failures while nothing is proven
        self._first: BaseException | None = None

    def explain(self, groups: Iterable[Group]) -> Iterator[Outcome]:
        """What becomes of each image, in order; one that could not be read stays as it is.

        Raises
        ------
        DeviceLostError
            Where the device serves this process no more.
        ModelFailsError
            If the model has failed for the first `UNPROVEN_IMAGES` images: then it is no image's fault, and there is nothing
            to wait for. Running out of memory may pass, and is never taken for it.
        """
        try:
            for reads, batch in groups:  # what reading them raises is no fault of the model
                self._waiting.extend(reads)
                if batch is not None:
                    yield from self._together(self._put(batch), AHEAD[self.explainer.device.type])
                yield from self._unread()
            yield from self._together(self._queue.finish())
        except (Exception, Stopped):  # at a place of the run's own, where what is on its way belongs to the first that wait
            yield from self._together(iter(()))
            raise

    def _put(self, batch: Batch) -> Iterator[Explanations]:
        for flight in self.explainer.prepare(batch):
            yield from self._queue.put(flight)

    def _unread(self) -> Iterator[Read]:
        """Those at the head of the queue that could not be read."""
        while self._waiting and self._waiting[0].error is not None:
            yield self._waiting.popleft()

    def _together(self, explained: Iterator[Explanations], ahead: int = 0) -> Iterator[Outcome]:
        error = yield from self._attempt(explained, ahead)
        if error is not None:
            del error, explained  # and with them what the failed batch holds of the device's memory
            if (yield from self._attempt(iter(()))) is not None:  # what was passed before it
                self._coming.clear()  # its images wait, and come again by themselves
            self._queue = self.explainer.queue(self.progress)
            while self._waiting:
                yield from self._by_itself(self._waiting[0])
                yield from self._unread()

    def _stream(self, read: Read) -> Iterator[Explanations]:
        return self.explainer.stream([self.alone(read)], self.progress)

    def _by_itself(self, read: Read) -> Iterator[Outcome]:
        most = self.explainer.predictor.most
        error = yield from self._attempt(self._stream(read))
        while error is not None and self.explainer.predictor.most < most:
            # Memory ran out and the model had written into its rows, so that they had to be made anew: here they are.
            most = self.explainer.predictor.most
            error = yield from self._attempt(self._stream(read))
        if error is None:
            return
        self._waiting.popleft()
        failure = dataclasses.replace(read, error=_reason(error)[:MESSAGE_LENGTH], kind=kind(error))
        if self.proven or devices.out_of_memory(error):
            yield failure
            return
        self._held.append(failure)
        self._first = self._first or error
        if len(self._held) == UNPROVEN_IMAGES:
            self.end()

    def end(self) -> None:
        """To be called after the last image: raises `ModelFailsError` if the model has failed for all there are."""
        if self._first is not None:
            images = "each image" if len(self._held) < UNPROVEN_IMAGES else f"each of the first {UNPROVEN_IMAGES} images"
            reason = _reason(self._first) if isinstance(self._first, GpulimeError) else line_of(self._first)
            raise ModelFailsError(f"the model fails for {images}, also by itself: {reason}") from self._first

    def _attempt(self, explained: Iterator[Explanations], ahead: int = 0) -> Generator[Outcome, None, BaseException | None]:
        """Give what is explained, all but the last ``ahead`` pieces, until the end, or until an error, which is returned."""
        try:
            for explanations in explained:
                self._coming.append((explanations.fetching(), self._next(len(explanations))))
                yield from self._arrived(ahead)
            yield from self._arrived(ahead)
        except EndOfRunError:
            raise
        except (Exception, SystemExit) as error:  # the user's code may call sys.exit, which must not look like the run's end
            if devices.lost(error, self.explainer.device):
                yield from self._lost(error)
            if devices.out_of_memory(error):  # another image may need less of it
                self.explainer.predictor.most = self._most
            traceback.clear_frames(error.__traceback__)
            return error
        return None

    def _arrived(self, ahead: int) -> Iterator[Outcome]:
        while len(self._coming) > ahead:
            fetched, reads = self._coming[0]
            explanations = fetched()
            self._coming.popleft()
            yield from self._finished(explanations, reads)

    def _next(self, n: int) -> list[Read]:
        """Those to whom the next n explanations belong."""
        before = sum(len(reads) for _, reads in self._coming)
        return [read for read in self._waiting if read.error is None][before : before + n]

    def _lost(self, error: BaseException) -> Iterator[Read]:
        """The end, for this process; an image that has cost the device by itself, and was suspected before, is a failure."""
        self._coming.clear()
        reason = str(error).partition("\n")[0]
        in_hand = [read for read in self._waiting if read.error is None]
        if self.proven and len(in_hand) == 1 and in_hand[0].item.image_id in self.suspects:
            culprit = in_hand.pop()
            why = f"the device is lost whenever it is explained, also by itself: {reason}"
            yield dataclasses.replace(culprit, error=why[:MESSAGE_LENGTH], kind=DEVICE)
        end = "what was finished is kept, a new process goes on"
        raise DeviceLostError(f"the device is lost: {reason}; {end}", [read.item.image_id for read in in_hand]) from error

    def _finished(self, explanations: Explanations, reads: Sequence[Read]) -> Iterator[Outcome]:
        self.proven, self._first, self._most = True, None, self.explainer.predictor.most
        yield from self._held
        self._held = []
        for i, read in zip(range(len(explanations)), reads, strict=True):
            if self._waiting[0] is not read:  # something has struck between two images, a signal's handler, say
                raise RuntimeError(f"image {read.item.image_id!r} is not the one that waits")
            yield Finished(self._waiting.popleft(), explanations, i)
            yield from self._unread()


def _reason(error: BaseException) -> str:
    message = str(error).removeprefix("image 0: ")  # its number in a batch of its own
    return message if isinstance(error, GpulimeError) else f"{type(error).__name__}: {message}"


def kind(error: BaseException) -> str:
    """The ``error_type`` of an image that fails: "out_of_memory", or the stage that failed; "model" for the model itself."""
    if devices.out_of_memory(error):
        return "out_of_memory"
    modules = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((KINDS[module] for module in modules if module in KINDS), ELSEWHERE)
