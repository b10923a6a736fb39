"""What takes from a loader's processes what they have read: a thread of its own, since it may wait for ever.

A process that dies in the middle of a message leaves the rest of it to be waited for, which no timeout of the loader ends.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import Any

POLL_SECONDS = 0.5


class Receiver:
    """A loader's processes at work.

    Parameters
    ----------
    loader : DataLoader
        With processes and a timeout of `POLL_SECONDS`, after which its thread looks whether it is wanted still.

    Raises
    ------
    Exception
        Where the processes cannot be started.
    """

    def __init__(self, loader: Any) -> None:
        # No SimpleQueue: there a signal can make a wait with a timeout one without.
        self._asked: queue.Queue[bool] = queue.Queue()  # False is the end
        self._answers: queue.Queue[Any] = queue.Queue()
        self._ended = False
        # Not the main thread, where torch would set its handler of SIGCHLD. A daemon: nobody waits for it to end.
        self._thread = threading.Thread(target=self._serve, args=(loader,), name="gpulime receiver", daemon=True)
        self._thread.start()
        try:
            self._iterator = self.take(None)
        except BaseException:
            self._asked.put(False)
            raise

    def ask(self) -> None:
        """Ask for what comes next; once before it is taken."""
        self._asked.put(True)

    def take(self, seconds: float | None) -> Any:
        """What was asked for, or None where it does not come within ``seconds``; raises what the loader has raised."""
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def bereft(self) -> bool:
        """Whether one of the processes has ended."""
        return not all(worker.is_alive() for worker in self._iterator._workers)

    def close(self, at_once: bool = False) -> None:
        """End the processes, ``at_once`` whatever they are at, and the thread too unless it waits for what never comes."""
        self._ended = True
        self._asked.put(False)
        if at_once:  # the loader would wait five seconds for one that hangs
            self._kill()
        self._thread.join(2 * POLL_SECONDS)
        with suppress(AssertionError):  # the thread may see them end at the same time; ended they are then all the same
            self._iterator.__del__()
        self._kill()

    def _kill(self) -> None:
        for worker in self._iterator._workers:
            if worker.is_alive():
                worker.kill()  # one that is stopped does not heed SIGTERM

    def _serve(self, loader: Any) -> None:
        try:
            iterator = iter(loader)
        except Exception as error:  # for the thread that has made this one
            return self._answers.put(error)
        self._answers.put(iterator)
        while self._asked.get():
            self._answers.put(self._next(iterator))

    def _next(self, iterator: Any) -> Any:
        while True:
            try:
                return next(iterator)
            except Exception as error:
                if self._ended or not str(error).startswith("DataLoader timed out"):  # the loader's own words
                    return error
