"""Runs from a configuration: `gpulime explain` and `gpulime report`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import InterpolationMode

from gpulime import config as configs
from gpulime import device as devices
from gpulime.engine import ownership
from gpulime.errors import GpulimeError, check
from gpulime.explainer import Explainer
from gpulime.images.segments import describe, kept_ids
from gpulime.labels import of_run
from gpulime.runs import from_records, sampling
from gpulime.runs.progress import exits
from gpulime.runs.progress.partition import Share
from gpulime.runs.progress.terminal import note, say
from gpulime.runs.reading import code, examples, factories, models, sources
from gpulime.runs.reading.images import ImageSource
from gpulime.runs.reading.label_maps import SEGMENTER, MaskFolder
from gpulime.runs.reading.models import Loaded
from gpulime.runs.reading.read import DatasetReader, FileReader, Picture, pictures_of
from gpulime.runs.reading.sources import Found
from gpulime.runs.reading.transform import Transform
from gpulime.runs.run import Job, perform, plan
from gpulime.runs.store import store
from gpulime.runs.store.manifest import MANIFEST, TARGETS, Terms
from gpulime.runs.store.row import IMAGE
from gpulime.views.report import page

LOSS = f"{page.PAGE} would lose its pictures"
REMEDY = "Move it away to have one without"
MOST_SIDE = 2**16  # the most pixels per side that a run.json may give for resizing or cropping


def run(config: configs.Config, *, retry_failed: bool = False, dry_run: bool = False) -> int:
    """Run a configuration, or resume an earlier run of it.

    Parameters
    ----------
    config : Config
    retry_failed : bool
        Retry images that have an error row.
    dry_run : bool
        Print the work and its estimated time; write nothing.

    Returns
    -------
    int
        Exit code: `exits.OK` if all images of the run have explanations, `exits.ERROR_ROWS` if some have error rows. With
        several ranks it is always `exits.OK`, since torchrun would stop the other ranks; use `gpulime verify` instead.

    Raises
    ------
    GpulimeError
        If a setting, the model or the source is invalid, or the directory holds rows of other settings.
    """
    check(bool(config.out), f"out must name a directory; got {config.out!r}")
    configs.check_used(config)
    config = configs.resolved(config)
    share = Share.of(config.data.shard)
    job = (_images_job if config.kind == "image" else from_records.job)(
        config, share, device_of(config.lime.device, share), retry_failed
    )
    if dry_run:
        say(str(plan(job)))
        return exits.OK
    outcome = perform(job)
    return exits.ERROR_ROWS if outcome.failed and share.world == 1 else exits.OK


def explainer_of(config: configs.Config, device: str) -> tuple[Loaded, Explainer]:
    """The model of a configuration, and the explainer of its images.

    Raises
    ------
    GpulimeError
        If a setting is invalid, or the model cannot be loaded.
    """
    sampling.chosen(config.lime)  # before the model is loaded
    loaded = models.load(config.model, config.data, config.lime)
    factories.keep(config.model)
    lime = {**dataclasses.asdict(config.lime), "mean": loaded.transform.mean, "std": loaded.transform.std, "device": device}
    del lime["labels"]
    return loaded, Explainer(ownership.own(loaded.model, devices.named(device)), **lime)


def facts_of(config: configs.Config, loaded: Loaded, explainer: Explainer) -> dict[str, Any]:
    """The settings that change a row, as far as they come from the configuration and the model."""
    return {
        **sampling.resolved(configs.fixed(config), explainer),
        "lime.labels": of_run(config.lime.labels, loaded.class_names),
        "transform": dataclasses.asdict(loaded.transform),
        "weights_sha256": loaded.weights_sha256,
        "model_code": code.described(loaded.model),
    }


def _images_job(config: configs.Config, share: Share, device: str, retry_failed: bool) -> Job:
    loaded, explainer = explainer_of(config, device)
    found, reader = images(config.data, loaded.transform, loaded.class_names)
    masks = None if config.data.masks is None else MaskFolder.of(config.data.masks, config.data)
    if masks is not None:
        masks.check([item.image_id for item in found.items])
    facts = facts_of(config, loaded, explainer)
    segmenter = SEGMENTER if masks else describe(explainer.segmenter, explainer.device)
    return Job(
        items=found.items,
        source=ImageSource(
            explainer=explainer,
            reader=dataclasses.replace(reader, masks=masks),
            labels=facts["lime.labels"],
            class_names=loaded.class_names,
            data=config.data,
            segmenter=segmenter,
            keep=kept_ids(config.data.keep),
        ),
        terms=Terms(
            fixed={
                **facts,
                "data.source": os.path.normpath(config.data.source),
                "data.masks": config.data.masks and os.path.normpath(config.data.masks),
                "segmenter": segmenter,
                TARGETS: found.targets,
            },
            about={
                "config": dataclasses.asdict(config),
                "transform": dataclasses.asdict(loaded.transform),
                "model": loaded.description,
                "class_names": loaded.class_names,
            },
        ),
        picture=pictures_of(reader, config.data.bands),
        images=found.count,
        store=config.store,
        report=config.report,
        out=configs.expanded(config.out),
        share=share,
        retry_failed=retry_failed,
        max_failures_in_a_row=config.max_failures_in_a_row,
    )


def device_of(wanted: str | None, share: Share) -> str:
    """Choose the device: the one in the settings, else a GPU if there is one; each rank on a machine gets its own."""
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cuda" or share.device is None:
        return device
    count = torch.cuda.device_count()
    check(share.device < count, f"LOCAL_RANK is {share.device} and there are {count} GPUs here: start one process for each")
    return f"cuda:{share.device}"


def report(run: Path) -> Path:
    """Rewrite ``report.html`` of a run, from its results and, if they still exist, its images.

    Raises
    ------
    GpulimeError
        If the directory holds no run, or if a report exists and the new one would lose its pictures, as for runs from Python.
    """
    about = store.manifest(run)
    reader = _reader(about)
    if reader is None and about.get("kind", IMAGE) == IMAGE and (run / page.PAGE).exists():
        check("config" in about, f"{run} was made from Python, so its images are not available: {LOSS}. {REMEDY}")
        raise GpulimeError(
            f"the images of {run} come from data.factory, code that you have not run in this folder: {LOSS}. "
            f"The gpulime explain that made the run writes it with them. {REMEDY}"
        )
    return page.write(run, pictures_of(reader, _bands(about)), about.get("class_names"))


def pictures(run: Path) -> Picture:
    """Make a function from a row to its picture as the model saw it, or to None if the image cannot be read."""
    about = store.manifest(run)
    return pictures_of(_reader(about), _bands(about))


def images(
    data: configs.DataConfig, transform: Transform, class_names: Sequence[str] | None
) -> tuple[Found, FileReader | DatasetReader]:
    """Find the images of a configuration: files, or the dataset of ``data.factory``; and their reader.

    Raises
    ------
    GpulimeError
        If there are none, two have the same id, ``data.keep`` has no masks, or ``data.factory`` cannot be called or makes no
        dataset.
    """
    if data.factory is not None:
        return _of_factory(data, transform)
    masked = data.keep is None or data.masks is not None  # segments of a segmenter have other ids in each image
    check(masked, "data.keep names segments of masks: set data.masks too, or data.factory for a dataset that brings them")
    found = sources.find(data, class_names)
    if found.ignored:
        listed = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in sorted(found.ignored.items()))
        note(f"{len(found.items)} images in {data.source}; left aside: {listed}")
    return found, FileReader(data, transform)


def _of_factory(data: configs.DataConfig, transform: Transform) -> tuple[Found, DatasetReader]:
    unused = [name for name in ("source", "resize", "crop") if getattr(data, name) != getattr(configs.DataConfig, name)]
    if unused:
        note(f"data.factory makes the images; not used: {', '.join(f'data.{name}' for name in unused)}")
    made = models.made_dataset(data)
    items = examples.items(made)
    factories.keep(data)
    return Found(items[: data.limit], len(items), {}, {}), DatasetReader(made, transform.channels, in_unit=True)


def _reader(about: Mapping[str, Any]) -> FileReader | DatasetReader | None:
    """Reader of a run's images; None for a run from Python.

    Also None for a ``data.factory`` that this user has not run in this folder: a run.json may come from another person, and
    its factory could run any code.
    """
    if "config" not in about or about.get("kind", IMAGE) != IMAGE:
        return None
    try:
        data, transform = configs.from_dict(about["config"]).data, Transform(**about["transform"])
        InterpolationMode(transform.interpolation)
        for side in (transform.resize, transform.crop):
            check(side is None or 0 < int(side) == side < MOST_SIDE, f"a side of {side!r:.80} pixels")
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise GpulimeError(f"{MANIFEST} is damaged, it does not say how images were read: {error}") from error
    if data.factory is None:
        return FileReader(data, transform)
    return DatasetReader(models.made_dataset(data), transform.channels, in_unit=True) if factories.has_run(data) else None


def _bands(about: Mapping[str, Any]) -> list[int] | None:
    return configs.from_dict(about["config"]).data.bands if "config" in about else None
