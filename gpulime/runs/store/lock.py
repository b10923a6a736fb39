"""Locks of a run's writers: each process locks a byte for its rank, which the system frees when it ends."""

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

from gpulime.runs.store.atomic import STAGING

try:
    import fcntl
except ImportError:  # no such locks on this system, so other writers are unknown
    fcntl = None  # type: ignore[assignment]

LOCKS = f"{STAGING}/writers.lock"  # empty; the writer of rank r locks byte r
RANKS = 2**31 - 2
DOOR = RANKS + 1  # the byte that serialises entry
TAKEN = (errno.EACCES, errno.EAGAIN)
PATIENCE_SECONDS, POLL_SECONDS = 10.0, 0.02

Bytes = tuple[int, int]  # first and last
Inode = tuple[int, int]  # identity of a file: device and inode


@dataclass
class _File:
    """The one descriptor of a lock file in this process; closing any descriptor would free all its locks."""

    number: int
    held: set[Bytes] = field(default_factory=set)  # the system's locks do not exclude threads


_files: dict[Inode, _File] = {}
_guard = threading.Lock()


class Lock:
    """Bytes of the lock file of a run, held until `release` or the end of the process.

    Parameters
    ----------
    run : Path
        The run directory.
    first, last : int
        The range of bytes; by default all ranks.

    Attributes
    ----------
    taken : bool, true if another process holds one of them; False if unknown, without locks or access to the file
    """

    def __init__(self, run: Path, first: int = 0, last: int = RANKS) -> None:
        self.taken, self._bytes = False, (first, last)
        self._held: Inode | None = None
        # Locks are advisory: a run without them can be written, or fails by itself.
        with _guard, suppress(OSError):
            if fcntl is not None:
                self._try(run / LOCKS)

    def _try(self, path: Path) -> None:
        inode = _opened(path)
        try:
            here = any(self._bytes[0] <= last and first <= self._bytes[1] for first, last in _files[inode].held)
            self.taken = here or not _locked(_files[inode].number, self._bytes)
            if not self.taken:
                self._held = inode
                _files[inode].held.add(self._bytes)
        finally:
            _close_unless_held(inode)

    def release(self) -> None:
        """Release the bytes; a second call does nothing."""
        with _guard, suppress(OSError):
            inode, self._held = self._held, None
            if inode in _files:  # a forked process holds none of its parent's
                first, last = self._bytes
                _files[inode].held.discard(self._bytes)
                try:
                    fcntl.lockf(_files[inode].number, fcntl.LOCK_UN, last - first + 1, first)
                finally:
                    _close_unless_held(inode)


def _opened(path: Path) -> Inode:
    """The open lock file of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if (found := _inode(os.stat(path))) in _files:
            return found
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    inode = _inode(os.fstat(number))
    _files[inode] = _File(number)
    return inode


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def _close_unless_held(inode: Inode) -> None:
    if not _files[inode].held:
        os.close(_files.pop(inode).number)


def _after_fork() -> None:
    """Drop the parent's locks in a forked child."""
    global _guard  # noqa: PLW0603  # another thread may have held it in the moment of the fork
    _guard = threading.Lock()
    _files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _locked(number: int, which: Bytes) -> bool:
    """Lock bytes of an open file; False if another process holds one of them."""
    first, last = which
    try:
        fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, last - first + 1, first)
    except OSError as error:
        if error.errno in TAKEN:
            return False
        raise
    return True


def of_rank(run: Path, rank: int) -> Lock:
    """Lock ``rank`` for writing; warn if another process holds it."""
    lock = Lock(run, rank, rank)
    if lock.taken:
        doubt = f"another process writes to {run} as rank {rank}, or compacts it"
        warnings.warn(f"{doubt}: two runs explain the same images twice. No row is lost by it", stacklevel=2)
    return lock


def any_writer(run: Path) -> bool:
    """True if a process is writing to a run, as far as its locks show."""
    if not (run / LOCKS).exists():
        return False
    lock = Lock(run)
    lock.release()
    return lock.taken


@contextmanager
def one_at_a_time(run: Path) -> Iterator[None]:
    """Exclude other processes, if the file system has locks, for a check followed by a write."""
    end = time.monotonic() + PATIENCE_SECONDS  # a process that holds it longer hangs
    while (lock := Lock(run, DOOR, DOOR)).taken and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
