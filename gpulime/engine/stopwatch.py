"""Device time of the model, added up without waiting."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Sum up a device's time without waiting for it; the open times of a lost device are dropped."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Time the body; nothing is added if it fails."""
        if device.type == "cpu":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        stream = torch.cuda.current_stream(device)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(stream)
        yield
        end.record(stream)
        self._open.append((begin, end))
        self._close()

    @property
    def seconds(self) -> float:
        """The sum; on a GPU, of finished work."""
        self._close()
        return self._seconds

    def __getstate__(self) -> dict[str, Any]:
        return {"_seconds": self.seconds, "_open": deque()}  # events are of one process

    def _close(self) -> None:
        try:
            while self._open and self._open[0][1].query():
                begin, end = self._open.popleft()
                self._seconds += begin.elapsed_time(end) / 1000
        except RuntimeError:  # the device is lost, which its next user reports
            self._open.clear()
