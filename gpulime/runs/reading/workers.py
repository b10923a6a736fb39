"""Worker processes that read and segment images: restarted if one dies or hangs, until the image at fault is found.

Without workers an image that hangs also hangs the run.
"""

from __future__ import annotations

import multiprocessing
import pickle
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from gpulime.config import DataConfig
from gpulime.device import out_of_memory
from gpulime.errors import GpulimeError
from gpulime.images.segments import on_device, segment_one
from gpulime.runs.progress import signals
from gpulime.runs.progress.terminal import note
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.sources import Item
from gpulime.segments import Segmenter

KIND = "worker"  # of an error row: the image crashes or blocks its worker
REBUILDS = 3  # of workers for the same images, before reading these one by one
MOST_PATIENCE = 8  # times data.timeout_seconds, for images that fail together but not alone
POLL_SECONDS = 0.5
LAST_SECONDS = 5.0  # for a worker to end after its last images
READY = b"."  # of a worker that has started
HEADER = 8  # bytes of a message's length
CHUNK = 1 << 20

Reader = Callable[[Item], Read]


class LostWorkerError(Exception):
    """A worker died or hangs; the message says which."""


class NotStartedError(LostWorkerError):
    """A worker died before it read anything."""


@dataclass(frozen=True)
class _One:
    """Read and segment one item; without memory for it, it becomes an error."""

    reader: Reader
    segmenter: Segmenter | None

    def __call__(self, item: Item) -> Read:
        try:
            read = self.reader(item)
            item = read.item
            return self._segmented(read)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return _no_memory(item, error)

    def _segmented(self, read: Read) -> Read:
        if self.segmenter is None or read.segments is not None:
            return read
        if read.pixels is None or read.pixels.is_floating_point():
            return read
        picture = read.pixels.permute(1, 2, 0).numpy().astype(np.float32) / 255
        try:
            return replace(read, segments=segment_one(self.segmenter, picture))
        except GpulimeError as error:
            kind = "out_of_memory" if out_of_memory(error.__cause__ or error) else "segments"
            return Read(read.item, error=str(error), kind=kind)


def _no_memory(item: Item, error: BaseException) -> Read:
    return Read(item, error=f"no memory to read it: {error}", kind="out_of_memory")


class _Worker:
    """A process that reads groups of items in order, one group ahead of `receive`: then its socket is full."""

    def __init__(self, read: _One, groups: Sequence[Sequence[Item]]) -> None:
        self._socket, theirs = socket.socketpair()
        self._bytes, self._started = bytearray(), False
        self._process = multiprocessing.Process(target=_work, args=(read, groups, theirs), daemon=True)
        try:
            self._process.start()
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # the last two before Python 3.14
            self._socket.close()
            raise GpulimeError(f"the dataset cannot be sent to a worker process: {error}. {_remedy()}") from error
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()  # here, so that the worker's end is seen

    def receive(self, seconds: float) -> Read | None:
        """The next read, or None after ``seconds``, also in the middle of a message.

        Raises
        ------
        LostWorkerError
            If the worker has ended.
        """
        end = time.monotonic() + seconds
        while len(self._bytes) < (size := self._size):
            if (left := end - time.monotonic()) <= 0:
                return None
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(CHUNK)
            except TimeoutError:
                return None
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise (LostWorkerError if self._started else NotStartedError)("a worker process was killed or died")
            self._bytes += chunk if self._started else chunk.removeprefix(READY)
            self._started = True
        found = pickle.loads(self._bytes[HEADER:size])
        del self._bytes[:size]
        if isinstance(found, Exception):
            raise found
        read: Read = found
        return read

    @property
    def _size(self) -> int:
        """Bytes of the message that is arriving; of its header until that is there."""
        return HEADER + (int.from_bytes(self._bytes[:HEADER], "big") if len(self._bytes) >= HEADER else 0)

    def end(self, at_once: bool) -> None:
        """End the process; unless ``at_once`` it may end by itself first."""
        if not at_once:
            self._process.join(LAST_SECONDS)
        self._process.kill()  # a stopped process ignores SIGTERM
        self._process.join(LAST_SECONDS)  # a process that waits for a dead network path does not end
        self._socket.close()


def _work(read: _One, groups: Sequence[Sequence[Item]], receiver: socket.socket) -> None:
    signals.leave_to_parent()
    torch.set_num_threads(1)  # there is a process for each core, and threads do not survive a fork
    with suppress(ConnectionError):  # the run has ended
        receiver.sendall(READY)
        for items in groups:
            for message in [_message(read, item) for item in items]:
                receiver.sendall(len(message).to_bytes(HEADER, "big"))
                receiver.sendall(message)


def _message(read: _One, item: Item) -> bytes:
    try:
        found = read(item)
    except Exception as error:  # for the run
        return pickle.dumps(error)
    try:
        return pickle.dumps(found)
    except Exception as error:  # torch's own may hide a MemoryError, such as a closed file's
        return pickle.dumps(_no_memory(item, error))


def _remedy() -> str:
    how = f"Python starts processes by {multiprocessing.get_start_method()!r} here"
    needed = "define the dataset in a module, and begin a script with if __name__ == '__main__'"
    return f"{how}: unless that is 'fork', {needed}. Or read without worker processes"


@dataclass(frozen=True)
class Workers:
    """Settings for reading items.

    Attributes
    ----------
    reader : callable Item -> Read
    segmenter : Segmenter or None
        Segments each image in the worker, so that a failed segmentation is one error; None if the explainer segments.
    batch_size : items read together, as one group
    count : number of processes; 0 reads in the main one
    timeout_seconds : a worker without output for this long counts as hanging
    waiting : called every `POLL_SECONDS` while waiting for a worker; its errors are passed on
    """

    reader: Reader
    segmenter: Segmenter | None
    batch_size: int
    count: int
    timeout_seconds: float
    waiting: Callable[[], object] = lambda: None

    def read(self, items: Sequence[Item]) -> Iterator[list[Read]]:
        """All items in order, ``batch_size`` at a time; an item that crashes its worker becomes an error."""
        if not self.count:
            read = _One(self.reader, self.segmenter)
            yield from ([read(item) for item in group] for group in _groups(items, self.batch_size))
            return
        start, losses, seconds = 0, 0, self.timeout_seconds
        while start < len(items):
            try:
                for reads in self._passed(items[start:], self.batch_size, self.count, seconds):
                    start, losses = start + len(reads), 0
                    yield reads
            except LostWorkerError as lost:
                losses += 1
                if losses > REBUILDS and isinstance(lost, NotStartedError):  # no image is at fault
                    raise GpulimeError(f"no worker process starts, in {losses} tries. {_remedy()}") from lost
                again = f"in new ones, try {losses} of {REBUILDS}" if losses <= REBUILDS else "one by one"
                note(f"gpulime: {lost}; images are read again, {again}")
            if losses > REBUILDS:
                alone = [self._read_alone(item) for item in items[start : start + self.batch_size]]
                if all(read.kind != KIND for read in alone):
                    seconds = min(2 * seconds, MOST_PATIENCE * self.timeout_seconds)
                    note(
                        "gpulime: one by one they were read without trouble. Together they may need more memory than there "
                        f"is, or more time than data.timeout_seconds ({seconds:g} s from here on)"
                    )
                start, losses = start + len(alone), 0
                yield alone

    def _read_alone(self, item: Item) -> Read:
        try:
            [[read]] = self._passed([item], 1, 1, self.timeout_seconds)
        except LostWorkerError as lost:
            return Read(item, error=f"{lost}, {REBUILDS + 1} times, and alone with this image", kind=KIND)
        return read

    def _passed(self, items: Sequence[Item], batch_size: int, count: int, seconds: float) -> Iterator[list[Read]]:
        """Read items in ``count`` new processes; raises `LostWorkerError` for the first lost one."""
        read, groups = _One(self.reader, self.segmenter), _groups(items, batch_size)
        workers: list[_Worker] = []
        over = False
        try:
            workers.extend(_Worker(read, groups[i::count]) for i in range(min(count, len(groups))))
            for i in range(len(groups)):
                yield self._next(workers[i % count], len(groups[i]), seconds)
            over = True
        finally:
            for worker in workers:
                worker.end(at_once=not over)

    def _next(self, worker: _Worker, n: int, seconds: float) -> list[Read]:
        """The next n reads of a worker."""
        end, reads = time.monotonic() + seconds, list[Read]()
        while len(reads) < n:
            if (read := worker.receive(POLL_SECONDS)) is not None:
                reads.append(read)
                continue
            if time.monotonic() > end:
                limit = f"data.timeout_seconds is {self.timeout_seconds:g}"
                raise LostWorkerError(f"a worker process gave nothing for {seconds:g} s ({limit})")
            self.waiting()
        return reads


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def read_all(
    items: Sequence[Item],
    reader: Reader,
    segmenter: Segmenter,
    device: torch.device,
    batch_size: int,
    workers: int,
    timeout_seconds: float = DataConfig.timeout_seconds,
    waiting: Callable[[], object] = lambda: None,
) -> Iterator[list[Read]]:
    """Read all items in order, ``batch_size`` at a time, in worker processes; see `Workers`.

    Workers also segment, except if the explainer's device does it, and for floats, which may be normalised.
    """
    on_the_way = None if on_device(segmenter, device) else segmenter
    return Workers(reader, on_the_way, batch_size, workers, timeout_seconds, waiting).read(items)
