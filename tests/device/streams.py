"""Streams and events: which work is surely over before other work begins.

Work runs at once, on the CPU, in the order of the calls. Its order on a GPU is kept by vector clocks (C. Fidge, Timestamps in
message-passing systems, 1988; F. Mattern, Virtual time and global states of distributed systems, 1989): each stream numbers
its pieces of work, and its clock says, for every stream, how many of them are over before its own next one begins. Only
events, `wait_stream` and waits of the host order the work of two streams.
"""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from contextlib import contextmanager

import torch

from tests.device.findings import where

DEVICE = torch.device("cuda", 0)


class Clock(dict):
    """{stream: pieces of its work that are over}."""

    def join(self, other):
        for stream, pieces in other.items():
            self[stream] = max(pieces, self.get(stream, 0))

    def has(self, stream, piece):
        """Tell if that piece of work is surely over."""
        return self.get(stream, 0) >= piece

    def covers(self, other):
        return all(self.has(stream, pieces) for stream, pieces in other.items())


class Host:
    """What the host knows to be over, and the copies that it has not waited for.

    Attributes
    ----------
    guard : "default", "warn" or "error", as ``torch.cuda.set_sync_debug_mode`` sets it
    """

    def __init__(self):
        self.clock, self.guard = Clock(), "default"
        self._copies = []  # (clock, function that writes the numbers)

    def waits(self, clock, reason):
        """Block until the work of a clock is over; an error or a warning under the guard, as in PyTorch."""
        if self.guard != "default":
            said = f"called a synchronizing CUDA operation: {reason} at {where()}"
            if self.guard == "error":
                raise RuntimeError(said)
            warnings.warn(said, stacklevel=2)
        self.learns(clock)

    def learns(self, clock):
        """Know the work of a clock to be over: copies to the host that belong to it arrive now."""
        self.clock.join(clock)
        arrived = [arrive for copied, arrive in self._copies if self.clock.covers(copied)]
        self._copies = [(copied, arrive) for copied, arrive in self._copies if not self.clock.covers(copied)]
        for arrive in arrived:
            arrive()

    def expects(self, stream, arrive):
        """Call ``arrive`` once the host has waited for the work on a stream so far."""
        self._copies.append((Clock({stream.number: stream.pieces}), arrive))


HOST = Host()


class Stream:
    """As torch.cuda.Stream."""

    _every, _numbers = [], itertools.count()

    def __init__(self, device=None, priority=0, **_):
        self.number, self.pieces, self.clock = next(self._numbers), 0, Clock()
        self.cuda_stream = 64 * self.number  # the default stream's is 0
        self.device, self.priority = DEVICE, priority
        self._every.append(self)

    def begins(self):
        """Begin a piece of work; returns its number."""
        self.pieces += 1
        self.clock.join(HOST.clock)
        self.clock[self.number] = self.pieces
        return self.pieces

    def wait_stream(self, other):
        self.clock.join(other.clock)

    def wait_event(self, event):
        self.clock.join(event.clock)

    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self):
        HOST.waits(self.clock, "a stream is waited for")

    def query(self):
        return HOST.clock.covers(self.clock)

    def __cuda_stream__(self):
        return 0, self.cuda_stream

    @classmethod
    def synchronize_all(cls, device=None):
        """As torch.cuda.synchronize."""
        for stream in cls._every:
            HOST.waits(stream.clock, "the device is waited for")


class Event:
    """As torch.cuda.Event; over once the host knows it, since nothing else tells when work ends."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, **_):
        self.enable_timing, self.clock, self.recorded = enable_timing, Clock(), 0.0

    def record(self, stream=None):
        stream = stream or current()
        stream.begins()
        self.clock, self.recorded = Clock(stream.clock), time.perf_counter()

    def wait(self, stream=None):
        (stream or current()).wait_event(self)

    def query(self):
        return HOST.clock.covers(self.clock)

    def synchronize(self):
        HOST.learns(self.clock)

    def elapsed_time(self, other):
        if not (self.enable_timing and other.enable_timing):
            raise ValueError("both events must be made with enable_timing=True")
        if not (self.query() and other.query()):
            raise RuntimeError("CUDA error: device not ready")
        return 1000 * (other.recorded - self.recorded)


DEFAULT = Stream()
_entered = threading.local()


def current(device=None):
    """As torch.cuda.current_stream: each thread has its own."""
    return getattr(_entered, "stream", DEFAULT)


@contextmanager
def entered(stream):
    """As torch.cuda.stream."""
    before = current()
    _entered.stream = stream or before
    try:
        yield
    finally:
        _entered.stream = before
