"""Who writes to a run: each process holds a lock of its rank, which ends with the process however that ends."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpulime.runs.staging import STAGING

try:
    import fcntl
except ImportError:  # no such locks on this system: then nothing is known of others
    fcntl = None  # type: ignore[assignment]

LOCKS = f"{STAGING}/writers.lock"  # empty: byte number r is locked by who writes as rank r
DOOR = 2**31 - 1  # and this one by who comes in
TAKEN = (errno.EACCES, errno.EAGAIN)
PATIENCE_SECONDS, POLL_SECONDS = 10.0, 0.02


class Lock:
    """Bytes of the lock file of a run, held until `release` or the end of the process.

    Parameters
    ----------
    run : Path
        The run directory.
    rank : int, optional
        Whose byte; by default all, those of ranks to come included.

    Attributes
    ----------
    taken : bool, whether another process holds one of them; False where the file system knows no locks
    """

    def __init__(self, run: Path, rank: int | None = None) -> None:
        self.taken, self._file = False, -1
        if fcntl is None:
            return
        start, length = (0, 0) if rank is None else (rank, 1)
        path = run / LOCKS
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except OSError as error:  # a lock is advice: what cannot be locked can be written all the same, or says so itself
            self.taken = error.errno in TAKEN

    def release(self) -> None:
        """Let others write; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@contextmanager
def one_at_a_time(run: Path) -> Iterator[None]:
    """Inside, no other process is, where the file system has locks: for what is looked up first and written then."""
    end = time.monotonic() + PATIENCE_SECONDS  # who holds it longer hangs
    while (lock := Lock(run, DOOR)).taken and time.monotonic() < end:
        lock.release()
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def of_rank(run: Path, rank: int) -> Lock:
    """The lock of a process that writes as ``rank``; one that another process holds too is worth a warning."""
    lock = Lock(run, rank)
    if lock.taken:
        doubt = f"another process writes to {run} as rank {rank}, or compacts it"
        warnings.warn(f"{doubt}: two runs explain the same images twice. No row is lost by it", stacklevel=2)
    return lock
