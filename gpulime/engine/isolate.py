"""Isolate failures: items are explained together, and each alone if that fails, so that one bad item fails alone.

Masks are a function of an item's key, so an item gets the same masks alone and in a batch.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from gpulime import device as devices
from gpulime.engine.flight import Flight
from gpulime.engine.model import Predictor
from gpulime.engine.queue import Queue

Item = TypeVar("Item")
Piece = TypeVar("Piece")  # a result of the queue on the host, for one item or several


class DeviceError(Exception):
    """The device is unusable in this process; the cause is the device's own error, ``items`` have no explanation."""

    def __init__(self, items: Sequence[Any]) -> None:
        super().__init__()
        self.items = items


@dataclass(frozen=True)
class Explained(Generic[Item, Piece]):
    """An explained item: number ``i`` of a piece of explanations."""

    item: Item
    piece: Piece
    i: int


@dataclass(frozen=True)
class Failed(Generic[Item]):
    """An item that failed alone, or before it came, and its error."""

    item: Item
    error: BaseException


class Isolate(Generic[Item, Piece]):
    """Explains items in one queue and isolates failing items; each item has one outcome, in order.

    If the queue fails, any item in flight may be the reason, since a model batch holds rows of several items. Each of them is
    then explained alone.

    Parameters
    ----------
    queue : callable, alone -> an empty queue, for one item if ``alone`` is true
    flights : callable, item -> its flights, to be explained alone
    size : callable, result of the queue -> the number of its items
    fetching : callable, optional
        Starts the copy of a result of the queue to the host; calling what it returns waits for the copy and gives the piece.
    passes : exception types that are re-raised, since no item causes them
    once : bool
        If True, an item that fails without others in flight is not tried again.
    """

    def __init__(
        self,
        predictor: Predictor,
        device: torch.device,
        queue: Callable[[bool], Queue[Any]],
        flights: Callable[[Item], Iterator[Flight]],
        size: Callable[[Any], int],
        fetching: Callable[[Any], Callable[[], Piece]] = lambda piece: lambda: piece,
        passes: tuple[type[BaseException], ...] = (),
        once: bool = False,
    ) -> None:
        self.predictor, self.device, self.passes, self.once = predictor, device, passes, once
        self._new_queue, self._flights, self._size, self._fetching = queue, flights, size, fetching
        self._queue = queue(False)
        self._waiting: deque[Item | Failed[Item]] = deque()  # items without an outcome yet, in order
        self._coming: deque[tuple[Callable[[], Piece], list[Item]]] = deque()  # on their way to the host
        self._most = predictor.most  # its value when an item was last explained

    @property
    def behind(self) -> int:
        """Items that have failed already, and wait for the outcome of an earlier item."""
        return len(self._waiting) - len(self._unexplained())

    def put(
        self, items: Sequence[Item | Failed[Item]], flights: Iterable[Flight], ahead: int = 0
    ) -> Iterator[Explained[Item, Piece] | Failed[Item]]:
        """Add items and pass full model batches; yield all but the last ``ahead`` pieces.

        Items that have failed already have no rows in ``flights``; they are yielded in their turn.

        Raises
        ------
        DeviceError
            If the device is unusable in this process.
        """
        self._waiting.extend(items)
        return self._together((piece for flight in flights for piece in self._queue.put(flight)), ahead)

    def finish(self) -> Iterator[Explained[Item, Piece] | Failed[Item]]:
        """Pass the remaining rows."""
        return self._together(self._queue.finish())

    def arrive(self) -> Iterator[Explained[Item, Piece] | Failed[Item]]:
        """Yield the pieces in flight to the host, and pass no more rows."""
        return self._together(iter(()))

    def _together(self, pieces: Iterator[Any], ahead: int = 0) -> Iterator[Explained[Item, Piece] | Failed[Item]]:
        most = self.predictor.most
        error = yield from self._attempt(pieces, ahead)
        if error is None:
            return
        if self.once and len(self._waiting) == 1 and self.predictor.most == most:
            self._queue = self._new_queue(False)
            yield self._failed(error)
            return
        del error, pieces  # frees the failed batch's memory on the device
        if (yield from self._attempt(iter(()))) is not None:  # pieces that were passed before the failure
            self._coming.clear()  # their items are still waiting, and are explained alone
        self._queue = self._new_queue(False)
        while items := self._unexplained():
            yield from self._alone(items[0])

    def _alone(self, item: Item) -> Iterator[Explained[Item, Piece] | Failed[Item]]:
        most = self.predictor.most
        error = yield from self._attempt(self._passed(item))
        while error is not None and self.predictor.most < most:
            # Memory ran out after the model had written into its rows: make the rows again and retry with fewer.
            most = self.predictor.most
            error = yield from self._attempt(self._passed(item))
        if error is not None:
            yield from self._already_failed()  # if an earlier piece came and a later one did not
            yield self._failed(error)
            yield from self._already_failed()

    def _passed(self, item: Item) -> Iterator[Any]:
        queue = self._new_queue(True)
        for flight in self._flights(item):
            yield from queue.put(flight)
        yield from queue.finish()

    def _attempt(
        self, pieces: Iterator[Any], ahead: int = 0
    ) -> Generator[Explained[Item, Piece] | Failed[Item], None, BaseException | None]:
        """Yield all but the last ``ahead`` pieces; return the error that ended them, or None."""
        try:
            for piece in pieces:
                before = sum(len(items) for _, items in self._coming)
                items = self._unexplained()[before : before + self._size(piece)]
                self._coming.append((self._fetching(piece), items))
                yield from self._arrived(ahead)
            yield from self._arrived(ahead)
        except (Exception, SystemExit) as error:  # sys.exit in the user's code must not end the run as if it were finished
            if isinstance(error, self.passes):
                raise
            if devices.lost(error, self.device):
                devices.keep_for_good(self._coming)
                self._coming = deque()
                raise DeviceError(self._unexplained()) from error
            if devices.out_of_memory(error):  # another item may need less memory
                self.predictor.most = self._most
            traceback.clear_frames(error.__traceback__)
            return error
        return None

    def _arrived(self, ahead: int) -> Iterator[Explained[Item, Piece] | Failed[Item]]:
        while len(self._coming) > ahead:
            fetched, items = self._coming[0]
            piece = fetched()
            self._coming.popleft()
            self._most = self.predictor.most
            for i, item in enumerate(items):
                while (head := self._waiting.popleft()) is not item:
                    if isinstance(head, Failed):  # else a signal handler raised between two items
                        yield head
                yield Explained(item, piece, i)
        yield from self._already_failed()

    def _already_failed(self) -> Iterator[Failed[Item]]:
        while self._waiting and isinstance(head := self._waiting[0], Failed):
            self._waiting.popleft()
            yield head

    def _failed(self, error: BaseException) -> Failed[Item]:
        """The failure of the first item, which is none of those that had failed already."""
        self._coming.clear()  # its piece, if that did not arrive
        item = self._waiting.popleft()
        assert not isinstance(item, Failed)
        return Failed(item, error)

    def _unexplained(self) -> list[Item]:
        return [item for item in self._waiting if not isinstance(item, Failed)]
