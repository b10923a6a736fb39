"""Runs over texts and table rows: a .csv, .parquet or .jsonl file, and a model of its records."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from gpulime import config as configs
from gpulime import device as devices
from gpulime.engine import ownership
from gpulime.errors import check
from gpulime.labels import of_run
from gpulime.runs import sampling
from gpulime.runs.progress.partition import Share
from gpulime.runs.progress.terminal import note
from gpulime.runs.reading import code, estimators, factories, records
from gpulime.runs.reading.estimators import Estimator
from gpulime.runs.reading.records import Records
from gpulime.runs.run import Job
from gpulime.runs.store.manifest import Terms

if TYPE_CHECKING:
    from gpulime.runs.reading.tables import RowSource
    from gpulime.runs.reading.texts import TextSource

# Settings of `lime` that are arguments of both explainers.
SHARED = (
    *("top_labels", "kernel_width", "alpha", "kernel", "distance", "feature_selection", "num_features", "activation"),
    *("precision", "batch_size", "seed"),
)
OF_TEXTS = ("n_samples", "sampler", "estimator", "link", "quality", "tolerance", "confidence", "max_samples")


def job(config: configs.Config, share: Share, device: str, retry_failed: bool) -> Job:
    """The run of a configuration whose inputs are texts or table rows.

    ``device`` is for a network; an estimator and a function are called from the CPU.

    Raises
    ------
    GpulimeError
        If a setting, the model or the source is invalid.
    """
    loaded = estimators.load(config.model)
    factories.keep(config.model)
    names = _names(loaded)
    found, source = records.find(config.data, names)
    for reason in list(source.broken.values())[:1]:
        count = len(source.broken)
        lines = f"{count:,} records" if count > 1 else "a record"
        note(f"{config.data.source} has {lines} that cannot be read; error rows say so. The first {reason}")
    if source.replaced:
        note(f"{config.data.source} has {source.replaced:,} characters that are not UTF-8; they are read as \ufffd")
    lime = {name: getattr(config.lime, name) for name in SHARED} | {"device": _device(loaded.model, device)}
    wanted = of_run(config.lime.labels, names)
    make = _texts if config.kind == "text" else _rows
    made, more = make(config, loaded, source, lime, wanted)
    regression = getattr(made.explainer, "mode", None) == "regression"
    return Job(
        # A number that is a regression's target is no class.
        items=[dataclasses.replace(item, target=None) for item in found.items] if regression else found.items,
        source=made,
        terms=Terms(
            fixed={
                **configs.fixed(config),
                **more,
                "lime.labels": wanted,
                "data.source": os.path.normpath(config.data.source),
                "weights_sha256": loaded.sha256,
                "model_code": code.described(loaded.model),
                "tokenizer": loaded.tokenizer_digest,
            },
            about={
                "config": dataclasses.asdict(config),
                "kind": config.kind,
                "model": loaded.description,
                "class_names": made.explainer.class_names,
                "mode": getattr(made.explainer, "mode", "classification"),
            },
        ),
        picture=lambda row: None,
        images=found.count,
        store=config.store,
        report=config.report,
        out=configs.expanded(config.out),
        share=share,
        retry_failed=retry_failed,
        max_failures_in_a_row=config.max_failures_in_a_row,
    )


def _names(loaded: Estimator) -> Sequence[str] | None:
    """Names of the classes, as set or as the model has them."""
    known = getattr(loaded.model, "classes_", None)
    if loaded.class_names is not None or known is None or isinstance(known, list):
        return loaded.class_names
    return [str(name) for name in known]


def _device(model: Any, device: str) -> str | None:
    return device if isinstance(_module(model), nn.Module) else None


def _module(model: Any) -> Any:
    """The network of a pipeline of transformers, or the model itself."""
    inner = getattr(model, "model", None)
    is_pipeline = not isinstance(model, nn.Module) and isinstance(inner, nn.Module) and hasattr(model, "tokenizer")
    return inner if is_pipeline else model


def _owned(model: Any, device: str | None) -> Any:
    """A network, also that of a pipeline, moved to the run's device; any other model as it is."""
    return model if device is None else ownership.own(_module(model), devices.named(device))


def _texts(
    config: configs.Config, loaded: Estimator, source: Records, lime: Mapping[str, Any], wanted: str | list[int]
) -> tuple[TextSource, dict[str, Any]]:
    from gpulime.runs.reading.texts import TextSource
    from gpulime.text_explainer import TextExplainer

    model, tokenizer = _owned(loaded.model, lime["device"]), loaded.tokenizer or getattr(loaded.model, "tokenizer", None)
    right = "model.tokenizer must name a function that makes the tokenizer of this network of token ids"
    fits = tokenizer is not None or not isinstance(model, nn.Module)
    check(fits, f"{right}; got {type(model).__name__} and no tokenizer")
    explainer = TextExplainer(
        model,
        tokenizer if isinstance(model, nn.Module) else loaded.tokenizer,
        class_names=loaded.class_names,
        **dataclasses.asdict(config.text),
        **{name: getattr(config.lime, name) for name in OF_TEXTS},
        **lime,
    )
    used = sampling.resolved(configs.fixed(config), explainer)
    changed = {name: value for name, value in used.items() if name.startswith("lime.")}
    return TextSource(explainer, source, str(config.data.text), wanted), changed | {"lime.quality": None}


def _rows(
    config: configs.Config, loaded: Estimator, source: Records, lime: Mapping[str, Any], wanted: str | list[int]
) -> tuple[RowSource, dict[str, Any]]:
    from gpulime.runs.reading.tables import RowSource
    from gpulime.table_explainer import TableExplainer

    chosen = config.lime.n_samples
    check(chosen != "auto", "lime.n_samples: auto stops masks early, which tables have none of: give a number")
    training = records.training(config.data, source)
    framed = hasattr(loaded.model, "feature_names_in_") or not training.is_numeric
    data = training.rows(framed=framed)
    settings: dict[str, Any] = {**dataclasses.asdict(config.table), **lime}
    settings |= {} if chosen is None else {"n_samples": chosen}
    explainer = TableExplainer(
        _owned(loaded.model, lime["device"]),
        data,
        feature_names=None if framed else training.table.column_names,
        class_names=loaded.class_names,
        **settings,
    )
    rows = (
        "rows of training"
        if config.data.training is not None
        else "rows of training (data.source, as data.training is not set)"
    )
    names = {"lime.n_samples": explainer.n_samples, "data.columns": training.table.column_names, rows: training.digest}
    return RowSource(explainer, source, framed, wanted), names
