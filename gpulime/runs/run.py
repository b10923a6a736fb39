"""Run from start to end: read and explain the remaining images, and store one row per image."""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpulime import config as configs
from gpulime import device as devices
from gpulime.engine.engine import Engine
from gpulime.errors import check
from gpulime.runs.isolation import Isolation, Recorder, Row
from gpulime.runs.progress import estimate, heartbeat, summary
from gpulime.runs.progress.bar import Progress
from gpulime.runs.progress.estimate import Plan
from gpulime.runs.progress.exits import FailuresInARowError, WrongSettingError
from gpulime.runs.progress.heartbeat import Beat, Effort, Heartbeat
from gpulime.runs.progress.partition import ALL, Share, Todo
from gpulime.runs.progress.signals import Stop
from gpulime.runs.progress.terminal import counted, note, say
from gpulime.runs.reading.read import Picture
from gpulime.runs.reading.sources import Item
from gpulime.runs.source import Source
from gpulime.runs.store import atomic, store
from gpulime.runs.store.manifest import Terms
from gpulime.runs.store.store import Writer
from gpulime.views.report import page


@dataclass(frozen=True)
class Outcome:
    """Result of a run: its explained and failed images, and the seconds and forwards of this call."""

    ok: int
    failed: int
    seconds: float
    forwards: int


@dataclass(frozen=True)
class Job:
    """Inputs and settings of a run."""

    items: Sequence[Item]
    source: Source
    terms: Terms
    picture: Picture  # for the report
    images: int  # of the run; ``items`` may be the first few of them
    store: configs.StoreConfig
    report: bool
    out: Path
    share: Share = ALL  # the part of this process
    retry_failed: bool = False
    max_failures_in_a_row: int | None = configs.Config.max_failures_in_a_row

    @property
    def explainer(self) -> Engine[Any]:
        """The explainer of the run's inputs."""
        return self.source.explainer

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the model's classes; None if unknown."""
        return self.terms.class_names


def perform(job: Job) -> Outcome:
    """Explain the remaining images of a run, and print its summary.

    Raises
    ------
    GpulimeError
        If the directory holds rows of other settings.
    Stopped
        If a signal stops the run; finished rows are kept.
    EndOfRunError
        If the device is lost, rows cannot be written or too many images fail in a row; finished rows are kept.
    ModelFailsError
        If the model fails for each of the first images alone; its error is the cause.
    """
    check(job.explainer.seed < 2**63, f"a run's seed must be below 2**63; got {job.explainer.seed}")
    out, left, predictor, n_samples = job.out, _todo(job), job.explainer.predictor, job.explainer.n_samples
    shown = job.share.rank == 0
    one, per_sample = job.source.kind, job.source.per_sample
    progress = Progress(len(left.items), n_samples, job.class_names, lambda: predictor.watch.seconds, shown, one, per_sample)
    predictor.announce(progress.total, note)
    rows = store.Store(out, rank=job.share.number, config_hash=job.terms.config_hash, **dataclasses.asdict(job.store))
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())  # outermost: the last shard is written under it too
        with atomic.one_at_a_time(out):  # the next process finds this one running, and its run.json in force
            job.terms.accept(out)
            if left.items:
                atomic.try_out(out)
            # Writes the final state, once the last row is written or lost.
            heart = stack.enter_context(Heartbeat(out, job.share, lambda state: _beat(job, left, progress, state)))
        if left.done:
            note(f"{len(left.done):,} of {counted(len(job.items), one)} {'is' if len(job.items) == 1 else 'are'} done already")
            _look_again(job)
        if left.items and shown:
            note(estimate.work(len(left.items), n_samples, job.explainer.stopping is not None, one, per_sample))
        stack.enter_context(progress)  # its bar is closed before the writer's last error is printed
        writer = stack.enter_context(Writer(rows))  # innermost: rows are written first, however the run ends

        def look() -> None:
            """Write a heartbeat if due; raise if rows cannot be written."""
            heart.beat_if_due()
            writer.check()

        def heed() -> None:
            """Do the same, and raise if a signal has come."""
            look()
            stop.check()

        def after_model_batch(b: int) -> None:
            _check_names(job.class_names, predictor.classes)
            progress.forwards(b)
            heed()

        in_a_row = 0
        with closing(_rows(job, left, after_model_batch, heed)) as made:
            for row in made:
                writer.put(row)
                progress.image(row)
                predictor.announce(progress.total - progress.seen, note)
                in_a_row = in_a_row + 1 if row["status"] == "error" else 0
                _check_failures(in_a_row, job.max_failures_in_a_row, row, one)
                look()  # not `heed`: rows finished together with this one come next, and must not be lost to a signal
    stop.check()
    assert heart.last is not None
    return _finish(job, progress, heart.last.effort)


def plan(job: Job) -> Plan:
    """Describe the work of `perform` and estimate its time; write nothing.

    Raises
    ------
    GpulimeError
        As `perform`.
    """
    job.terms.fit(job.out)
    left, explainer, used = _todo(job), job.explainer, list[int]()

    def explain(after_model_batch: Callable[[int], None]) -> Generator[Row, None, None]:
        def after(b: int) -> None:
            _check_names(job.class_names, explainer.predictor.classes)
            after_model_batch(b)

        with closing(_rows(job, left, after, lambda: None)) as made:
            for row in made:
                if row["status"] == "ok":
                    used.append(row["n_samples"])
                yield row

    rate, b = estimate.rate(explain, lambda: devices.synchronize(explainer.device))
    n_samples = round(statistics.fmean(used)) if used else explainer.n_samples
    is_about = explainer.stopping is not None or n_samples != explainer.n_samples
    numbers = len(job.items), len(left.done), len(left.items), left.again
    return Plan(*numbers, n_samples, is_about, job.share, rate, b, job.source.kind, job.source.per_sample)


def _todo(job: Job) -> Todo:
    return Todo.of(job.items, job.share, store.done(job.out), job.retry_failed, heartbeat.suspects(job.out))


def _beat(job: Job, left: Todo, progress: Progress, state: str) -> Beat:
    return Beat(
        share=job.share,
        host=heartbeat.machine(),
        pid=os.getpid(),
        state=state,
        config_hash=job.terms.config_hash,
        images=job.images,
        own=left.own,
        before=left.own - len(left.items),
        ok=progress.ok,
        failed=progress.failed,
        effort=progress.effort,
        left=progress.left,
        time=time.time(),
    )


def _finish(job: Job, progress: Progress, call: Effort) -> Outcome:
    """Write the summary and the report if the run is finished, so that of several processes the last one does."""
    found = summary.summary(job.out, store.manifest(job.out), call)
    missing = _missing(job)
    if not job.share.is_all and (missing or heartbeat.at_work(job.out)):
        others = "other processes are still running; the last one sums up"
        left = f"{missing:,} of the run are left for other processes" if missing else others
        say(f"{job.share}: {counted(progress.ok + progress.failed, job.source.kind)} done here; {left}")
    else:
        say(f"\n{found}\n")
        say(f"summary: {summary.write(job.out, found)}")
        say(f"results: {job.out / store.RESULTS}")
        if job.report:
            say(f"report: {page.write(job.out, job.picture, job.class_names)}")
    return Outcome(found.ok, found.errors, call.seconds, call.forwards)


def _missing(job: Job) -> int:
    """Count the images of the run without a row."""
    done = store.done(job.out)
    return sum(item.image_id not in done for item in job.items)


def _look_again(job: Job) -> None:
    """Read a finished image again; if it has changed, the directory may hold rows of another dataset."""
    rows = store.read(job.out, ["image_id", "image_sha256"])
    known = dict(zip(rows["image_id"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True))
    # Not an unreadable image: it may have crashed its worker, and would crash this process.
    item = next((item for item in job.items if known.get(item.image_id) is not None), None)
    if item is not None and job.source.read(item).sha256 != known[item.image_id]:
        note(
            f"{job.source.kind} {item.image_id!r} has changed since it was explained: does {job.out} belong to another dataset?"
        )


def _rows(
    job: Job, left: Todo, after_model_batch: Callable[[int], None], heed: Callable[[], None]
) -> Generator[Row, None, None]:
    """Rows of the store, in the order of the images; ``heed`` is called while they are read."""
    # If the run has explained images before, the model works, and new failures are the images'.
    proven = "ok" in store.read(job.out, ["status"])["status"].to_pylist()
    recorder = Recorder(
        job.explainer.n_samples,
        job.explainer.seed,
        job.terms.config_hash,
        job.explainer.predictor.activation,
        job.source.columns,
    )
    suspects = {item.image_id for [item] in left.passes[1:]}
    isolation = Isolation(job.explainer, job.source.alone, after_model_batch, proven, suspects, job.source.kind)
    for items in itertools.chain.from_iterable(map(job.source.passes, left.passes)):
        with closing(
            job.source.groups(items, proven, heed)
        ) as groups:  # ends its worker processes with the run, even if its error is kept
            for outcome in isolation.explain(groups):
                yield recorder.row(outcome)
    isolation.end()


def _check_names(names: Sequence[str] | None, classes: int | None) -> None:
    if names is not None and classes is not None and len(names) != classes:
        raise WrongSettingError(f"class_names has {len(names)} names; the model has {classes} classes")


def _check_failures(in_a_row: int, most: int | None, last: Mapping[str, Any], one: str) -> None:
    if in_a_row == most:
        why = f"the last, {last['image_id']!r}, for {last['error_type']}: {str(last['error'])!r:.200}"
        raise FailuresInARowError(
            f"{counted(in_a_row, one)} in a row failed (max_failures_in_a_row), {why}; their rows are kept"
        )
