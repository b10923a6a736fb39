"""Compare methods: LIME, maps of other methods, random segments and a centre blob in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpulime import arrays
from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked
from gpulime.errors import GpulimeError, check, unknown
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.baselines import centre_maps, random_maps
from gpulime.evaluate.comparison import Compared, Comparison
from gpulime.evaluate.curves import SEGMENTS, UNITS
from gpulime.evaluate.judge import Judge
from gpulime.evaluate.methods import METHODS
from gpulime.evaluate.same_maps import EQUAL, equal
from gpulime.evaluate.scores import Reasons
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch

BLIND = ("random", "centre")


def compare(
    methods: Mapping[str, Any] | Sequence[str] | str,
    explainer: Explainer | nn.Module,
    images: Any,
    labels: Any = None,
    segments: Any = None,
    keys: Any = None,
    unit: str = SEGMENTS,
    steps: int | None = None,
    fill: Any = None,
    n_samples: int = 100,
) -> Comparison:
    """Explain images by several methods, and judge all of them the same way.

    Parameters
    ----------
    methods : mapping of name -> method, or names of `gpulime.evaluate.methods.METHODS`, or one of them
        A method is an `gpulime.Explainer`; explanations of the images; maps (n, l, h, w), a tensor or an array; a callable
        (model, images as the model takes them, labels (n, l)) -> maps, such as an entry of ``METHODS``; or its name there.
    explainer : Explainer or nn.Module
        Judges: its model, activation, segmenter and fill are used. A module is judged with a grid as segments, images as it
        takes them, and 0 as the fill.
    images : (n, c, h, w), as the explainer takes them
    labels : as for ``explain``, optional
        By default the class with the highest output.
    segments : (n, h, w) integers, optional
        By default the explainer's.
    keys : (n,) int64, optional
        As for ``explain``.
    unit, steps, fill : as for `gpulime.evaluate.curves`
    n_samples : int
        Masks of the held-out fit; 0 leaves it out.

    Returns
    -------
    Comparison
        Random segments and a centre blob always stand at its end. A method that cannot be had has its reason as its status.
        If it fails for some images, they are tried one by one; those without a map are not judged.

    Raises
    ------
    GpulimeError
        If methods, images, labels or settings are invalid.
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    named = _named(methods)
    check(not set(BLIND) & set(named), f"{' and '.join(map(repr, BLIND))} are compared anyway; give other names")
    used = explainer if isinstance(explainer, Explainer) else _judge_of(explainer)
    if fill is not None and not isinstance(fill, Mapping):
        used, fill = used.with_fill(fill), None
    batch = Batch(images, labels, segments, keys).as_tensors(used.class_names)
    ready = used.preparation.for_model(batch.on(used.predictor.device(batch.images)).images)
    parts = Attributions(batch.images, torch.empty(0), {}).segments(used, segments).labels
    if batch.labels is None:
        wanted = _top(used, replace(batch, segments=parts))
    else:
        wanted = batch.labels.where(batch.labels >= 0, batch.labels[:, :1])
    seed = 1 + max(one.seed for one in (used, *named.values()) if isinstance(one, Explainer))  # masks that none has fitted
    judge = Judge(used, batch, ready, wanted.to(ready.device), parts, (unit, steps, fill), (n_samples, seed))
    blind = dict(zip(BLIND, (random_maps(parts, judge.labels, keys=keys), centre_maps(parts, judge.labels)), strict=True))
    of_blind = [judge.judged(name, maps) for name, maps in blind.items()]  # first, so that invalid settings raise
    rows: list[Compared] = []
    maps: dict[str, Tensor] = {}
    reasons: dict[str, Reasons] = {}
    for judged in [*(judge.row(name, method) for name, method in named.items()), *of_blind]:
        row, found = judged.row, judged.maps
        if found is not None:
            same = next((other for other, known in maps.items() if equal(found, known)), None)
            plain = getattr(named.get(row.method), "plain", None)
            if same is None and plain is not None and equal(found, judge.maps(plain)):
                same = "gradient"
            row = row if same is None else row.noted(f"{EQUAL} {same}")
            maps[row.method], reasons[row.method] = found, judged.reasons
        rows.append(row)
    return Comparison(rows, wanted.cpu(), unit, _shown(fill or used.preparation.fill), maps, reasons)


def _shown(fill: Any) -> str:
    """A fill in one line."""
    if isinstance(fill, Mapping):
        return ", ".join(f"{_shown(one)} in {name}" for name, one in fill.items())
    if isinstance(fill, Tensor):
        return f"images {tuple(fill.shape)}" if fill.ndim > 1 else f"{fill.tolist()}"
    return f"{fill}"


def _named(methods: Any) -> dict[str, Any]:
    """Methods by their names."""
    given = [methods] if isinstance(methods, str) else methods
    if not isinstance(given, Mapping):
        fits = isinstance(given, Sequence | Set) and all(isinstance(name, str) for name in given)
        check(fits, lambda: f"methods must be names, or a mapping of name -> method; got {given!r:.100}")
        given = {name: name for name in given}
    check(all(isinstance(name, str) for name in given), lambda: f"names of methods must be strings; got {list(given)!r:.100}")
    return {name: _method(name, method) for name, method in given.items()}


def _method(name: str, given: Any) -> Any:
    """A method as `Judge` takes it."""
    if isinstance(given, str):
        if given not in METHODS:
            raise unknown("method", given, METHODS)
        return METHODS[given]
    if isinstance(given, Explainer | ExplainedImages | Tensor) or callable(given):
        return given
    maps = arrays.tensor(given) if isinstance(given, np.ndarray | list | tuple) else None
    if maps is None:
        kinds = "an Explainer, explanations of images, maps (n, l, h, w), a callable or a name of METHODS"
        raise GpulimeError(f"method {name!r} must be {kinds}; got {type(given).__name__}")
    return maps


def _judge_of(model: Any) -> Explainer:
    return Explainer(model, segments="grid", fill=0.0, mean=0.0, std=1.0, normalized=True)


def _top(judge: Explainer, batch: Batch) -> Tensor:
    """The class (n, 1) with the highest output, through the judge's queue."""

    def begin(inputs: Masked, _: slice) -> Flight:
        return Flight(inputs, 1, torch.ones(len(inputs), 1, inputs.k, dtype=torch.bool, device=inputs.keys.device))

    return torch.cat(list(judge.passed(batch, 1, begin, lambda flight: flight.labels)))
