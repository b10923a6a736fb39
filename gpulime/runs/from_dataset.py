"""Runs over a dataset, from Python."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from gpulime import classes
from gpulime import config as configs
from gpulime.classes import Names
from gpulime.errors import whole
from gpulime.explainer import Explainer
from gpulime.images.pretrained import bare, channels_of
from gpulime.images.segments import describe, kept_ids
from gpulime.labels import of_run
from gpulime.runs import sampling
from gpulime.runs.progress.partition import Share
from gpulime.runs.reading import code, examples
from gpulime.runs.reading.images import ImageSource
from gpulime.runs.reading.label_maps import SEGMENTER, MaskFolder, Masks
from gpulime.runs.reading.read import DatasetReader, pictures_of
from gpulime.runs.run import Job, Outcome, perform
from gpulime.runs.store.manifest import Terms


def explain(
    model: Any,
    dataset: Any,
    out: str | Path,
    *,
    labels: str | int | Sequence[int | str] = "top",
    model_id: str | None = None,
    class_names: Names | None = None,
    workers: int = 0,
    timeout_seconds: float = configs.DataConfig.timeout_seconds,
    retry_failed: bool = False,
    max_failures_in_a_row: int | None = configs.Config.max_failures_in_a_row,
    shard: str | None = None,
    report: bool = True,
    masks: Masks | str | Path | None = None,
    keep: int | Sequence[int] | None = None,
    channels: int | None = None,
    bands: Sequence[int] | None = None,
    **lime: Any,
) -> Outcome:
    """Explain a dataset into a run directory: `gpulime explain` for a model and data in Python.

    Parameters
    ----------
    model : nn.Module or callable
        As for `gpulime.Explainer`.
    dataset : map-style dataset
        ``dataset[i]`` is an image, (image, target), (image, target, mask), (index, image, target), or a mapping with keys such
        as image, label, mask, or pixel_values, labels. An image is a PIL image, a tensor (c, h, w) or an array (h, w, c), uint8
        or float, in [0, 1] or with ``normalized=True``. A target is a class, a list of several or a multi-hot vector. A mask
        holds integers (h, w), which become the image's segments. If the dataset has ``samples`` or ``imgs`` like ImageFolder,
        their paths are the ids; else the indices are. A DataLoader is replaced by its dataset, if it has the default order and
        ``collate_fn``.
    out : path
        The run directory; finished images are skipped.
    labels : "top", "target", "top+target", or one or several classes
        Classes to explain: the ones with the highest output, each image's targets, both, or the same for all images, by number
        or name.
    model_id : str, optional
        Identifies the code of the run. A run resumes only under the same ``model_id``. Without it, the repr of the model and
        the source of its classes and of the given functions must be unchanged. It is required to resume if a model, kernel or
        segmenter is a function that cannot be compared.
    class_names : sequence of str or mapping of int to str, optional
        Names of the model's classes; by default a Hugging Face model's ``config.id2label``.
    workers : int
        Processes that read the dataset. With 0 this process reads it while the model waits, and an example that hangs blocks
        the run.
    timeout_seconds : float
        A worker without output for this long counts as hanging, and is ended.
    retry_failed : bool
        Retry images that have an error row.
    max_failures_in_a_row : int or None
        End the run after this many failed images in a row; None never does.
    shard : str, optional
        "2/8" explains only the second of eight parts of the dataset, for one of eight processes. By default each process
        explains all of it: with several ranks call this in one of them, or pass each ``f"{rank + 1}/{world_size}"``.
    report : bool
        Write ``report.html`` at the end; with shards, the last process writes it.
    masks : callable or path, optional
        A function image id -> its segments, integers (h, w): an array, a tensor or a PIL image; it runs in the reading
        processes. Or a folder of mask images, named by image id with .png, .npy or .tif.
    keep : int or several, optional
        Ids of segments that are never hidden, such as a background of 0, 255 or -1.
    channels : int, optional
        Number of channels for PIL images: gray becomes RGB for 3, RGB becomes gray for 1. By default the input channels of the
        model's first convolution; without one, gray images keep 1 and others have 3.
    bands : three numbers from 1, optional
        Channels that the report shows as red, green and blue; by default the first three.
    **lime
        Arguments of `gpulime.Explainer`.

    Returns
    -------
    Outcome
        Numbers of images of the run with explanations and with error rows.

    Raises
    ------
    GpulimeError
        As `gpulime.runs.from_config.run`.
    gpulime.runs.progress.exits.EndOfRunError
        If the device is lost, rows cannot be written or too many images fail in a row; finished rows are kept.
    """
    dataset = examples.map_style(dataset)
    names = classes.of_model(bare(model)) if class_names is None else classes.listed(class_names)
    wanted = of_run(labels, names)
    configs.check_out(str(out))
    data = configs.DataConfig(workers=workers, timeout_seconds=timeout_seconds, bands=None if bands is None else list(bands))
    if max_failures_in_a_row is not None:
        max_failures_in_a_row = whole("max_failures_in_a_row", max_failures_in_a_row, 1)
    explainer, kept, listed = Explainer(model, **lime), kept_ids(keep), examples.items(dataset)
    if isinstance(masks, str | Path):
        masks = MaskFolder.of(str(masks), configs.DataConfig())
        masks.check([item.image_id for item in listed])
    reader = DatasetReader(dataset, channels or channels_of(model), masks)
    terms = _terms(explainer, model, model_id, wanted, names, lime, masks, kept)
    return perform(
        Job(
            items=listed,
            source=ImageSource(explainer, reader, wanted, names, data, terms.fixed["segmenter"], kept),
            terms=terms,
            picture=pictures_of(reader, bands, explainer.normalisation),
            images=len(dataset),
            store=configs.StoreConfig(),
            report=report,
            out=configs.expanded(out),
            share=Share.of(shard, {}),
            retry_failed=retry_failed,
            max_failures_in_a_row=max_failures_in_a_row,
        )
    )


def _terms(
    explainer: Explainer,
    model: Any,
    model_id: str | None,
    labels: str | Sequence[int],
    class_names: Sequence[str] | None,
    lime: Mapping[str, Any],
    masks: Masks | None,
    keep: Sequence[int],
) -> Terms:
    """Terms of a run with these arguments: the settings that all rows share."""
    functions = _functions({**_arguments(model, lime), "masks": masks}, model)
    return Terms(
        fixed={
            **facts_of(explainer, model, model_id, lime),
            "lime.labels": labels,
            **({"data.masks": masks.folder if isinstance(masks, MaskFolder) else _plain(masks, model_id)} if masks else {}),
            **({"data.keep": list(keep)} if keep else {}),
            "segmenter": SEGMENTER if masks else describe(explainer.segmenter, explainer.device),
        },
        about={
            "model": model_id or type(model).__name__,
            "class_names": class_names,
        },
        unnamed=[] if model_id else functions,
    )


def facts_of(explainer: Explainer, model: Any, model_id: str | None, lime: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change a row, as far as they come from the model and the arguments ``lime`` of the explainer."""
    given = _arguments(model, lime)
    changing = {name: value for name, value in given.items() if f"lime.{name}" not in configs.CHANGES_NO_ROW}
    plain = {f"lime.{name}": _plain(value, model_id) for name, value in changing.items() if name != "model"}
    named = not model_id and "model" not in _functions(given, model)
    return {
        **sampling.resolved(plain, explainer),
        **_own_normalisation(explainer),
        "model_id": model_id,
        **({"model_code": code.described(model)} if named else {}),
        "weights_sha256": code.sha256(model) if isinstance(model, nn.Module) else None,
    }


def _arguments(model: Any, lime: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of an explainer, with its defaults."""
    given = inspect.signature(Explainer).bind(model, **lime)
    given.apply_defaults()
    return dict(given.arguments)


def _functions(given: Mapping[str, Any], model: Any) -> list[str]:
    """Arguments that are functions and cannot be compared with those of another process."""
    functions = [name for name, value in given.items() if callable(value) and not _comparable(value)]
    return functions + (["model"] if inspect.isfunction(model) and "model" not in functions else [])


def _own_normalisation(explainer: Explainer) -> dict[str, list[float]]:
    """Replace a mean and std of None by the model's own."""
    used = explainer.normalisation
    return {"lime.mean": used.mean.tolist(), "lime.std": used.std.tolist()} if used.source == "model" else {}


def _comparable(value: Any) -> bool:
    """Tell if another process can recognise it: options, weights, or a function that can be imported by name."""
    named = inspect.isfunction(value) and "<" not in value.__qualname__
    return named or isinstance(value, nn.Module) or dataclasses.is_dataclass(value)


def _plain(value: Any, model_id: str | None) -> Any:
    """Convert a setting to JSON: a number unchanged, an array as a digest of its content, a function as its name and code.

    A ``model_id`` replaces the code.
    """
    if isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value)
        return f"{array.dtype}{list(array.shape)} sha256 {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if callable(value) and not dataclasses.is_dataclass(value):
        return code.described(value) if _comparable(value) and not model_id else code.named(value)
    return value if isinstance(value, str | int | float | list | tuple | dict | None) else repr(value)
