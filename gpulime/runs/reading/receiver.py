"""Receive from a loader's workers in a separate thread, which may block forever.

A worker that dies in the middle of a message makes the loader wait for the rest of it without a timeout.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import Any

POLL_SECONDS = 0.5


class Receiver:
    """Running workers of a loader.

    Parameters
    ----------
    loader : DataLoader
        With workers and a timeout of `POLL_SECONDS`, after which its thread checks for its end.

    Raises
    ------
    Exception
        If the workers cannot be started.
    """

    def __init__(self, loader: Any) -> None:
        # Not SimpleQueue, in which a signal can remove the timeout of a wait.
        self._asked: queue.Queue[bool] = queue.Queue()  # False is the end
        self._answers: queue.Queue[Any] = queue.Queue()
        self._ended = False
        # Not the main thread, in which torch sets a handler of SIGCHLD. A daemon, so that exit does not wait for it.
        self._thread = threading.Thread(target=self._serve, args=(loader,), name="gpulime receiver", daemon=True)
        self._thread.start()
        try:
            self._iterator = self.take(None)
        except BaseException:
            self._asked.put(False)
            raise

    def ask(self) -> None:
        """Request the next result; once per result."""
        self._asked.put(True)

    def take(self, seconds: float | None) -> Any:
        """The requested result, or None after ``seconds``; raises the loader's error."""
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def bereft(self) -> bool:
        """True if one of the workers has ended."""
        return not all(worker.is_alive() for worker in self._iterator._workers)

    def close(self, at_once: bool = False) -> None:
        """End the workers, with ``at_once`` without waiting for their work, and the thread unless it blocks forever."""
        self._ended = True
        self._asked.put(False)
        if at_once:  # the loader would wait five seconds for a hanging worker
            self._kill()
        self._thread.join(2 * POLL_SECONDS)
        with suppress(AssertionError):  # the thread may see their end at the same time
            self._iterator.__del__()
        self._kill()

    def _kill(self) -> None:
        for worker in self._iterator._workers:
            if worker.is_alive():
                worker.kill()  # a stopped process ignores SIGTERM

    def _serve(self, loader: Any) -> None:
        try:
            iterator = iter(loader)
        except Exception as error:  # for the creating thread
            return self._answers.put(error)
        self._answers.put(iterator)
        while self._asked.get():
            self._answers.put(self._next(iterator))

    def _next(self, iterator: Any) -> Any:
        while True:
            try:
                return next(iterator)
            except Exception as error:
                if self._ended or not str(error).startswith("DataLoader timed out"):  # the loader's message
                    return error
