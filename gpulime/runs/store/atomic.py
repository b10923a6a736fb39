"""Atomic writes: a file is staged, synced to disk, then renamed, so that no reader sees a part of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

STAGING = "_staging"
PATIENCE_SECONDS, POLL_SECONDS, MOST_PATIENCE = 10.0, 0.02, 6


@contextlib.contextmanager
def staged(run: Path, target: Path) -> Iterator[Path]:
    """A staging path for ``target``, removed at the end unless `settle` has renamed it; an `OSError` has ``target``'s name."""
    path = run / STAGING / f"{secrets.token_hex(4)}-{target.name}"
    try:
        for folder in (path.parent, target.parent):
            folder.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(target)) from error
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def settle(path: Path, target: Path) -> None:
    """Rename a staged file, which must be synced already, and sync the new name."""
    os.replace(path, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def publish(run: Path, name: str, data: bytes) -> None:
    """Write ``data`` to ``run/name`` atomically, also under a power cut; nothing is left behind if the disk refuses."""
    publish_pieces(run, name, [data])


def publish_pieces(run: Path, name: str, pieces: Iterable[bytes]) -> None:
    """Write data piece by piece, atomically, without holding all of it."""
    target = run / name
    with staged(run, target) as path:
        with path.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        settle(path, target)


@contextlib.contextmanager
def one_at_a_time(run: Path) -> Iterator[None]:
    """Exclude other processes and threads for a check followed by a write, by a folder that one of them can make."""
    door, seen, mine = run / STAGING / "entering", 0, False
    since = begun = time.monotonic()
    while not mine and time.monotonic() < begun + MOST_PATIENCE * PATIENCE_SECONDS:
        try:
            door.mkdir(parents=True)
            mine = True
        except FileExistsError:
            with contextlib.suppress(OSError):  # it is gone already
                if (made := door.stat().st_mtime_ns) != seen:
                    seen, since = made, time.monotonic()
                elif time.monotonic() - since > PATIENCE_SECONDS:  # its process has been killed, or hangs
                    _remove(door, seen)
            time.sleep(POLL_SECONDS)
        except OSError:  # nothing can be written here, as the caller finds out
            break
    try:
        yield
    finally:
        if mine:
            with contextlib.suppress(OSError):
                door.rmdir()


def _remove(door: Path, made: int) -> None:
    """Remove a folder unless another has been made in its place: one process at a time looks and removes."""
    removing = door.with_name("removing")
    removing.mkdir()
    try:
        if door.stat().st_mtime_ns == made:
            door.rmdir()
    finally:
        removing.rmdir()


def try_out(run: Path) -> None:
    """Raise `OSError` early if files cannot be created in a run."""
    with staged(run, run / STAGING) as path:
        path.touch()
