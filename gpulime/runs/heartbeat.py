"""How far each process of a run is, in a small file that it writes anew every few seconds and other shells read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gpulime.runs.share import Share
from gpulime.runs.staging import staged

FOLDER = "heartbeats"
SECONDS = 5.0  # between two of them
SILENCE = 60.0  # after which a process is said to be silent: more than a model batch takes

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


@dataclass(frozen=True)
class Beat:
    """What a process tells of itself.

    Attributes
    ----------
    images : those of the whole run; ``own`` are this process's, of which ``before`` were done before it started
    ok, failed : those that are explained and that failed since
    seconds : since it started; ``forwards`` are those since
    in_model : share of these seconds that the model took, in [0, 1]
    left : seconds that it expects to need yet, None where it cannot tell
    time : when it was written, in seconds since 1970
    """

    share: str
    host: str
    pid: int
    state: str
    images: int
    own: int
    before: int
    ok: int
    failed: int
    forwards: int
    seconds: float
    in_model: float
    left: float | None
    time: float

    @property
    def is_gone(self) -> bool:
        """Whether it says that it runs, on this machine, and does not."""
        if self.state != RUNNING or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it is another user's
            return False
        return False


class Heartbeat:
    """Writes the beats of one process.

    Parameters
    ----------
    run : Path
        The run directory.
    share : Share
        What this process does of it.
    describe : callable (state) -> Beat
        What there is to tell now.
    """

    def __init__(self, run: Path, share: Share, describe: Callable[[str], Beat]) -> None:
        self.path = run / FOLDER / f"{share.shard + 1}-of-{share.shards}-rank-{share.rank}.json"
        self.describe = describe
        self._next = 0.0

    def __enter__(self) -> Heartbeat:
        self.beat(RUNNING)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.beat(FINISHED if kind is None else STOPPED if issubclass(kind, KeyboardInterrupt) else FAILED)

    def beat_if_due(self) -> None:
        """Write one if the last is old enough."""
        if time.monotonic() >= self._next:
            self.beat(RUNNING)

    def beat(self, state: str) -> None:
        """Write one. A disk that refuses it is no reason to end a run."""
        self._next = time.monotonic() + SECONDS
        text = json.dumps(dataclasses.asdict(self.describe(state)))
        with contextlib.suppress(OSError), staged(self.path.parents[1], self.path) as path:
            path.write_text(text, encoding="utf-8")
            os.replace(path, self.path)


def read(run: Path) -> list[Beat]:
    """The last beat of each process, in the order of their shares; one that cannot be read is left out."""
    beats = []
    for path in sorted((run / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            beats.append(Beat(**json.loads(path.read_bytes())))
    return beats
