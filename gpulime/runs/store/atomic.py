"""How a file of a run comes to be: written aside, safe on disk, then named, so that nobody ever sees a part of it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

STAGING = "_staging"


@contextlib.contextmanager
def staged(run: Path, target: Path) -> Iterator[Path]:
    """A new path aside for what will be ``target``; gone at the end unless `settle` has named it.

    Raises
    ------
    OSError
        Where the disk refuses, with ``target``'s name.
    """
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
    """Give a staged file, which must be safe on disk already, its name, and make that safe too."""
    os.replace(path, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk: those that came and those that went."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def publish(run: Path, name: str, data: bytes) -> None:
    """Put ``data`` at ``run/name`` so that nobody ever sees a part of it, not even after a power cut.

    Raises
    ------
    OSError
        Where the disk refuses; then nothing is left behind.
    """
    publish_pieces(run, name, [data])


def publish_pieces(run: Path, name: str, pieces: Iterable[bytes]) -> None:
    """The same for data that comes piece by piece and is never held whole.

    Raises
    ------
    OSError
        Where the disk refuses; then nothing is left behind.
    """
    target = run / name
    with staged(run, target) as path:
        with path.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        settle(path, target)


def try_out(run: Path) -> None:
    """Find out before any work whether files can be made for a run.

    Raises
    ------
    OSError
        Where they cannot, with the folder's name.
    """
    with staged(run, run / STAGING) as path:
        path.touch()
