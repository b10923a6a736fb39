"""How far each process of a run is, in a small file that it writes anew every few seconds and other shells read."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gpulime.runs.progress.exits import DeviceLostError
from gpulime.runs.progress.partition import Share
from gpulime.runs.store.atomic import staged

FOLDER = "heartbeats"
SECONDS = 5.0  # between two of them
SILENCE = 60.0  # after which a process is said to be silent: more than nearly every model batch takes

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
LONGEST = 1e12  # seconds


@dataclass(frozen=True)
class Effort:
    """What was spent.

    Attributes
    ----------
    seconds : of processes
    forwards : rows that the model was given
    model_seconds : of ``seconds``, those that the model took
    """

    seconds: float = 0.0
    forwards: int = 0
    model_seconds: float = 0.0

    @property
    def in_model(self) -> float:
        """The share of the time that the model took, in [0, 1]."""
        return min(self.model_seconds / self.seconds, 1.0) if self.seconds else 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.seconds + other.seconds, self.forwards + other.forwards, self.model_seconds + other.model_seconds)


@dataclass(frozen=True)
class Beat:
    """What a process tells of itself.

    Attributes
    ----------
    config_hash : of the run's settings
    images : those of the whole run; ``own`` are this process's, of which ``before`` were done before it started
    ok, failed : those that are explained and that failed since
    effort : since it started
    earlier : effort of the processes that had this share before
    suspects : images that a process of this share had in hand when it lost its device
    left : seconds that it expects to need yet, None where it cannot tell
    time : when it was written, in seconds since 1970
    """

    share: Share
    host: str
    pid: int
    state: str
    config_hash: str | None
    images: int
    own: int
    before: int
    ok: int
    failed: int
    effort: Effort
    left: float | None
    time: float
    earlier: Effort = Effort()
    suspects: Sequence[str] = ()

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Beat:
        """From the JSON of a file.

        Raises
        ------
        TypeError, KeyError, ValueError
            If it is another program's, or damaged.
        """
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

    def is_silent(self, now: float) -> bool:
        """Whether nothing has been heard of it for long."""
        return abs(now - self.time) > SILENCE  # a clock that is far ahead tells nothing, either

    def is_at_work(self, now: float) -> bool:
        """Whether it works, as far as one can tell."""
        return self.state == RUNNING and not self.is_gone and not self.is_silent(now)


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

    Attributes
    ----------
    last : Beat or None, what was written last
    """

    def __init__(self, run: Path, share: Share, describe: Callable[[str], Beat]) -> None:
        self.path = run / FOLDER / f"{share.shard + 1}-of-{share.shards}-rank-{share.rank}.json"
        self.describe = describe
        self.last: Beat | None = None
        self._next = 0.0
        self._before = _read(self.path)
        self._suspects: Sequence[str] = () if self._before is None else self._before.suspects

    def __enter__(self) -> Heartbeat:
        self.beat(RUNNING)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        new = next((behind.suspects for behind in _chain(error) if isinstance(behind, DeviceLostError)), ())
        # Those that have rows by now do not count; the newest come last, so that others show first whether the device works.
        self._suspects = (*(name for name in self._suspects if name not in new), *new)
        self.beat(FINISHED if kind is None else STOPPED if issubclass(kind, KeyboardInterrupt) else FAILED)

    def beat_if_due(self) -> None:
        """Write one if the last is old enough."""
        if time.monotonic() >= self._next:
            self.beat(RUNNING)

    def beat(self, state: str) -> None:
        """Write one. A disk that refuses it is no reason to end a run."""
        self._next = time.monotonic() + SECONDS
        now, before = self.describe(state), self._before
        goes_on = before is not None and before.config_hash == now.config_hash
        earlier = before.earlier + before.effort if before is not None and goes_on else Effort()
        self.last = dataclasses.replace(now, earlier=earlier, suspects=self._suspects)
        if not self.path.parents[1].is_dir():  # renamed in mid-run: none is made in its place
            return
        text = json.dumps(dataclasses.asdict(self.last))
        with contextlib.suppress(OSError), staged(self.path.parents[1], self.path) as path:
            path.write_text(text, encoding="utf-8")
            os.replace(path, self.path)


def read(run: Path) -> list[Beat]:
    """The last beat of each process there ever was, in the order of their shares; one that cannot be read is left out."""
    found = map(_read, (run / FOLDER).glob("*.json"))
    return sorted(
        (beat for beat in found if beat is not None),
        key=lambda beat: (beat.share.shards, beat.share.shard, beat.share.world, beat.share.rank),
    )


def images(run: Path, config_hash: str | None) -> int | None:
    """How many images a run of these settings has, as its newest process told; None where none has."""
    told = [beat for beat in read(run) if beat.config_hash == config_hash]
    return max(told, key=lambda beat: beat.time).images if told else None


def at_work(run: Path) -> list[Beat]:
    """The last beat of each process that works, as far as one can tell."""
    now = time.time()
    return [beat for beat in read(run) if beat.is_at_work(now)]


def spent(run: Path, config_hash: str | None) -> Effort:
    """What all processes of a run of these settings have spent, in all its calls."""
    return sum((beat.earlier + beat.effort for beat in read(run) if beat.config_hash == config_hash), Effort())


def suspects(run: Path) -> list[str]:
    """Images that were in hand where a process lost its device, the newest last."""
    return list(dict.fromkeys(image_id for beat in read(run) for image_id in beat.suspects))


def current(beats: Sequence[Beat], now: float) -> list[Beat]:
    """Without the processes of earlier divisions: into other shards, or of a shard among another number of ranks."""
    newest: dict[tuple[int, ...], Beat] = {}
    for beat in sorted(beats, key=lambda beat: beat.time):
        newest[()] = newest[(beat.share.shards, beat.share.shard)] = beat

    def is_current(beat: Beat) -> bool:
        share = beat.share
        of_shard = newest[(share.shards, share.shard)].share
        return beat.is_at_work(now) or (share.shards == newest[()].share.shards and share.world == of_shard.world)

    return [beat for beat in beats if is_current(beat)]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _read(path: Path) -> Beat | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if path.is_file():  # a pipe would be waited for
            return Beat.of(json.loads(path.read_bytes()))
    return None
