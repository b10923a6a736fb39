"""The rows of a model batch: fixed, by their bytes, or found by timing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpulime import device as devices
from gpulime.errors import check, whole

Kind = tuple[tuple[int, ...], torch.dtype, torch.device]  # of rows: shape without b, dtype, device

CPU_BYTES, LEAST_ON_CPU, MOST_ON_CPU = 2**21, 16, 256  # bytes and rows of a batch on a CPU


class BatchSize:
    """The number of rows per model batch: fixed, or chosen by "auto".

    On a CPU "auto" takes about `CPU_BYTES` of rows: 16 rows of 224 x 224 pixels, more of small ones, whose batches cost mostly
    calls. On a GPU it times the queue's own first batches. Sizes double from 32 for as long as rows per second rise; each size
    runs once to warm up and twice for the clock. The rows are real ones, so the search costs no forwards; the host waits for
    each of its batches. If ten batches in a row are too small for the size that is to be tried, the search ends there. A model
    that shall be compiled is compiled after the search, since each size would be compiled, too.

    Parameters
    ----------
    b : int or "auto"
    """

    TIMED, MISSED = 2, 10

    def __init__(self, b: int | str) -> None:
        if isinstance(b, str):
            check(b == "auto", f"batch_size must be a positive integer or 'auto'; got {b!r}")
        else:
            b = whole("batch_size", b, 1)
        self.setting = b
        self._best: dict[Kind, int] = {}
        self._trial: dict[Kind, _Trial] = {}

    def get(self, kind: Kind, most: int) -> int:
        """Rows for the next batch, ``most`` of them at most, for which there is memory."""
        if isinstance(self.setting, int):
            return min(self.setting, most)
        if kind not in self._best and kind not in self._trial:
            if kind[2].type == "cpu":
                self._best[kind] = min(MOST_ON_CPU, max(LEAST_ON_CPU, CPU_BYTES // _bytes(kind)))
            else:
                self._trial[kind] = _Trial(kind)
        trial = self._trial.get(kind)
        if trial is not None and trial.b > most:  # memory ran out: larger ones need not be tried, and others may have room
            self._best[kind] = self._trial.pop(kind).best
        return min(self._best[kind] if kind in self._best else self._trial[kind].b, most)

    def is_found(self, kind: Kind) -> bool:
        """Whether no more sizes will be tried."""
        return isinstance(self.setting, int) or kind in self._best

    @contextmanager
    def timed(self, b: int, kind: Kind) -> Iterator[None]:
        """Around one batch of b rows: takes its time while the search lasts."""
        trial = self._trial.get(kind)
        if trial is None or trial.b != b:
            yield
            self._miss(kind)
            return
        device = kind[2]
        devices.synchronize(device)
        start = time.perf_counter()
        yield
        devices.synchronize(device)
        trial.observe(time.perf_counter() - start)
        if trial.done:
            self._best[kind] = self._trial.pop(kind).best

    def _miss(self, kind: Kind) -> None:
        """A batch was not of the size that is to be tried."""
        if (trial := self._trial.get(kind)) is not None:
            trial.missed += 1
            if trial.missed == self.MISSED:
                self._best[kind] = self._trial.pop(kind).best


def _bytes(kind: Kind) -> int:
    shape, dtype, _ = kind
    return math.prod(shape) * dtype.itemsize


class _Trial:
    """The search for one shape, precision and device."""

    FIRST, GAIN, PATIENCE = 32, 1.03, 2  # the second size in a row that brings nothing ends the search
    BYTES = 2**28  # of input rows: beyond, a batch is large for any model

    def __init__(self, kind: Kind) -> None:
        self.b = self.best = self.FIRST
        self.rate, self.worse, self.done = 0.0, 0, False
        self.most = max(self.b, self.BYTES // _bytes(kind))
        self.times: list[float] = []
        self.missed = 0  # batches since the last of this size

    def observe(self, seconds: float) -> None:
        self.times.append(seconds)
        self.missed = 0
        if len(self.times) <= BatchSize.TIMED:  # the first warms up
            return
        rate = self.b / min(self.times[1:])
        if rate > self.rate * self.GAIN:
            self.best, self.rate, self.worse = self.b, rate, 0
        else:
            self.worse += 1
        self.times = []
        self.b *= 2
        self.done = self.worse >= self.PATIENCE or self.b > self.most
