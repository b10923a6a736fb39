"""Number of rows in a model batch: fixed, from the bytes of a row, or found by timing."""

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
FIRST_BYTES, LEAST_AT_FIRST, MOST_AT_FIRST = 2**27, 32, 1024  # of the first size that is tried on a GPU


class BatchSize:
    """Number of rows per model batch: fixed, or chosen by "auto".

    On a CPU "auto" takes about `CPU_BYTES` of rows: 16 rows of 224 x 224 pixels, more if rows are small and overhead per call
    dominates. On a GPU it times the queue's first batches. Sizes double from about `FIRST_BYTES` of rows while rows per second
    rise; each size runs once to warm up and twice timed. The search uses real rows, so it costs no extra forwards, but the host
    waits for each of its batches, and libraries choose their kernels for each size, which can take seconds. So it ends if few
    rows are left, or if ten batches in a row are smaller than the size to try. A model is compiled after the search, since each
    size would be compiled too.

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
        """Rows for the next batch, at most ``most``, the number that fits into memory."""
        if isinstance(self.setting, int):
            return min(self.setting, most)
        if kind not in self._best and kind not in self._trial:
            if kind[2].type == "cpu":
                self._best[kind] = min(MOST_ON_CPU, max(LEAST_ON_CPU, CPU_BYTES // row_bytes(kind)))
            else:
                self._trial[kind] = _Trial(kind)
        trial = self._trial.get(kind)
        if trial is not None and trial.b > most:  # memory ran out: end the search for this kind; others may still have room
            self._best[kind] = self._trial.pop(kind).best
        return min(self._best[kind] if kind in self._best else self._trial[kind].b, most)

    def is_found(self, kind: Kind) -> bool:
        """Tell if the search for this kind is over."""
        return isinstance(self.setting, int) or kind in self._best

    @contextmanager
    def timed(self, b: int, kind: Kind, left: float = math.inf) -> Iterator[None]:
        """Time one batch of b rows while the search lasts; ``left`` rows are known to follow."""
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
        trial.observe(time.perf_counter() - start, left)
        if trial.done:
            self._best[kind] = self._trial.pop(kind).best

    def _miss(self, kind: Kind) -> None:
        """Count a batch of another size than the one to try; end the search after `MISSED` in a row."""
        if (trial := self._trial.get(kind)) is not None:
            trial.missed += 1
            if trial.missed == self.MISSED:
                self._best[kind] = self._trial.pop(kind).best


def row_bytes(kind: Kind) -> int:
    """Bytes of one row."""
    shape, dtype, _ = kind
    return math.prod(shape) * dtype.itemsize


class _Trial:
    """Search for the best size, for one shape, dtype and device."""

    GAIN, PATIENCE = 1.03, 2  # the search ends after two sizes in a row that are less than 3 % faster
    WORTH = 4  # times what the first batch of a size takes longer: the forwards that must be left to try another
    BYTES = 2**30  # of input rows: the largest batch that is tried

    def __init__(self, kind: Kind) -> None:
        self.b = self.best = min(MOST_AT_FIRST, max(LEAST_AT_FIRST, 2 ** (FIRST_BYTES // row_bytes(kind)).bit_length() // 2))
        self.rate, self.worse, self.done = 0.0, 0, False
        self.most = max(self.b, self.BYTES // row_bytes(kind))
        self.times: list[float] = []
        self.missed = 0  # batches of other sizes since the last of this size

    def observe(self, seconds: float, left: float = math.inf) -> None:
        self.times.append(seconds)
        self.missed = 0
        if len(self.times) <= BatchSize.TIMED:  # the first warms up
            return
        first, best = self.times[0], min(self.times[1:])
        rate = self.b / best
        if rate > self.rate * self.GAIN:
            self.best, self.rate, self.worse = self.b, rate, 0
        else:
            self.worse += 1
        self.times = []
        self.b *= 2
        few = left / self.rate < self.WORTH * (first - best)
        self.done = few or self.worse >= self.PATIENCE or self.b > self.most
