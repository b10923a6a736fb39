"""A run from start to end: what is not done yet is read, explained and kept, one row per image."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
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
import torch
from torch import Tensor, nn

import gpulime
from gpulime import config as configs
from gpulime import inputs, segments
from gpulime.errors import GpulimeError, check
from gpulime.explainer import Explainer
from gpulime.explanation import Explanations
from gpulime.report import page
from gpulime.runs import models, sources, store, weights
from gpulime.runs.loader import DatasetReader, FileReader, Read, batches, read_all
from gpulime.runs.progress import Progress
from gpulime.runs.sources import Item
from gpulime.runs.transform import Transform

OK, ERROR_ROWS = 0, 3  # exit codes
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

    @property
    def config_hash(self) -> str:
        """Sixteen hex digits over `fixed`."""
        text = json.dumps(self.fixed, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the model's classes, where they are known."""
        return self.about.get("class_names")


def run(config: configs.Config) -> int:
    """Do what a configuration says; go on where an earlier run of it stopped.

    Returns
    -------
    int
        Exit code: 0 if all images of the run have explanations, 3 if some have error rows.

    Raises
    ------
    GpulimeError
        Where a setting, the model or the source is not what it must be, or the directory holds rows of other settings.
    """
    loaded = models.load(config.model, config.data, config.lime)
    source = sources.find(config.data, loaded.class_names)
    if source.ignored:
        listed = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in sorted(source.ignored.items()))
        print(f"{len(source.items)} images in {config.data.source}; left aside: {listed}", file=sys.stderr)
    lime = {**dataclasses.asdict(config.lime), "mean": loaded.transform.mean, "std": loaded.transform.std}
    labels = lime.pop("labels")
    lime["device"] = lime["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    explainer = Explainer(loaded.model.to(lime["device"]), **lime)
    outcome = _perform(
        Job(
            items=source.items,
            reader=FileReader(dataclasses.replace(source, items=[]), loaded.transform),
            explainer=explainer,
            labels=labels,
            fixed={
                **configs.fixed(config),
                "transform": dataclasses.asdict(loaded.transform),
                "segmenter": segments.describe(explainer.segmenter),
                "weights_sha256": loaded.weights_sha256,
            },
            about={
                "config": dataclasses.asdict(config),
                "transform": dataclasses.asdict(loaded.transform),
                "model": loaded.description,
                "class_names": loaded.class_names,
            },
            picture=_picture_of(config.data, loaded.transform),
            data=config.data,
            store=config.store,
            report=config.report,
            out=Path(config.out),
        )
    )
    return ERROR_ROWS if outcome.failed else OK


def explain(
    model: Any,
    dataset: Any,
    out: str | Path,
    *,
    labels: str = "top",
    model_id: str | None = None,
    class_names: Sequence[str] | None = None,
    workers: int = 0,
    report: bool = True,
    **lime: Any,
) -> Outcome:
    """Explain a dataset into a run directory: `gpulime explain` for those who have model and data in Python.

    Parameters
    ----------
    model : nn.Module or callable
        As for `gpulime.Explainer`.
    dataset : map-style dataset
        ``dataset[i]`` is an image, or (image, target): a PIL image or a tensor (c, h, w), uint8 or float, in [0, 1] or with
        ``normalized=True``. With ``samples`` or ``imgs`` as ImageFolder has them, its paths are the ids; else the numbers are.
    out : path
        The run directory; what it has already is skipped.
    labels : "top", "target" or "top+target"
        Which classes are explained.
    model_id : str, optional
        Names a model that is a function: its weights cannot be compared, so a run is only gone on with under the same name.
    class_names : sequence of str, optional
        Names of the model's classes.
    workers : int
        Processes that read the dataset.
    report : bool
        Write ``report.html`` at the end.
    **lime
        Arguments of `gpulime.Explainer`.

    Returns
    -------
    Outcome
        How many images of the run have explanations and how many error rows.

    Raises
    ------
    GpulimeError
        As `run`.
    """
    loader = isinstance(dataset, torch.utils.data.DataLoader)
    fits = not loader and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and len(dataset) > 0
    check(fits, f"dataset must have a length above 0 and give its images by number; got {_named(type(dataset))}")
    check(labels in ("top", "target", "top+target"), f"labels must be 'top', 'target' or 'top+target'; got {labels!r}")
    explainer = Explainer(model, **lime)
    given = inspect.signature(Explainer).bind(model, **lime)
    given.apply_defaults()
    changing = {name: value for name, value in given.arguments.items() if name not in ("model", "batch_size", "device")}
    return _perform(
        Job(
            items=_items(dataset),
            reader=DatasetReader(dataset),
            explainer=explainer,
            labels=labels,
            fixed={
                **{f"lime.{name}": _plain(value) for name, value in changing.items()},
                "lime.labels": labels,
                "segmenter": segments.describe(explainer.segmenter),
                "model_id": model_id,
                "weights_sha256": weights.sha256(model) if isinstance(model, nn.Module) else None,
            },
            about={
                "model": model_id or type(model).__name__,
                "class_names": None if class_names is None else [str(name) for name in class_names],
            },
            picture=_picture_in(dataset, explainer),
            data=configs.DataConfig(workers=workers),
            store=configs.StoreConfig(),
            report=report,
            out=Path(out),
        )
    )


def report(run: Path) -> Path:
    """Write ``report.html`` of a run again, from its results and, where they are still there, its images.

    Raises
    ------
    GpulimeError
        If the directory holds no run, or one made from Python.
    """
    manifest = store.read_manifest(run)
    if manifest is None:
        raise GpulimeError(f"{run} holds no run: there is no run.json in it")
    if "config" not in manifest:
        raise GpulimeError(f"{run} was made from Python, where its images are: gpulime.runs.explain writes its report again")
    data = configs.from_dict(manifest["config"]).data
    return page.write(run, _picture_of(data, Transform(**manifest["transform"])), manifest.get("class_names"))


def _perform(job: Job) -> Outcome:
    check(job.explainer.seed < 2**63, f"a run's seed must be below 2**63; got {job.explainer.seed}")
    _agree(job)
    done = store.done(job.out)
    todo = [item for item in job.items if item.image_id not in done]
    if done:
        print(f"{len(job.items) - len(todo)} of {len(job.items)} images are done already", file=sys.stderr)
    with (
        store.Store(job.out, flush_rows=job.store.flush_rows, flush_seconds=job.store.flush_seconds) as rows,
        Progress(len(todo), job.explainer.n_samples, job.class_names) as progress,
    ):
        for row in _rows(job, todo, progress):
            rows.append(row)
            progress.image(row)
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
        known = job.fixed["weights_sha256"] or job.fixed.get("model_id")
        check(bool(known), f"{job.out} holds results, and whether this function is their model is not known: give a model_id")
        return
    was, now = manifest.get("fixed", {}), json.loads(json.dumps(job.fixed, default=repr))
    changed = [
        f"{name} was {was.get(name)!r}, is {now.get(name)!r}" for name in {**was, **now} if was.get(name) != now.get(name)
    ]
    raise GpulimeError(f"{job.out} holds results of other settings: {'; '.join(changed)}. Choose another out, or delete it")


def _rows(job: Job, todo: Sequence[Item], progress: Progress) -> Iterator[dict[str, Any]]:
    """Rows of the store as images are finished; those that cannot be read come as they are met."""
    pending: deque[Read] = deque()
    failed: deque[Read] = deque()

    def feed() -> Iterator[inputs.Batch]:
        for reads in read_all(todo, job.reader, job.explainer.segmenter, job.data.batch_size, job.data.workers):
            sound = [_with_sound_target(job, read) for read in reads]
            failed.extend(read for read in sound if read.error is not None)
            for readable, batch in batches(sound, job.labels, job.reader.in_unit):
                pending.extend(readable)
                yield batch

    for finished in job.explainer.stream(feed(), progress.forwards):
        yield from (_error_row(job, failed.popleft()) for _ in range(len(failed)))
        _fits(job.class_names, job.explainer.predictor.classes)
        explanations = finished.cpu()
        for i in range(len(explanations)):
            yield _row(job, pending.popleft(), explanations, i)
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


def _fits(names: Sequence[str] | None, classes: int | None) -> None:
    fits = names is None or classes is None or len(names) == classes
    check(fits, f"class_names has {len(names or ())} names; the model has {classes} classes")


def _row(job: Job, read: Read, batch: Explanations, i: int) -> dict[str, Any]:
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


def _items(dataset: Any) -> list[Item]:
    """The examples of a dataset, by number; a path where the dataset tells one is the id."""
    samples = getattr(dataset, "samples", None) or getattr(dataset, "imgs", None)
    if isinstance(samples, list) and len(samples) == len(dataset):
        root = getattr(dataset, "root", ".")
        ids = [os.path.relpath(os.fspath(sample[0]), root) for sample in samples]
    else:
        ids = [str(i) for i in range(len(dataset))]
    return [Item(name.encode("utf-8", "backslashreplace").decode(), str(i).encode()) for i, name in enumerate(ids)]


def _picture_of(data: configs.DataConfig, transform: Transform) -> Picture:
    source = sources.Source([], max_megapixels=data.max_megapixels, exif=data.exif)

    def picture(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        try:
            return transform(source.load(Item(row["image_id"], row["path"])).picture)
        except sources.DecodeError:  # it was there when it was explained
            return None

    return picture


def _picture_in(dataset: Any, explainer: Explainer) -> Picture:
    numbers = {item.image_id: int(item.path) for item in _items(dataset)}

    def picture(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        if row["image_id"] not in numbers:
            return None
        read = DatasetReader(dataset)(Item(row["image_id"], str(numbers[row["image_id"]]).encode()))
        if read.pixels is None:
            return None
        unit = read.pixels / 255 if read.pixels.dtype == torch.uint8 else read.pixels
        shown = (explainer.normalisation.pictures(unit).clamp(0, 1) * 255).round().byte()
        return (shown[:1].expand(3, -1, -1) if len(shown) < 3 else shown[:3]).permute(1, 2, 0).numpy()

    return picture


def _plain(value: Any) -> Any:
    """A setting as JSON: numbers as they are, an array by a digest of its content, a function by its name."""
    if isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value)
        return f"{array.dtype}{list(array.shape)} sha256 {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if callable(value) and not dataclasses.is_dataclass(value):
        return _named(value)
    return value if isinstance(value, str | int | float | list | tuple | dict | None) else repr(value)


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _versions() -> dict[str, str]:
    return {
        "gpulime": gpulime.__version__,
        "python": platform.python_version(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **{name: version(name) for name in VERSIONS},
    }
