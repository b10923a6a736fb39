"""Signals that stop a run: the first lets the current model batch finish, a second ends the process as usual.

Outside the run itself, while a model is loaded or a report is written, the first signal interrupts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any

# SIGHUP comes when a terminal or ssh connection closes; under nohup it is ignored, and stays so.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
POLL_SECONDS = 1.0
USUAL = (signal.SIG_DFL, signal.default_int_handler)


class Stopped(KeyboardInterrupt):
    """A signal stopped the run; finished rows are kept."""


def _end(number: int, frame: FrameType | None) -> None:
    raise Stopped(f"stopped by {signal.Signals(number).name}; repeat the call to resume")


@contextmanager
def heard() -> Iterator[None]:
    """Inside, SIGINT and SIGUSR1 raise `Stopped` in the main thread, unless a `Stop` handles them.

    SIGTERM keeps the system's action: it also ends code that blocks outside Python, with exit code 143 in a shell.
    """
    before = _set(_end, (signal.SIGINT, signal.SIGUSR1), USUAL)
    try:
        yield
    finally:
        _restore(before)


_current: list[Stop] = []


def check() -> None:
    """Call `Stop.check` of the current run of this process, if there is one."""
    if _current:
        _current[-1].check()


class Stop:
    """Between ``with`` and its end, a signal is remembered for `check` instead of ending the process.

    The caller's own handlers are left in place. Outside the main thread, where Python has no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._before = _set(self._remember, SIGNALS, (*USUAL, _end))
        _current.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _current.remove(self)
        _restore(self._before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        # The current batch may block outside Python, so the next signal gets the system's action. Not SIGHUP: closing a
        # terminal sends two, one from the shell, without any impatience.
        others = {number: before for number, before in self._before.items() if number != signal.SIGHUP}
        _restore({number: signal.SIG_DFL if before is _end else before for number, before in others.items()})

    def check(self) -> None:
        """Raise `Stopped` if a signal has come; called at points where the run can stop."""
        if self.signal is not None:
            raise Stopped(f"stopped by {signal.Signals(self.signal).name}; finished rows are kept: repeat the call to resume")


def _set(handler: Any, numbers: Iterable[int], instead: Collection[Any]) -> dict[int, Any]:
    """Set a handler for signals whose handler is in ``instead``; return the old handlers by signal."""
    before: dict[int, Any] = {}
    for number in numbers:
        if signal.getsignal(number) in instead:
            try:
                before[number] = signal.signal(number, handler)
            except ValueError:  # not in the main thread
                break
    return before


def _restore(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


def leave_to_parent() -> None:
    """Ignore signals to the process group in a worker: its parent handles them and kills workers.

    If the parent is killed, workers end at once.
    """
    os.setpgid(0, 0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), name="gpulime parent watch", daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    served = multiprocessing.get_start_method() == "forkserver"  # whose worker has the server for its parent
    # A process whose parent has died gets another. Forked siblings keep what `is_alive` looks at.
    while parent.is_alive() and (served or os.getppid() == parent.pid):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
