"""The writer: a thread that passes rows to the store, so that the run does not wait for the disk."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from gpulime.errors import GpulimeError
from gpulime.runs.progress.exits import NotWritableError
from gpulime.runs.store.store import Store

WAITING_ROWS = 256  # of some kilobytes each, to bound memory on a slow disk
POLL_SECONDS = 0.1

Row = Mapping[str, Any]


class Writer:
    """Pass the rows of a run to a `Store`, and flush it at the end of the ``with``, also after an error.

    Parameters
    ----------
    store : Store
        Used by the writer's thread alone until the ``with`` ends.
    waiting_rows : int
        The most rows in the queue; `put` blocks beyond.

    Raises
    ------
    NotWritableError
        From `put`, `check` and the end of the ``with``, once the disk has refused rows. At the end the buffered rows are
        tried once more, and the message says how many are lost.
    GpulimeError
        From the same, if a row does not fit the store.
    """

    def __init__(self, store: Store, waiting_rows: int = WAITING_ROWS) -> None:
        self._store = store
        self._rows: queue.Queue[Row | None] = queue.Queue(waiting_rows)  # None is the end
        self._error: Exception | None = None
        # A daemon: a second signal ends the process without waiting for the disk.
        self._thread = threading.Thread(target=self._write, name="gpulime writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._rows.put(None, timeout=POLL_SECONDS)
                self._thread.join()
        if self._error is not None:
            self._write_the_rest()

    def put(self, row: Row) -> None:
        """Hand over one row; returns at once if fewer than ``waiting_rows`` are waiting."""
        while True:
            self.check()
            with contextlib.suppress(queue.Full):
                return self._rows.put(row, timeout=POLL_SECONDS)

    def check(self) -> None:
        """Raise the error that stopped the writer, if any."""
        if isinstance(self._error, OSError):
            raise NotWritableError(
                f"{self._store.run} takes no rows: {self._error}. Written rows are kept: repeat the call to resume"
            ) from self._error
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            while True:
                try:
                    row = self._rows.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    self._store.flush_if_due()
                    continue
                if row is None:
                    return self._store.close()
                self._store.append(row)
        except Exception as error:  # for the run's own thread, by `check`
            self._error = error

    def _write_the_rest(self) -> None:
        """Try the buffered rows once more, in the run's thread, after the writer's thread ended with an error."""
        for row in filter(None, list(self._rows.queue)):
            # A row that the disk refuses stays buffered for the last try; a row that does not fit is lost alone.
            with contextlib.suppress(OSError, GpulimeError):
                self._store.append(row)
        try:
            self._store.close()
        except OSError as error:
            raise NotWritableError(
                f"{self._store.run} takes no rows: {error}. {self._store.in_hand} rows are lost; written rows are kept: "
                "repeat the call to resume"
            ) from error
        if not isinstance(self._error, OSError):
            self.check()
