"""A run from start to end: what is not done yet is read, explained and kept, one row per image."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gpulime import config as configs
from gpulime import device as devices
from gpulime.errors import check
from gpulime.explainer import Explainer
from gpulime.images.batch import Batch
from gpulime.runs.isolation import Isolation
from gpulime.runs.progress import estimate, heartbeat, summary
from gpulime.runs.progress.bar import Progress
from gpulime.runs.progress.estimate import Plan
from gpulime.runs.progress.exits import FailuresInARowError, WrongSettingError
from gpulime.runs.progress.heartbeat import Beat, Effort, Heartbeat
from gpulime.runs.progress.partition import ALL, Share
from gpulime.runs.progress.pending import Todo
from gpulime.runs.progress.signals import Stop
from gpulime.runs.progress.terminal import note, say
from gpulime.runs.reading.hints import Hints
from gpulime.runs.reading.pixels import ChannelsError
from gpulime.runs.reading.read import DatasetReader, FileReader, Group, Read, batches
from gpulime.runs.reading.shown import Shown
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.targets import read_target
from gpulime.runs.reading.workers import read_all
from gpulime.runs.store import atomic, lock, store
from gpulime.runs.store.manifest import Terms
from gpulime.runs.store.recorder import Recorder, Row
from gpulime.runs.store.writer import Writer
from gpulime.views.report import page

Picture = Callable[[Mapping[str, Any]], Shown | None]


@dataclass(frozen=True)
class Outcome:
    """What came of a run: images of it that are explained and that failed, and this call's seconds and forwards."""

    ok: int
    failed: int
    seconds: float
    forwards: int


@dataclass(frozen=True)
class Job:
    """What a run is made of.

    Attributes
    ----------
    items, reader : the images, and what reads one of them
    explainer : Explainer
    labels : "top", "target" or "top+target", or the classes that are explained for each image
    terms : what its rows have in common, and run.json tells
    picture : row -> the picture of an image as the model saw it, for the report
    images : how many the run has, of which ``items`` may be the first few
    share : what this process does of it
    retry_failed : whether images that have an error row are tried again
    max_failures_in_a_row : images that fail one after the other before the run ends; None: as many as there are
    keep : ids of segments that are never hidden
    """

    items: Sequence[Item]
    reader: FileReader | DatasetReader
    explainer: Explainer
    labels: str | Sequence[int]
    terms: Terms
    picture: Picture
    images: int
    data: configs.DataConfig
    store: configs.StoreConfig
    report: bool
    out: Path
    share: Share = ALL
    retry_failed: bool = False
    max_failures_in_a_row: int | None = configs.Config.max_failures_in_a_row
    keep: Sequence[int] = ()

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the model's classes, where they are known."""
        return self.terms.class_names


def perform(job: Job) -> Outcome:
    """Do what of a run is not done yet, and say what came of it.

    Raises
    ------
    GpulimeError
        Where the directory holds rows of other settings.
    Stopped
        Where a signal asked for it; what was finished is kept.
    EndOfRunError
        Where the device is lost, the disk takes no rows or too many images fail one after the other; what was finished is kept.
    ModelFailsError
        If the model fails for the first images, also one by one; its own error is the cause.
    """
    check(job.explainer.seed < 2**63, f"a run's seed must be below 2**63; got {job.explainer.seed}")
    out, left, predictor, n_samples = job.out, _todo(job), job.explainer.predictor, job.explainer.n_samples
    shown = job.share.rank == 0
    predictor.announce(len(left.items) * n_samples, note)
    progress = Progress(len(left.items), n_samples, job.class_names, lambda: predictor.watch.seconds, shown)
    heart = Heartbeat(out, job.share, lambda state: _beat(job, left, progress, state))
    rows = store.Store(out, rank=job.share.number, config_hash=job.terms.config_hash, **dataclasses.asdict(job.store))
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())  # outermost: the last shard is written under it too
        with lock.one_at_a_time(out):  # who comes next finds this process at work, and its run.json binding
            job.terms.accept(out)
            if left.items:
                atomic.try_out(out)
            rows.claim()
            stack.callback(rows.release)
            stack.enter_context(heart)  # tells how it ended, once the last row is written or lost
        if left.done:
            note(f"{len(left.done):,} of {len(job.items):,} images are done already")
            _look_again(job)
        stack.enter_context(progress)  # the bar is gone before the writer's last error is shown
        writer = stack.enter_context(Writer(rows))  # innermost: whatever ends the run, its rows are written first

        def look() -> None:
            """Show signs of life; end where the disk takes no rows."""
            heart.beat_if_due()
            writer.check()

        def heed() -> None:
            """The same; end where a signal asks for it, too."""
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
                in_a_row = in_a_row + 1 if row["status"] == "error" else 0
                _check_failures(in_a_row, job.max_failures_in_a_row, row)
                look()  # no more: what is finished with this one comes next, and is not lost to a signal
    stop.check()
    assert heart.last is not None
    return _finish(job, progress, heart.last.effort)


def plan(job: Job) -> Plan:
    """What `perform` would do, and about how long that takes; nothing is written.

    Raises
    ------
    GpulimeError
        As `perform`.
    """
    job.terms.fit(job.out)
    left, explainer = _todo(job), job.explainer

    def explain(after_model_batch: Callable[[int], None]) -> Generator[Row, None, None]:
        def after(b: int) -> None:
            _check_names(job.class_names, explainer.predictor.classes)
            after_model_batch(b)

        return _rows(job, left, after, lambda: None)

    rate, b = estimate.rate(explain, lambda: devices.synchronize(explainer.device))
    return Plan(len(job.items), len(left.done), len(left.items), left.again, explainer.n_samples, job.share, rate, b)


def _todo(job: Job) -> Todo:
    return Todo.of(job.items, job.share, store.done(job.out), job.retry_failed, heartbeat.suspects(job.out))


def _beat(job: Job, left: Todo, progress: Progress, state: str) -> Beat:
    return Beat(
        share=job.share,
        host=socket.gethostname(),
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
    """Sum up, and write the report where nothing of the run is left: the last process of several does."""
    found = summary.summary(job.out, store.manifest(job.out), call)
    missing = _missing(job)
    if not job.share.is_all and (missing or heartbeat.at_work(job.out)):
        left = f"{missing:,} of the run are left to others" if missing else "others are still at work, the last of them sums up"
        say(f"{job.share}: {progress.ok + progress.failed:,} images are done here; {left}")
    else:
        say(f"\n{found}\n")
        say(f"summary: {summary.write(job.out, found)}")
        say(f"results: {job.out / store.RESULTS}")
        if job.report:
            say(f"report: {page.write(job.out, job.picture, job.class_names)}")
    return Outcome(found.ok, found.errors, call.seconds, call.forwards)


def _missing(job: Job) -> int:
    """How many images of the run have no row yet."""
    done = store.done(job.out)
    return sum(item.image_id not in done for item in job.items)


def _look_again(job: Job) -> None:
    """Read one image that is done: where it is not what it was, the directory may hold the rows of another dataset."""
    rows = store.read(job.out, ["image_id", "image_sha256"])
    known = dict(zip(rows["image_id"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True))
    # Not one that could not be read: it may have been the end of its worker, and here there is none.
    item = next((item for item in job.items if known.get(item.image_id) is not None), None)
    if item is not None and job.reader(item).sha256 != known[item.image_id]:
        note(f"image {item.image_id!r} is not what it was when it was explained: is {job.out} another dataset's?")


def _rows(
    job: Job, left: Todo, after_model_batch: Callable[[int], None], heed: Callable[[], None]
) -> Generator[Row, None, None]:
    """Rows of the store, in the order of the images; ``heed`` is called while they are read."""
    read_any = False
    masked = False  # whether masks have come with an image, which is said once
    # Where images have been explained before, one that fails now is no sign of a model that never works.
    proven = "ok" in store.read(job.out, ["status"])["status"].to_pylist()
    hints = Hints()

    def feed(items: Sequence[Item]) -> Generator[Group, None, None]:
        nonlocal masked, read_any
        explainer, data = job.explainer, job.data
        for reads in read_all(
            items,
            job.reader,
            explainer.segmenter,
            explainer.device,
            data.batch_size,
            data.workers,
            timeout_seconds=data.timeout_seconds,
            waiting=heed,
        ):
            heed()
            hints.look(reads)
            if not proven:
                _check_channels(reads)
            if not masked and any(read.segmenter for read in reads):
                masked = True
                note("the masks that come with the images are used as their segments; lime.segments is not")
            if not (proven or read_any) and reads[0].is_misfit:
                raise WrongSettingError(f"image {reads[0].item.image_id!r}: {reads[0].error}")
            read_any = True
            aimed = [read_target(read, job.labels, job.class_names, count) for read in reads]
            yield from batches(aimed, job.labels, job.reader.in_unit, job.keep)

    def alone(read: Read) -> Batch:
        [(_, batch)] = batches([read], job.labels, job.reader.in_unit, job.keep)
        assert batch is not None  # it could be read
        return batch

    def count(images: Tensor) -> int | None:
        return _count_classes(job, images)

    recorder = Recorder(
        job.explainer.n_samples,
        job.explainer.seed,
        job.terms.config_hash,
        job.terms.fixed["segmenter"],
        job.explainer.predictor.activation,
    )
    suspects = {item.image_id for [item] in left.passes[1:]}
    isolation = Isolation(job.explainer, alone, after_model_batch, proven, suspects)
    for items in left.passes:
        with closing(feed(items)) as groups:  # its worker processes end with the run, whoever holds its error
            for outcome in isolation.explain(groups):
                yield recorder.row(outcome)
    isolation.end()


def _count_classes(job: Job, images: Tensor) -> int | None:
    """The classes of the model, by their names, by its answers so far, or by one more; None if it fails."""
    if job.class_names is not None:
        return len(job.class_names)
    if job.explainer.predictor.classes is None:
        with suppress(Exception, SystemExit):  # then the image's row says so
            job.explainer.count_classes(images)
    return job.explainer.predictor.classes


def _check_channels(reads: Sequence[Read]) -> None:
    """End a run if none of the images that are read together can be used, because their channels do not fit the model."""
    misfits = [read for read in reads if read.kind == ChannelsError.kind]
    if misfits and all(read.pixels is None for read in reads):
        raise WrongSettingError(f"image {misfits[0].item.image_id!r} {misfits[0].error}")


def _check_names(names: Sequence[str] | None, classes: int | None) -> None:
    if names is not None and classes is not None and len(names) != classes:
        raise WrongSettingError(f"class_names has {len(names)} names; the model has {classes} classes")


def _check_failures(in_a_row: int, most: int | None, last: Mapping[str, Any]) -> None:
    if in_a_row == most:
        why = f"the last, {last['image_id']!r}, for {last['error_type']}: {str(last['error'])!r:.200}"
        raise FailuresInARowError(f"{in_a_row} images in a row failed (max_failures_in_a_row), {why}; their rows are kept")
