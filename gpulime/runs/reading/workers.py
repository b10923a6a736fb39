"""Worker processes that read and segment images: restarted if one dies or hangs, until the image at fault is found.

Without workers an image that hangs also hangs the run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from gpulime.config import DataConfig
from gpulime.device import out_of_memory
from gpulime.errors import GpulimeError
from gpulime.images.segments import on_device, segment_one
from gpulime.runs.progress import signals
from gpulime.runs.progress.terminal import note
from gpulime.runs.reading.pack import apart
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.receiver import POLL_SECONDS, Receiver
from gpulime.runs.reading.sources import Item
from gpulime.segments import Segmenter

KIND = "worker"  # of an error row: the image crashes or blocks its worker
REBUILDS = 3  # of workers for the same images, before reading these one by one
MOST_PATIENCE = 8  # times data.timeout_seconds, for images that fail together but not alone
SILENT_POLLS = 4  # after a worker's end, for the rest of its last message
DIED = "a worker process was killed or died"

Reader = Callable[[Item], Read]


class LostWorkerError(Exception):
    """A worker died or hangs; the message says which."""


@dataclass(frozen=True)
class _Reads(Dataset[Read]):
    items: Sequence[Item]
    reader: Reader
    segmenter: Segmenter | None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Read:
        item = self.items[index]
        try:
            read = self.reader(item)
            item = read.item
            return self._segmented(read)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return Read(item, error=f"no memory to read it: {error}", kind="out_of_memory")

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


@dataclass(frozen=True)
class Workers:
    """Settings for reading items.

    Attributes
    ----------
    reader : callable Item -> Read
    segmenter : Segmenter or None
        Segments each image in the worker, so that a failed segmentation is one error; None if the explainer segments.
    batch_size : int
        Items per message.
    count : int
        Number of processes; 0 reads in the main one.
    timeout_seconds : float
        A worker without output for this long counts as hanging.
    waiting : callable
        Called every `POLL_SECONDS` while waiting for a worker; its errors are passed on.
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
            yield from self._loader(items, self.batch_size, 0)
            return
        start, losses, seconds = 0, 0, self.timeout_seconds
        while start < len(items):
            try:
                for reads in self._passed(items[start:], self.batch_size, self.count, seconds):
                    start, losses = start + len(reads), 0
                    yield reads
            except LostWorkerError as lost:
                losses += 1
                again = f"in new ones, try {losses} of {REBUILDS}" if losses <= REBUILDS else "one by one"
                note(f"gpulime: {lost}; images are read again, {again}")
            if losses > REBUILDS:
                alone = [self._read_alone(item) for item in items[start : start + self.batch_size]]
                if all(read.kind != KIND for read in alone):
                    seconds = min(2 * seconds, MOST_PATIENCE * self.timeout_seconds)
                    note(
                        "gpulime: one by one they were read without trouble. Together they may need more time than "
                        f"data.timeout_seconds ({seconds:g} s from here on), more shared memory (/dev/shm) or larger files "
                        "(ulimit -f) than there are"
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
        with _children_unheard():
            receiver, over = Receiver(self._loader(items, batch_size, count)), False
            try:
                for _ in range(0, len(items), batch_size):
                    reads = self._next(receiver, seconds)
                    if isinstance(reads, str):
                        raise LostWorkerError(reads)
                    yield reads
                over = True
            finally:
                receiver.close(at_once=not over)  # while its workers are silent

    def _next(self, receiver: Receiver, seconds: float) -> list[Read] | str:
        """The next result, or the reason for its absence."""
        end, silent = time.monotonic() + seconds, 0
        receiver.ask()
        while True:
            try:
                handed = receiver.take(POLL_SECONDS)
                if handed is not None:
                    reads: list[Read] = handed.together()
                    return reads
            except (ConnectionError, EOFError, FileNotFoundError):  # it ended while sending pixels
                return DIED
            except RuntimeError as error:
                if str(error).startswith("DataLoader worker"):  # the loader's message
                    return DIED
                raise
            silent = silent + 1 if receiver.bereft else 0
            if silent == SILENT_POLLS:
                return DIED
            if time.monotonic() > end:
                return f"a worker process gave nothing for {seconds:g} s (data.timeout_seconds is {self.timeout_seconds:g})"
            self.waiting()

    def _loader(self, items: Sequence[Item], batch_size: int, count: int) -> Any:
        return DataLoader(
            _Reads(items, self.reader, self.segmenter),
            batch_size=batch_size,
            num_workers=count,
            collate_fn=apart if count else list,
            generator=torch.Generator(),  # its own, since the global random state belongs to the user
            worker_init_fn=partial(_start_worker, os.getpid()),
            timeout=POLL_SECONDS if count else 0,  # to check the workers; `_next` has the timeout
        )


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


def _start_worker(parent: int, number: int) -> None:
    signals.leave_to_parent(parent)


@contextmanager
def _children_unheard() -> Iterator[None]:
    """Inside, torch does not raise in the main thread when a worker dies.

    If a loader of the caller has set torch's handler of SIGCHLD, it would raise anywhere, such as in the middle of the model.
    Any other handler stays.
    """
    handler: Any = signal.getsignal(signal.SIGCHLD)
    main = threading.current_thread() is threading.main_thread()
    if not main or getattr(handler, "__module__", None) != signal_handling.__name__:
        yield
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
