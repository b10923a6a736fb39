"""How many rows a model batch has: fixed, or found by timing, and then remembered."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from gpulime import cache
from gpulime import device as devices
from gpulime.errors import check, whole

Kind = tuple[tuple[int, ...], torch.dtype, torch.device]  # of rows: shape without b, dtype, device


class BatchSize:
    """The number of rows per model batch: fixed, or found by timing the queue's own first batches.

    Sizes double from 10 (32 on a GPU) for as long as rows per second rise; each size runs once to warm up and twice for the
    clock. The rows are real ones, so the search costs no forwards; on a GPU the host waits for each of its batches. What a
    module's search finds is kept in `gpulime.cache`, and the next process asks there first. Where ten batches in a row are too
    small for the size that is to be tried, since few rows are explained at a time, the search ends here, and nothing is kept.

    Of a model that shall be compiled sizes are tried before it is: each would be compiled for itself, which takes seconds to
    minutes, and PyTorch compiles a model for a few shapes only. What is found so may not be the compiled model's best; it is
    remembered for that mode of compiling alone.

    Parameters
    ----------
    b : int or "auto"
    model : nn.Module, optional
        By whose structure the size is remembered; without one, only this object remembers.
    compile : bool or str
        Whether the model shall be compiled, and in which mode.
    """

    TIMED, MISSED = 2, 10

    def __init__(self, b: int | str, model: nn.Module | None = None, compile: bool | str = False) -> None:
        if isinstance(b, str):
            check(b == "auto", f"batch_size must be a positive integer or 'auto'; got {b!r}")
        else:
            b = whole("batch_size", b, 1)
        self.setting, self.model, self.compile = b, model, compile
        self._best: dict[Kind, int] = {}
        self._trial: dict[Kind, _Trial] = {}

    def get(self, kind: Kind, most: int) -> int:
        """Rows for the next batch, ``most`` of them at most, for which there is memory."""
        if isinstance(self.setting, int):
            return min(self.setting, most)
        if kind not in self._best and kind not in self._trial:
            self._begin(kind)
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
            if self.model is not None:
                cache.keep(_named(self.model, kind, self.compile), self._best[kind])

    def _miss(self, kind: Kind) -> None:
        """A batch was not of the size that is to be tried."""
        if (trial := self._trial.get(kind)) is not None:
            trial.missed += 1
            if trial.missed == self.MISSED:
                self._best[kind] = self._trial.pop(kind).best

    def _begin(self, kind: Kind) -> None:
        trial = _Trial(*kind)
        known = None if self.model is None else cache.entries().get(_named(self.model, kind, self.compile))
        if known is not None and known <= trial.most:
            self._best[kind] = known
        else:
            self._trial[kind] = trial


def _named(model: nn.Module, kind: Kind, compile: bool | str) -> str:
    """What decides the best size: the model's structure, its layout and compiling, the rows, the device, PyTorch; no value."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    parts = [(name, type(part).__qualname__) for name, part in model.named_modules()]
    shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors]
    digest = hashlib.sha256(repr((parts, shapes)).encode()).hexdigest()[:12]
    shape, dtype, device = kind
    words = [f"{type(model).__qualname__} {digest}", f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"]
    if any(_is_channels_last(tensor) for _, tensor in tensors):
        words.append("weights in channels_last")
    if compile is not False:
        words.append("compiled" if compile is True else f"compiled, {compile}")
    return ", ".join([*words, devices.name(device), f"torch {torch.__version__}"])


def _is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether it lies so in memory, and no other way."""
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


class _Trial:
    """The search for one shape, precision and device."""

    GAIN = 1.03
    BYTES = 2**28  # of input rows: beyond, a batch is large for any model

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        # On a CPU 10 rows, as lime has it, keep a few cores busy, and for every further size oneDNN makes all its kernels anew;
        # so there the first that brings nothing ends the search, and on a GPU the second in a row.
        self.b, self.patience = (32, 2) if device.type == "cuda" else (10, 1)
        self.best, self.rate, self.worse, self.done = self.b, 0.0, 0, False
        self.most = max(self.b, self.BYTES // (4 * math.prod(shape)))
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
        self.done = self.worse >= self.patience or self.b > self.most
