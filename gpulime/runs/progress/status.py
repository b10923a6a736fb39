"""The progress of a run for another shell, from its shards and heartbeats."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpulime.runs.evaluation.rows import EVALUATION
from gpulime.runs.progress import heartbeat
from gpulime.runs.progress.heartbeat import Beat
from gpulime.runs.progress.terminal import counted, duration, printable
from gpulime.runs.store import shards, store
from gpulime.runs.store.row import IMAGE


@dataclass(frozen=True)
class Status:
    """The progress of a run."""

    run: str
    images: int | None  # of the whole run, before shares and limits; None if no process has reported yet
    ok: int  # images in the shards that are explained
    failed: dict[str, int]  # and that failed, by kind
    processes: list[Beat]  # the last beat of each, without earlier shard counts or world sizes
    now: float  # time of this query, in seconds since 1970
    kind: str = IMAGE  # of the inputs
    evaluated: int | None = None  # inputs with rows of an evaluation; None if there is none

    @property
    def running(self) -> list[Beat]:
        """The running processes."""
        return [beat for beat in self.processes if beat.is_at_work(self.now)]

    @property
    def rate(self) -> float | None:
        """Images per second of all running processes together; None if none has finished an image yet."""
        rates = [(beat.ok + beat.failed) / beat.effort.seconds for beat in self.running if beat.effort.seconds > 0]
        return sum(rates) or None

    @property
    def done(self) -> int:
        """Images that have a row."""
        return self.ok + sum(self.failed.values())

    @property
    def left(self) -> float | None:
        """Seconds until the slowest process expects to finish; None if any is unknown or none is running."""
        times = [None if beat.left is None else beat.left - (self.now - beat.time) for beat in self.running]
        known = [seconds for seconds in times if seconds is not None]
        return max(*known, 0.0) if known and len(known) == len(times) else None

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {**dataclasses.asdict(self), "done": self.done, "rate": self.rate, "left": self.left}

    def __str__(self) -> str:
        lines = [self._head(), *(self._process(beat) for beat in self.processes)]
        if self.evaluated is not None:
            lines.append(f"  evaluation: rows of {counted(self.evaluated, self.kind)}")
        return "\n".join(lines)

    def _head(self) -> str:
        of_all = (
            f"{self.done:,} of {counted(self.images, self.kind)} ({100 * self.done / self.images:.1f} %)"
            if self.images
            else counted(self.done, self.kind)
        )
        failed = ", ".join(f"{printable(kind)} {count:,}" for kind, count in self.failed.items())
        failures = f"; {sum(self.failed.values()):,} failed ({failed})" if failed else "; none failed"
        rate = "" if self.rate is None else f"; {self.rate:.3g} {self.kind}s/s"
        left = "" if self.left is None else f"; {duration(self.left)} left"
        return f"{self.run}: {of_all} on disk{failures}{rate}{left}"

    def _process(self, beat: Beat) -> str:
        done = beat.ok + beat.failed
        ago = duration(max(self.now - beat.time, 0))
        state = f"{printable(beat.state)} {ago} ago"
        if beat.is_gone:
            state = f"gone: no such process, its last word came {ago} ago"
        elif beat.state == heartbeat.RUNNING:
            state = f"silent for {ago}: it hangs, or has died" if beat.is_silent(self.now) else f"running, last word {ago} ago"
        effort, speed = beat.effort, ""
        if effort.seconds > 0 and effort.forwards:
            images = f"{done / effort.seconds:.3g} {self.kind}s/s, " if done else ""
            model = f"{100 * effort.in_model:.0f} % of the time in the model"
            speed = f"; {images}{effort.forwards / effort.seconds:,.0f} forwards/s, {model}"
        who = f"{beat.share} on {printable(beat.host)} ({beat.pid})"
        return f"  {who}: {state}; {beat.before + done:,} of its {beat.own:,} done{speed}"


def status(run: Path) -> Status:
    """Look up the progress of a run; raises `GpulimeError` if the directory holds none."""
    manifest = store.manifest(run)
    rows = store.read(run, ["status", "error_type"])
    beats, now = heartbeat.read(run), time.time()
    images = heartbeat.images(run, manifest.get("config_hash"))
    images = None if images is None else max(images, len(rows))  # some may have been removed from the source
    kinds = Counter(kind for kind in rows["error_type"].to_pylist() if kind is not None)
    return Status(
        run=str(run),
        images=images,
        ok=rows["status"].to_pylist().count("ok"),
        failed=dict(kinds.most_common()),
        processes=heartbeat.current(beats, now),
        now=now,
        kind=manifest.get("kind", IMAGE),
        evaluated=_evaluated(run),
    )


def _evaluated(run: Path) -> int | None:
    """Count the inputs with rows of an evaluation; None if there is none."""
    if not shards.shards(run, EVALUATION):
        return None
    return len(shards.rows(run, ["image_id"], EVALUATION)["image_id"].unique())
