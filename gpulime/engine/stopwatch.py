"""Device time of the model, added up without waiting, and the host's share of a single call."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gpulime import device as devices

BOUND = 0.9  # of the device's time: the host's time of a call that its launches bind


class Stopwatch:
    """Sum up a device's time without waiting for it; the open times of a lost device are dropped.

    Attributes
    ----------
    launches_bind : bool, True if the call that was timed ``alone`` takes as long as its launches; False before it is over
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._open: deque[tuple[torch.cuda.Event, torch.cuda.Event, float | None]] = deque()
        self.launches_bind = False

    @contextmanager
    def running(self, device: torch.device, alone: bool = False) -> Iterator[None]:
        """Time the body; nothing is added if it fails.

        With ``alone`` the host waits for a GPU's earlier work first, and its own time counts, too. Behind a full queue of
        launches it would be as long as the GPU's for any model.
        """
        if device.type == "cpu":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        stream = torch.cuda.current_stream(device)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if alone:
            devices.synchronize(device)
        begin.record(stream)
        start = time.perf_counter()
        yield
        host = time.perf_counter() - start
        end.record(stream)
        self._open.append((begin, end, host if alone else None))
        self._close()

    @property
    def seconds(self) -> float:
        """The sum; on a GPU, of finished work."""
        self._close()
        return self._seconds

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seconds": self.seconds, "_open": deque()}  # events are of one process

    def _close(self) -> None:
        try:
            while self._open and self._open[0][1].query():
                begin, end, host = self._open.popleft()
                seconds = begin.elapsed_time(end) / 1000
                self._seconds += seconds
                if host is not None:
                    self.launches_bind = bound_by_launches(host, seconds)
        except RuntimeError:  # the device is lost, which its next user reports
            self._open.clear()


def bound_by_launches(host: float, device: float) -> bool:
    """Tell if a call of the model takes as long as its launches.

    Parameters
    ----------
    host : float
        Seconds until the call returns, with its work launched.
    device : float
        Seconds from the first launch until the work is over, waits for further launches included; so it is never much shorter.
    """
    return host >= BOUND * device
