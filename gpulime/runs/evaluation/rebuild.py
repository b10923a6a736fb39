"""Model and inputs of a run, made again from its run.json, or given in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from gpulime import config as configs
from gpulime.config import Config, DataConfig, ModelConfig
from gpulime.errors import GpulimeError, about, check
from gpulime.explainer import Explainer
from gpulime.images.pretrained import channels_of
from gpulime.runs import from_config, from_dataset, from_records
from gpulime.runs.evaluation.subjects import Images, Records, Subject
from gpulime.runs.progress.partition import ALL, Share
from gpulime.runs.reading import examples, factories, models
from gpulime.runs.reading.read import DatasetReader, FileReader
from gpulime.runs.reading.tables import RowSource
from gpulime.runs.reading.texts import TextSource
from gpulime.runs.store.manifest import MANIFEST, differences
from gpulime.runs.store.row import IMAGE

# Settings of the fit, of segments and of data do not change an evaluation: it uses the stored explanations.
UNUSED = ("lime.segments", "lime.quality", "lime.labels")


def of_config(run: Path, manifest: Mapping[str, Any], share: Share, device: str | None, trust: bool) -> Subject:
    """Make the model and the reader of inputs that ``run.json`` names.

    Raises
    ------
    GpulimeError
        If the run was made from Python; if this user has not run its code in this folder, unless ``trust`` is true; if the
        model or the settings differ from those of the run.
    """
    if "config" not in manifest:
        call = f"gpulime.evaluate.run({str(run)!r}, model, data)"
        raise GpulimeError(f"{run} was made from Python, so its model and its images are not known here: call {call}")
    with about(f"{run / MANIFEST}"):
        config = configs.resolved(configs.from_dict(manifest["config"]))
    _check_trusted(run, config, trust)
    device = from_config.device_of(device or config.lime.device, share)
    if config.kind != IMAGE:
        return _records(run, manifest, config, device)
    loaded, explainer = from_config.explainer_of(config, device)
    facts = from_config.facts_of(config, loaded, explainer)
    check_same(run, manifest, facts)
    if config.data.factory is None:
        reader: FileReader | DatasetReader = FileReader(config.data, loaded.transform)
    else:
        reader = DatasetReader(models.made_dataset(config.data), loaded.transform.channels, in_unit=True)
        factories.keep(config.data)
    return Images(explainer, manifest, config.data, reader, keeps=config.data.keep is not None)


def of_python(run: Path, manifest: Mapping[str, Any], model: Any, data: Any, workers: int, lime: Mapping[str, Any]) -> Images:
    """Take a model and a dataset as given, with the settings of ``run.json`` and those in ``lime``.

    Raises
    ------
    GpulimeError
        If `gpulime explain` made the run, which `gpulime evaluate` measures; if the run is of texts or table rows; if the
        model or the settings differ from those of the run.
    """
    made = f"{run} was made by gpulime explain, so its model and its data are known: gpulime evaluate {run} measures it"
    check("config" not in manifest, made)
    check(manifest.get("kind", IMAGE) == IMAGE, f"{run} explains {manifest.get('kind')}s: gpulime evaluate {run} measures them")
    dataset, fixed, given = examples.map_style(data), manifest.get("fixed", {}), dict(lime)
    channels = given.pop("channels", None)
    stored = {name: value for name, value in fixed.items() if name.startswith("lime.") and name not in UNUSED}
    settings = {name.removeprefix("lime."): value for name, value in stored.items()} | given
    with about(f"settings of {run / MANIFEST} (functions and arrays among them must be given again)"):
        explainer = Explainer(model, **settings)
    facts = from_dataset.facts_of(explainer, model, fixed.get("model_id"), settings)
    check_same(run, manifest, facts)
    reader = DatasetReader(dataset, channels or channels_of(model))
    return Images(explainer, manifest, configs.DataConfig(workers=workers), reader, keeps="data.keep" in fixed)


def check_same(run: Path, manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raise `GpulimeError` with the difference if ``facts``, settings of this model, are not those of the run."""
    fixed = manifest.get("fixed", {})
    facts = {name: value for name, value in facts.items() if name not in UNUSED}
    changed = differences({name: value for name, value in fixed.items() if name in facts}, facts)
    check(not changed, f"{run} explains another model, or with other settings: {'; '.join(changed)}")


def _records(run: Path, manifest: Mapping[str, Any], config: Config, device: str) -> Records:
    job = from_records.job(dataclasses.replace(config, data=dataclasses.replace(config.data, limit=None)), ALL, device, False)
    check_same(run, manifest, job.terms.fixed)
    return Records(job.explainer, manifest, cast(TextSource | RowSource, job.source))


def _check_trusted(run: Path, config: Config, trust: bool) -> None:
    """Refuse code of a foreign run.json."""
    model, data = config.model, config.data
    code: dict[str, tuple[DataConfig | ModelConfig, str | None]] = {
        "model.factory": (model, model.factory),
        "model.estimator": (model, model.estimator),
        "model.pickle": (model, model.pickle),
        "data.factory": (data, data.factory),
    }
    for name, (given, value) in code.items():
        if value is not None and not trust and not factories.has_run(given):
            raise GpulimeError(
                f"{run / MANIFEST} names code that you have not run in this folder ({name} {value!r}), and another person may "
                "have written it. If you trust it: --trust"
            )
