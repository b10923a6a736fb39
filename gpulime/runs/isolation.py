"""Isolation in a run: outcomes in order, and errors of the model or the device that end the run."""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from gpulime import device as devices
from gpulime.engine.isolate import DeviceError, Explained, Failed, Isolate
from gpulime.errors import GpulimeError, line_of
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch
from gpulime.runs.progress.exits import DeviceLostError, EndOfRunError, ModelFailsError
from gpulime.runs.progress.signals import Stopped
from gpulime.runs.reading.read import Group, Read
from gpulime.runs.store.store import DEVICE

# Pieces of explanations in flight to the CPU while the device works on the next ones.
AHEAD = defaultdict(int, cuda=1)
UNPROVEN_IMAGES = 8  # if this many images fail before any is explained, the model is at fault
MESSAGE_LENGTH = 1000
ELSEWHERE = "explainer"


@dataclass(frozen=True)
class Finished:
    """An explained image: number ``i`` of explanations on the CPU."""

    read: Read
    explanations: ExplainedImages
    i: int


Outcome = Finished | Read  # a `Read` with its error


class Isolation:
    """Explains images and isolates failing ones.

    Parameters
    ----------
    explainer : Explainer
    alone : callable Read -> Batch
        The batch of one image.
    progress : callable
        Called with the number of rows after each model batch; it may raise `EndOfRunError`, which ends the run.
    proven : bool
        True if the model has already explained images of this run; errors are then the images'.
    suspects : collection of str
        Ids of images that were in flight when a process lost its device. If it happens again with such an image alone, the
        image is at fault.
    """

    def __init__(
        self,
        explainer: Explainer,
        alone: Callable[[Read], Batch],
        progress: Callable[[int], None],
        proven: bool,
        suspects: Collection[str] = (),
    ) -> None:
        self.explainer, self.proven, self.suspects = explainer, proven, suspects
        self._isolate = Isolate[Read, ExplainedImages](
            explainer.predictor,
            explainer.device,
            queue=lambda alone: explainer.queue(progress),
            flights=lambda read: explainer.prepare(alone(read)),
            size=len,
            fetching=lambda explanations: explanations.fetching(),
            passes=(EndOfRunError,),
        )
        self._waiting: deque[Read] = deque()  # images without an outcome yet, in order, including unreadable ones
        self._held: list[Read] = []  # failures held back until the model has explained an image
        self._first: BaseException | None = None

    def explain(self, groups: Iterable[Group]) -> Iterator[Outcome]:
        """Yield the outcome of each image, in order; an unreadable one is passed on unchanged.

        Raises
        ------
        DeviceLostError
            If the device is unusable in this process.
        ModelFailsError
            If the model has failed for the first `UNPROVEN_IMAGES` images, and so would fail for all. Out-of-memory errors do
            not count, since they may be temporary.
        """
        ahead = AHEAD[self.explainer.device.type]
        try:
            for reads, batch in groups:  # an error of reading is not the model's
                self._waiting.extend(reads)
                if batch is not None:
                    good = [read for read in reads if read.error is None]
                    yield from self._outcomes(self._isolate.put(good, self.explainer.prepare(batch), ahead))
                yield from self._unread()
            yield from self._outcomes(self._isolate.finish())
        except (Exception, Stopped):  # outside the queue, so the pieces in flight belong to the first waiting images
            yield from self._outcomes(self._isolate.arrive())
            raise

    def end(self) -> None:
        """Raise `ModelFailsError` if the model has failed for all images; call it after the last one."""
        if self._first is not None:
            images = "each image" if len(self._held) < UNPROVEN_IMAGES else f"each of the first {UNPROVEN_IMAGES} images"
            reason = _reason(self._first) if isinstance(self._first, GpulimeError) else line_of(self._first)
            raise ModelFailsError(f"the model fails for {images}, also alone: {reason}") from self._first

    def _outcomes(self, found: Iterator[Explained[Read, ExplainedImages] | Failed[Read]]) -> Iterator[Outcome]:
        try:
            for one in found:
                yield from self._failed(one) if isinstance(one, Failed) else self._finished(one)
                yield from self._unread()
        except DeviceError as error:
            yield from self._lost(error.__cause__ or error)

    def _unread(self) -> Iterator[Read]:
        """Yield the unreadable images at the head of the queue."""
        while self._waiting and self._waiting[0].error is not None:
            yield self._waiting.popleft()

    def _finished(self, one: Explained[Read, ExplainedImages]) -> Iterator[Outcome]:
        self.proven, self._first = True, None
        yield from self._held
        self._held = []
        for i, read in enumerate(one.items):
            while (head := self._waiting.popleft()) is not read:  # a signal handler raised between two images
                if head.error is not None:
                    yield head
            yield Finished(read, one.piece, i)
            yield from self._unread()

    def _failed(self, one: Failed[Read]) -> Iterator[Outcome]:
        failure = dataclasses.replace(self._waiting.popleft(), error=_reason(one.error)[:MESSAGE_LENGTH], kind=kind(one.error))
        if self.proven or devices.out_of_memory(one.error):
            yield failure
            return
        self._held.append(failure)
        self._first = self._first or one.error
        if len(self._held) == UNPROVEN_IMAGES:
            self.end()

    def _lost(self, error: BaseException) -> Iterator[Read]:
        """End this process's part; a suspect that was alone when the device was lost again becomes a failure."""
        reason = str(error).partition("\n")[0]
        in_hand = [read for read in self._waiting if read.error is None]
        if self.proven and len(in_hand) == 1 and in_hand[0].item.image_id in self.suspects:
            culprit = in_hand.pop()
            why = f"the device is lost whenever it is explained, also alone: {reason}"
            yield dataclasses.replace(culprit, error=why[:MESSAGE_LENGTH], kind=DEVICE)
        end = "finished rows are kept, and a new process resumes"
        raise DeviceLostError(f"the device is lost: {reason}; {end}", [read.item.image_id for read in in_hand]) from error


def _reason(error: BaseException) -> str:
    message = str(error).removeprefix("image 0: ")  # its number in a batch of one
    return message if isinstance(error, GpulimeError) else f"{type(error).__name__}: {message}"


def kind(error: BaseException) -> str:
    """Return the ``error_type`` of a failure: "out_of_memory", or the stage that failed; "model" for the model itself."""
    if devices.out_of_memory(error):
        return "out_of_memory"
    return getattr(error, "stage", ELSEWHERE)
