"""Compare methods: LIME, maps of other methods, random segments and a centre blob in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gpulime import device as devices
from gpulime.errors import GpulimeError, check, line_of, unknown
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.baselines import centre_maps, random_maps
from gpulime.evaluate.comparison import Compared, Comparison
from gpulime.evaluate.cost import Cost, counted
from gpulime.evaluate.curves import SEGMENTS, UNITS, curves
from gpulime.evaluate.held_out import held_out
from gpulime.evaluate.method_maps import maps_of
from gpulime.evaluate.methods import METHODS, NotAvailableError
from gpulime.evaluate.methods.method import Classifier, suited
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch

BLIND = ("random", "centre")
ROWS = 64  # of a model call
SAME = 1e-4  # of a map's largest value, by which equal maps may differ


def compare(
    methods: Mapping[str, Any] | Sequence[str],
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
    methods : mapping of name -> method, or names of `gpulime.evaluate.methods.METHODS`
        A method is an `gpulime.Explainer`; explanations of the images; maps (n, l, h, w); or a callable
        (model, images as the model takes them, labels (n, l)) -> maps, such as an entry of ``METHODS``.
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

    Raises
    ------
    GpulimeError
        If images, labels or settings are invalid.
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    named = methods if isinstance(methods, Mapping) else {name: _method(name) for name in methods}
    check(not set(BLIND) & set(named), f"{' and '.join(map(repr, BLIND))} are compared anyway; give other names")
    judge = explainer if isinstance(explainer, Explainer) else _judge_of(explainer)
    if fill is not None and not isinstance(fill, Mapping):
        judge, fill = judge.with_fill(fill), None
    batch = Batch(images, labels, segments, keys).as_tensors(judge.class_names)
    ready = judge.preparation.for_model(batch.on(judge.predictor.device(batch.images)).images)
    wanted = _top(judge, ready) if batch.labels is None else batch.labels.where(batch.labels >= 0, batch.labels[:, :1])
    parts = Attributions(batch.images, wanted, {}).segments(judge, segments).labels
    seed = 1 + max(one.seed for one in (judge, *named.values()) if isinstance(one, Explainer))  # masks that none has fitted
    bench = _Bench(judge, batch, ready, wanted.to(ready.device), parts, (unit, steps, fill), (n_samples, seed))
    blind = dict(zip(BLIND, (random_maps(parts, bench.labels, keys=keys), centre_maps(parts, bench.labels)), strict=True))
    of_blind = [bench.judged(name, maps) for name, maps in blind.items()]  # first, so that invalid settings raise
    rows: list[Compared] = []
    maps: dict[str, Tensor] = {}
    for row, found in [*(bench.row(name, method) for name, method in named.items()), *of_blind]:
        same = None if found is None else next((other for other, known in maps.items() if equal(found, known)), None)
        rows.append(row if same is None else replace(row, status=f"equal to {same}"))
        if found is not None:
            maps[row.method] = found
    return Comparison(rows, wanted.cpu(), unit, _shown(fill or judge.preparation.fill), maps)


def equal(maps: Tensor, others: Tensor) -> bool:
    """Tell if two methods' maps (n, l, h, w) are the same, up to a positive factor for each map and rounding."""
    one, other = (given.double() / given.abs().amax((2, 3), keepdim=True).clamp(min=1e-30) for given in (maps, others))
    return bool(((one - other).abs() <= SAME).all())


def _shown(fill: Any) -> str:
    """A fill in one line."""
    if isinstance(fill, Mapping):
        return ", ".join(f"{_shown(one)} in {name}" for name, one in fill.items())
    if isinstance(fill, Tensor):
        return f"images {tuple(fill.shape)}" if fill.ndim > 1 else f"{fill.tolist()}"
    return f"{fill}"


def _method(name: str) -> Any:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def _judge_of(model: Any) -> Explainer:
    return Explainer(model, segments="grid", fill=0.0, mean=0.0, std=1.0, normalized=True)


def _top(judge: Explainer, ready: Tensor) -> Tensor:
    """The class (n, 1) with the highest output."""
    with judge.predictor.inference(ready.device):
        return torch.cat([judge.predictor(rows.clone()).argmax(1, keepdim=True) for rows in ready.split(ROWS)])


@dataclass(frozen=True, eq=False)
class _Bench:
    """The images and labels on which all methods are judged."""

    judge: Explainer
    batch: Batch
    ready: Tensor  # (n, c, h, w), as the model takes them
    labels: Tensor  # (n, l)
    segments: Tensor  # (n, h, w)
    game: tuple[str, int | None, Any]  # unit, steps and fill of the curves
    fresh: tuple[int, int]  # samples and seed of the held-out fit

    def row(self, name: str, method: Any) -> tuple[Compared, Tensor | None]:
        """The row of a method, and its maps (n, l, h, w) if it has any."""
        try:
            if isinstance(method, ExplainedImages | Tensor):
                return self.judged(name, method)
            given, cost = self._explained(method)
            return self.judged(name, given, cost)
        except NotAvailableError as error:
            return Compared(name, status=f"not available: {error}"), None
        except Exception as error:  # a user's method may raise anything
            if devices.lost(error, self.ready.device):
                raise
            why = str(error) if isinstance(error, GpulimeError) else line_of(error)
            return Compared(name, status=f"failed: {why}"), None

    def _explained(self, method: Any) -> tuple[ExplainedImages | Tensor, Cost]:
        """Explanations or maps of a method, and their cost."""
        model = self.judge.predictor.model
        with counted(self.ready.device) as cost:
            if isinstance(method, Explainer):
                images, keys = self.batch.images, self.batch.keys
                return method.explain(images, self.labels, self.batch.segments, keys), cost
            module = model if isinstance(model, nn.Module) else Classifier(model)
            return maps_of(suited(method, self.segments), module, self.ready, self.labels), cost

    def judged(self, name: str, given: ExplainedImages | Tensor, cost: Cost | None = None) -> tuple[Compared, Tensor]:
        """The row of explanations or maps, and maps (n, l, h, w)."""
        images, total = self.batch.images, self.labels.numel()
        segments = None if isinstance(given, ExplainedImages) else self.segments
        maps = Attributions.of(self.judge, images, given, self.labels).pixels(slice(None))
        played = curves(self.judge, images, given, *self.game, self.labels, segments)
        deletion, insertion, gap = (float(one.nanmean()) for one in (played.deletion_auc, played.insertion_auc, played.gap))
        row = Compared(name, deletion, insertion, gap)
        if self.fresh[0]:
            held = held_out(self.judge, images, given, *self.fresh, self.labels, segments, keys=self.batch.keys)
            row = replace(row, held_out_r2=float(held.r2.nanmean()))
        if cost is not None:
            n = len(self.labels)
            row = replace(row, forwards=cost.forwards / n, backwards=cost.backwards / n, seconds=cost.seconds / n)
        missing = played.gap.isnan().nonzero().tolist()
        if missing:
            why = played.reason("gap", *missing[0])
            row = replace(row, status=f"{len(missing)} of {total} not judged: {why}")
        return replace(row, judged=total - len(missing)), maps.float().cpu()
