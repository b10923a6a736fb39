"""Who writes to a run: each process holds a lock of its rank, which ends with the process however that ends."""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gpulime.runs.staging import STAGING

try:
    import fcntl
except ImportError:  # no such locks on this system: then nothing is known of others
    fcntl = None  # type: ignore[assignment]

LOCKS = f"{STAGING}/writers.lock"  # empty: byte number r is locked by who writes as rank r
RANKS = 2**31 - 2
DOOR = RANKS + 1  # the byte that is locked by who comes in
TAKEN = (errno.EACCES, errno.EAGAIN)
PATIENCE_SECONDS, POLL_SECONDS = 10.0, 0.02

Bytes = tuple[int, int]  # first and last


@dataclass
class _File:
    """A lock file of this process: the system frees all its locks when any descriptor of it is closed, so there is one."""

    number: int
    held: set[Bytes] = field(default_factory=set)  # the system's locks are no lock between threads


_files: dict[str, _File] = {}
_guard = threading.Lock()


class Lock:
    """Bytes of the lock file of a run, held until `release` or the end of the process.

    Parameters
    ----------
    run : Path
        The run directory.
    first, last : int
        Which bytes; by default those of all ranks and the door.

    Attributes
    ----------
    taken : bool, whether somebody else holds one of them; False where that cannot be known: no locks, or no right to the file
    """

    def __init__(self, run: Path, first: int = 0, last: int = DOOR) -> None:
        self.taken, self._bytes, self._path = False, (first, last), os.path.realpath(run / LOCKS)
        self._is_held = False
        if fcntl is None:
            return
        with (
            _guard,
            suppress(OSError),
        ):  # a lock is advice: what cannot be locked can be written all the same, or says so itself
            file = _opened(self._path)
            try:
                here = any(first <= end and start <= last for start, end in file.held)
                self.taken = here or not _locked(file.number, self._bytes)
                if not self.taken:
                    self._is_held = True
                    file.held.add(self._bytes)
            finally:
                _close_unless_held(self._path)

    def release(self) -> None:
        """Let others write; a second call does nothing."""
        with _guard, suppress(OSError):
            if self._is_held:
                self._is_held = False
                first, last = self._bytes
                fcntl.lockf(_files[self._path].number, fcntl.LOCK_UN, last - first + 1, first)
                _files[self._path].held.remove(self._bytes)
                _close_unless_held(self._path)


def _opened(path: str) -> _File:
    if path not in _files:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _files[path] = _File(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
    return _files[path]


def _close_unless_held(path: str) -> None:
    if not _files[path].held:
        os.close(_files.pop(path).number)


def _locked(number: int, which: Bytes) -> bool:
    """Lock bytes of an open file; False where somebody else holds one of them."""
    first, last = which
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, last - first + 1, first)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True


def of_rank(run: Path, rank: int) -> Lock:
    """The lock of who writes as ``rank``; one that somebody else holds too is worth a warning."""
    lock = Lock(run, rank, rank)
    if lock.taken:
        doubt = f"another process writes to {run} as rank {rank}, or compacts it"
        warnings.warn(f"{doubt}: two runs explain the same images twice. No row is lost by it", stacklevel=2)
    return lock


def at_work(run: Path) -> bool:
    """Whether somebody writes to a run, as far as its locks tell."""
    if not (run / LOCKS).exists():
        return False
    lock = Lock(run, 0, RANKS)
    lock.release()
    return lock.taken


@contextmanager
def one_at_a_time(run: Path) -> Iterator[None]:
    """Inside, nobody else is, where the file system has locks: for what is looked up first and written then."""
    end = time.monotonic() + PATIENCE_SECONDS  # who holds it longer hangs
    while (lock := Lock(run, DOOR, DOOR)).taken and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
