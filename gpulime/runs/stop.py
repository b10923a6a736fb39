"""Signals that ask a run to stop: the first lets the model batch in hand finish, a second ends the process as usual."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A run was asked to stop, and what it had finished is kept."""


class Stop:
    """Between ``with`` and its end, a signal is remembered for `check` instead of ending the process.

    Handlers of the caller's own are left in place, and so is everything outside the main thread, where Python has no signals.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before in (signal.SIG_DFL, signal.default_int_handler):
                try:
                    self._before[number] = signal.signal(number, self._remember)
                except ValueError:  # not in the main thread
                    break
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def check(self) -> None:
        """Called where one can stop.

        Raises
        ------
        Stopped
            Once a signal has come.
        """
        if self.signal is not None:
            raise Stopped(
                f"stopped by {signal.Signals(self.signal).name}; what was finished is kept, and the same call goes on"
            )


def leave_to_parent() -> None:
    """For worker processes: signals to the whole group are meant for the one that reads their work and ends them by SIGTERM."""
    os.setpgid(0, 0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
