"""A run from start to end: what is not done yet is read, explained and kept, one row per image."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import gpulime
from gpulime import config as configs
from gpulime import inputs
from gpulime.errors import GpulimeError, check
from gpulime.explainer import Explainer
from gpulime.report import page
from gpulime.runs import store
from gpulime.runs.exits import FailuresInARowError, WrongSettingError
from gpulime.runs.isolation import Finished, Isolation
from gpulime.runs.loader import DatasetReader, FileReader, Read, batches
from gpulime.runs.progress import Progress
from gpulime.runs.sources import Item
from gpulime.runs.stop import Stop
from gpulime.runs.workers import read_all
from gpulime.runs.writer import Writer

VERSIONS = ("torch", "torchvision", "numpy", "scikit-image", "pyarrow", "pillow")

Picture = Callable[[Mapping[str, Any]], "np.ndarray[Any, np.dtype[np.uint8]] | None"]


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
    labels : "top", "target" or "top+target"
    fixed : all that changes a row; a directory holds rows of one such set only
    about : what else run.json tells: the model, the transform, the class names
    picture : row -> the picture of an image as the model saw it, for the report
    unnamed : functions among the settings that nothing tells from others of their kind
    max_failures_in_a_row : images that fail one after the other before the run ends; None: as many as there are
    """

    items: Sequence[Item]
    reader: FileReader | DatasetReader
    explainer: Explainer
    labels: str
    fixed: Mapping[str, Any]
    about: Mapping[str, Any]
    picture: Picture
    data: configs.DataConfig
    store: configs.StoreConfig
    report: bool
    out: Path
    unnamed: Sequence[str] = ()
    max_failures_in_a_row: int | None = configs.Config.max_failures_in_a_row

    @property
    def config_hash(self) -> str:
        """Sixteen hex digits over `fixed`."""
        text = json.dumps(self.fixed, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the model's classes, where they are known."""
        return self.about.get("class_names")


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
    Exception
        The model's own, where it fails for the first images one by one.
    """
    check(job.explainer.seed < 2**63, f"a run's seed must be below 2**63; got {job.explainer.seed}")
    _agree(job)
    done = store.done(job.out)
    todo = [item for item in job.items if item.image_id not in done]
    if done:
        print(f"{len(job.items) - len(todo)} of {len(job.items)} images are done already", file=sys.stderr)
        _look_again(job, next((item for item in job.items if item.image_id in done), None))
    shards = store.Store(job.out, flush_rows=job.store.flush_rows, flush_seconds=job.store.flush_seconds)
    with (
        Stop() as stop,  # outermost: the last shard is written under it too
        Writer(shards) as writer,
        Progress(len(todo), job.explainer.n_samples, job.class_names) as progress,
    ):

        def after_model_batch(b: int) -> None:
            _check_names(job.class_names, job.explainer.predictor.classes)
            progress.forwards(b)
            writer.check()
            stop.check()

        in_a_row = 0
        for row in _rows(job, todo, after_model_batch, stop):
            writer.put(row)
            progress.image(row)
            in_a_row = in_a_row + 1 if row["status"] == "error" else 0
            _check_failures(in_a_row, job.max_failures_in_a_row, row)
            stop.check()
    stop.check()
    statuses = store.read(job.out, ["status"])["status"].to_pylist()
    failed = statuses.count("error")
    outcome = Outcome(len(statuses) - failed, failed, progress.seconds, job.explainer.predictor.forwards)
    print(f"{len(todo)} images in {outcome.seconds:.0f} s, {outcome.forwards / outcome.seconds:.0f} forwards/s; ", end="")
    print(f"the run has {outcome.ok} ok, {outcome.failed} failed")
    print(f"results: {job.out / store.RESULTS}")
    if job.report:
        print(f"report: {page.write(job.out, job.picture, job.class_names)}")
    return outcome


def _agree(job: Job) -> None:
    """Refuse a directory with rows of other settings, saying which; a new one gets its run.json."""
    manifest = store.read_manifest(job.out)
    if manifest is None:
        about = {**job.about, "fixed": job.fixed, "config_hash": job.config_hash, "versions": _versions()}
        store.write_manifest(job.out, json.loads(json.dumps(about, default=repr)))
        return
    if manifest.get("config_hash") == job.config_hash:
        these = f"{' and '.join(job.unnamed)} {'are' if len(job.unnamed) > 1 else 'is'}"
        doubt = f"whether {these} what made them is not known of a function: give a model_id, another for other functions"
        check(not job.unnamed, f"{job.out} holds results, and {doubt}")
        return
    was, now = manifest.get("fixed", {}), json.loads(json.dumps(job.fixed, default=repr))
    changed = [
        f"{name} was {was.get(name)!r}, is {now.get(name)!r}" for name in {**was, **now} if was.get(name) != now.get(name)
    ]
    raise GpulimeError(f"{job.out} holds results of other settings: {'; '.join(changed)}. Choose another out, or delete it")


def _look_again(job: Job, item: Item | None) -> None:
    """Read one image that is done: where it is not what it was, the directory may hold the rows of another dataset."""
    if item is None:
        return
    rows = store.read(job.out, ["image_id", "image_sha256"])
    known = dict(zip(rows["image_id"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True))[item.image_id]
    if known is not None and job.reader(item).sha256 != known:
        print(
            f"image {item.image_id!r} is not what it was when it was explained: is {job.out} another dataset's?",
            file=sys.stderr,
        )


def _rows(job: Job, todo: Sequence[Item], after_model_batch: Callable[[int], None], stop: Stop) -> Iterator[dict[str, Any]]:
    """Rows of the store as images are finished; those that cannot be read come as they are met."""
    failed: deque[Read] = deque()

    def feed() -> Iterator[tuple[list[Read], inputs.Batch]]:
        explainer, data = job.explainer, job.data
        for reads in read_all(
            todo,
            job.reader,
            explainer.segmenter,
            explainer.device,
            data.batch_size,
            data.workers,
            timeout_seconds=data.timeout_seconds,
            waiting=stop.check,
        ):
            stop.check()
            sound = [_with_sound_target(job, read) for read in reads]
            failed.extend(read for read in sound if read.error is not None)
            yield from batches(sound, job.labels, job.reader.in_unit)

    def alone(read: Read) -> inputs.Batch:
        [(_, batch)] = batches([read], job.labels, job.reader.in_unit)
        return batch

    proven = "ok" in store.read(job.out, ["status"])["status"].to_pylist()
    for outcome in Isolation(job.explainer, alone, after_model_batch, proven).explain(feed()):
        yield from (_error_row(job, failed.popleft()) for _ in range(len(failed)))
        yield _row(job, outcome) if isinstance(outcome, Finished) else _error_row(job, outcome)
    yield from (_error_row(job, read) for read in failed)


def _with_sound_target(job: Job, read: Read) -> Read:
    """The same, or an error where the target is to be explained and cannot be."""
    target, names = read.item.target, job.class_names
    if read.pixels is None or job.labels == "top":
        return read
    if job.labels == "target" and target is None:
        return Read(read.item, error="has no target, and labels is 'target'", kind="target")
    if target is not None and job.explainer.predictor.classes is None and names is None:
        job.explainer.count_classes(read.pixels[None])
    classes = len(names) if names is not None else job.explainer.predictor.classes
    if target is not None and classes is not None and not 0 <= target < classes:
        return Read(read.item, error=f"its target is {target}; the model has {classes} classes", kind="target")
    return read


def _check_names(names: Sequence[str] | None, classes: int | None) -> None:
    if names is not None and classes is not None and len(names) != classes:
        raise WrongSettingError(f"class_names has {len(names)} names; the model has {classes} classes")


def _check_failures(in_a_row: int, most: int | None, last: Mapping[str, Any]) -> None:
    if in_a_row == most:
        why = f"the last, {last['image_id']!r}, for {last['error_type']}: {str(last['error'])!r:.200}"
        raise FailuresInARowError(f"{in_a_row} images in a row failed (max_failures_in_a_row), {why}; their rows are kept")


def _row(job: Job, finished: Finished) -> dict[str, Any]:
    read, batch, i = finished.read, finished.explanations, finished.i
    bad, count = int(batch.non_finite[i]), int(batch.counts[i])
    if bad:
        message = f"the model's output was NaN or infinite for {bad} of {job.explainer.n_samples} samples"
        return _error_row(job, dataclasses.replace(read, error=message, kind="non_finite"))
    labels = batch.labels[i].tolist()
    once = [labels.index(label) for label in dict.fromkeys(labels)]  # a target may be among the top labels
    raster, dtype = store.encode_segments(batch.segments[i].numpy())

    def of(values: Tensor) -> list[Any]:
        return [values[i, j].tolist() for j in once]

    return {
        **_common(job, read),
        "status": "ok",
        "h": batch.segments.shape[1],
        "w": batch.segments.shape[2],
        "n_segments": count,
        "seg": raster,
        "seg_dtype": dtype,
        "segmenter": job.fixed["segmenter"],
        "labels": of(batch.labels),
        "pred_probs": of(batch.predictions),
        "coef": of(batch.coefficients[:, :, :count].float()),
        "intercept": of(batch.intercepts),
        "r2": [None if np.isnan(score) else score for score in of(batch.scores)],
    }


def _error_row(job: Job, read: Read) -> dict[str, Any]:
    return {**_common(job, read), "status": "error", "error_type": read.kind, "error": read.error}


def _common(job: Job, read: Read) -> dict[str, Any]:
    return {
        "image_id": read.item.image_id,
        "path": os.path.abspath(read.item.path) if read.item.path else b"",
        "target": read.item.target,
        "attempt": 1,
        "written_at": datetime.now(UTC),
        "n_samples": job.explainer.n_samples,
        "seed": job.explainer.seed,
        "config_hash": job.config_hash,
        "image_sha256": read.sha256,
    }


def _versions() -> dict[str, str]:
    return {
        "gpulime": gpulime.__version__,
        "python": platform.python_version(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **{name: version(name) for name in VERSIONS},
    }
