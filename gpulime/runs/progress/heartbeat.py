"""Heartbeats: a small file per process with its progress, rewritten every few seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gpulime.runs.progress.exits import DeviceLostError
from gpulime.runs.progress.partition import Share
from gpulime.runs.progress.terminal import printable
from gpulime.runs.store.atomic import staged

FOLDER = "heartbeats"
SECONDS = 5.0  # between two of them
SILENCE = 60.0  # until a process counts as silent: longer than nearly any model batch
BUSY = 3600.0  # until a silent process of this machine counts as gone, since its number may be another's now

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
LONGEST = 1e12  # seconds
NUMBERS = "/proc/self/ns/pid"  # links to the namespace of process numbers, on Linux
OWN_NUMBERS = "pid:[4026531836]"  # of a machine itself, rather than of a container


@dataclass(frozen=True)
class Effort:
    """Time and forwards spent."""

    seconds: float = 0.0  # of processes
    forwards: int = 0  # rows passed to the model
    model_seconds: float = 0.0  # the part of ``seconds`` in the model

    @property
    def in_model(self) -> float:
        """The share of the time in the model, in [0, 1]."""
        return min(self.model_seconds / self.seconds, 1.0) if self.seconds else 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.seconds + other.seconds, self.forwards + other.forwards, self.model_seconds + other.model_seconds)


def machine() -> str:
    """The name within which process numbers are unique: containers may share their machine's name, but not its numbers."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        space = os.readlink(NUMBERS)
        return name if space == OWN_NUMBERS else f"{name} {space}"
    return name


@dataclass(frozen=True)
class Beat:
    """The state of a process."""

    share: Share
    host: str  # as `machine` names it
    pid: int
    state: str
    config_hash: str | None  # of the run's settings
    images: int  # of the whole run
    own: int  # images of this process
    before: int  # of which were finished before it started
    ok: int  # images explained and failed since
    failed: int
    effort: Effort  # since it started
    left: float | None  # estimated seconds left, None if unknown
    time: float  # of writing, in seconds since 1970
    earlier: Effort = Effort()  # of earlier processes with this share
    suspects: Sequence[str] = ()  # images that a process of this share had in flight when it lost its device

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Beat:
        """Read the JSON of a file; raises TypeError, KeyError or ValueError if it is damaged or another program's."""
        efforts = {name: Effort(**facts[name]) for name in ("effort", "earlier")}
        beat = cls(**{**facts, **efforts, "share": Share(**facts["share"]), "suspects": tuple(facts["suspects"])})
        counts = [beat.images, beat.own, beat.before, beat.ok, beat.failed, *dataclasses.astuple(beat.share)[:4]]
        counts += [effort.forwards for effort in (beat.effort, beat.earlier)]
        times = [beat.time, *([] if beat.left is None else [beat.left])]
        times += [seconds for effort in (beat.effort, beat.earlier) for seconds in (effort.seconds, effort.model_seconds)]
        sound = (
            all(isinstance(count, int) and 0 <= count < 2**63 for count in counts)
            and all(isinstance(seconds, int | float) and 0 <= seconds < LONGEST for seconds in times)
            and all(isinstance(text, str) for text in (beat.host, *beat.suspects))
            and isinstance(beat.config_hash, str | None)
            and isinstance(beat.pid, int)
            and 0 < beat.pid < 2**31
            and beat.state in (RUNNING, FINISHED, STOPPED, FAILED)
        )
        if not sound:
            raise ValueError("damaged")
        return beat

    @property
    def is_gone(self) -> bool:
        """True if it claims to run on this machine and its process is gone."""
        if self.state != RUNNING or self.host != machine():
            return False
        try:
            os.kill(self.pid, 0)
        except OSError as error:  # also PermissionError: it belongs to another user
            return isinstance(error, ProcessLookupError)
        return False

    def is_silent(self, now: float) -> bool:
        """True if its last beat is old."""
        return abs(now - self.time) > SILENCE  # or from a clock that is far ahead

    def may_write(self, now: float) -> bool:
        """True if it is running, or silent and on this machine, where it may be busy: compiling a model takes minutes."""
        other = self.host == machine() and self.pid != os.getpid()
        return self.state == RUNNING and not self.is_gone and abs(now - self.time) <= (BUSY if other else SILENCE)

    def is_at_work(self, now: float) -> bool:
        """True if it is running, as far as is known."""
        return self.state == RUNNING and not self.is_gone and not self.is_silent(now)


class Heartbeat:
    """Write the beats of one process, which ``describe`` makes; ``last`` is the last one written."""

    def __init__(self, run: Path, share: Share, describe: Callable[[str], Beat]) -> None:
        self.path = run / FOLDER / f"{share.shard + 1}-of-{share.shards}-rank-{share.rank}.json"
        self.describe = describe
        self.last: Beat | None = None
        self._next, self._warned = 0.0, False
        self._before = _read(self.path)
        self._suspects: Sequence[str] = () if self._before is None else self._before.suspects

    def __enter__(self) -> Heartbeat:
        self.beat(RUNNING)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        new = next((behind.suspects for behind in _chain(error) if isinstance(behind, DeviceLostError)), ())
        # Suspects with rows are dropped; the newest come last, so that earlier ones show first if the device works.
        self._suspects = (*(name for name in self._suspects if name not in new), *new)
        self.beat(FINISHED if kind is None else STOPPED if issubclass(kind, KeyboardInterrupt) else FAILED)

    def beat_if_due(self) -> None:
        """Write a beat if the last one is old enough."""
        if time.monotonic() >= self._next:
            self.beat(RUNNING)

    def beat(self, state: str) -> None:
        """Write a beat; a disk that refuses it does not end the run."""
        self._next = time.monotonic() + SECONDS
        now, before = self.describe(state), self._before
        if state == RUNNING:
            self._warn_of_another(now)
        goes_on = before is not None and before.config_hash == now.config_hash
        earlier = before.earlier + before.effort if before is not None and goes_on else Effort()
        self.last = dataclasses.replace(now, earlier=earlier, suspects=self._suspects)
        if not self.path.parents[1].is_dir():  # renamed during the run: do not create a new one
            return
        text = json.dumps(dataclasses.asdict(self.last))
        with contextlib.suppress(OSError), staged(self.path.parents[1], self.path) as path:
            path.write_text(text, encoding="utf-8")
            os.replace(path, self.path)

    def _warn_of_another(self, now: Beat) -> None:
        """Warn, once, if the last beat of this share is another process's that is at work."""
        last = _read(self.path)
        if self._warned or last is None or (last.host, last.pid) == (now.host, now.pid) or not last.may_write(now.time):
            return
        self._warned = True
        who = f"another process ({last.pid} on {printable(last.host)}) writes to {self.path.parents[1]}"
        warnings.warn(f"{who}: two runs explain the same inputs twice. No row is lost by it", stacklevel=2)


def read(run: Path) -> list[Beat]:
    """The last beat of each process, running or not, in the order of their shares; unreadable ones are skipped."""
    found = map(_read, (run / FOLDER).glob("*.json"))
    return sorted(
        (beat for beat in found if beat is not None),
        key=lambda beat: (beat.share.shards, beat.share.shard, beat.share.world, beat.share.rank),
    )


def images(run: Path, config_hash: str | None) -> int | None:
    """The number of images of a run of these settings, from its newest process; None if unknown."""
    told = [beat for beat in read(run) if beat.config_hash == config_hash]
    return max(told, key=lambda beat: beat.time).images if told else None


def at_work(run: Path) -> list[Beat]:
    """The last beat of each running process."""
    now = time.time()
    return [beat for beat in read(run) if beat.is_at_work(now)]


def may_write(run: Path) -> bool:
    """True if a process writes to a run, or is busy and may write to it later."""
    now = time.time()
    return any(beat.may_write(now) for beat in read(run))


def spent(run: Path, config_hash: str | None) -> Effort:
    """The effort of all processes in all calls of a run of these settings."""
    return sum((beat.earlier + beat.effort for beat in read(run) if beat.config_hash == config_hash), Effort())


def suspects(run: Path) -> list[str]:
    """Images that were in flight when a process lost its device, the newest last."""
    return list(dict.fromkeys(image_id for beat in read(run) for image_id in beat.suspects))


def current(beats: Sequence[Beat], now: float) -> list[Beat]:
    """Drop heartbeats of earlier shard counts or world sizes."""
    newest: dict[tuple[int, ...], Beat] = {}
    for beat in sorted(beats, key=lambda beat: beat.time):
        newest[()] = newest[(beat.share.shards, beat.share.shard)] = beat

    def is_current(beat: Beat) -> bool:
        share = beat.share
        of_shard = newest[(share.shards, share.shard)].share
        return beat.is_at_work(now) or (share.shards == newest[()].share.shards and share.world == of_shard.world)

    return [beat for beat in beats if is_current(beat)]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _read(path: Path) -> Beat | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if path.is_file():  # a pipe would block
            return Beat.of(json.loads(path.read_bytes()))
    return None
