"""Measure methods on a group of inputs: attributions of each method, then values, curves and reasons as rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from gpulime import evaluate
from gpulime.engine.masks import key
from gpulime.errors import check, unknown
from gpulime.evaluate.baselines import centre_maps, random_maps
from gpulime.evaluate.curves import STEPS
from gpulime.evaluate.method_maps import maps_of
from gpulime.evaluate.methods import METHODS
from gpulime.evaluate.methods.activations import noted
from gpulime.evaluate.methods.method import Classifier, Method, suited
from gpulime.evaluate.same_maps import EQUAL, same_maps
from gpulime.explanations.batch import Explanations
from gpulime.explanations.images import ExplainedImages
from gpulime.images import fills
from gpulime.images.batch import Batch
from gpulime.runs.evaluation import rows
from gpulime.runs.evaluation.rows import (
    CURVES,
    DELETION,
    GAP,
    HELD_OUT,
    HELD_OUT_R2,
    INFIDELITY,
    INSERTION,
    IROF,
    MINIMAL,
    SIDE,
    Part,
    Task,
)
from gpulime.runs.evaluation.settings import CENTRE, FIRST, LIME, PIXELS, RANDOM, SEGMENTS, Settings
from gpulime.runs.evaluation.subjects import Group, Images, Subject, fill_name
from gpulime.runs.store.row import IMAGE, PARTS

# A metric -> the name of the score.
SCORES = {
    CURVES: {DELETION: "deletion_auc", INSERTION: "insertion_auc", GAP: "gap", IROF: "irof", MINIMAL: "minimal_deletion"},
    HELD_OUT: {HELD_OUT_R2: "r2", INFIDELITY: "infidelity"},
}
LEVELS = 127  # of a stored map, on each side of 0

Row = dict[str, Any]


class Made(NamedTuple):
    """Attributions of a method: explanations or maps, the same as maps (n, l, h, w) of images, and notes (n, l)."""

    given: Any
    maps: Tensor | None
    notes: list[list[list[str]]] | None = None


@dataclass
class Meter:
    """Measures the methods of an evaluation on the inputs of a run.

    Attributes
    ----------
    absent : method -> the reason, for methods that cannot be had for this model
    seen : methods that have explained an input
    heed : called before each forward of another method, whose maps may take minutes; it may raise `Stopped`
    """

    subject: Subject
    settings: Settings
    absent: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    heed: Callable[[], None] = lambda: None
    _last: tuple[Any, Made] | None = None
    _maps: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # input -> method -> maps (l, h, w), of one group

    def __post_init__(self) -> None:
        is_image = self.subject.kind == IMAGE
        check_names(self.settings.methods, "--with")
        one = self.subject.kind
        check(is_image or not self.settings.methods, f"--with names methods for images; this run explains {one}s")
        fixed = is_image or self.settings.fill is None
        check(fixed, f"--fill is for images; this run explains {one}s, and its own way to hide parts is used")
        if self.settings.fill is not None:
            fills.resolve(self.settings.fill)
        check(is_image or self.settings.unit == SEGMENTS, f"--unit pixels is for images; this run explains {one}s")

    @property
    def methods(self) -> list[str]:
        """All methods, LIME and what stands beside it first."""
        own = [LIME, RANDOM, *([CENTRE] if self.subject.kind == IMAGE else [])]
        return list(dict.fromkeys([*own, *self.settings.methods]))

    @property
    def fill(self) -> str:
        """The fill as it stands in rows."""
        return self.subject.fill if self.settings.fill is None else fill_name(fills.resolve(self.settings.fill))

    @property
    def parts(self) -> list[Part]:
        """The measurements of each method."""
        every = [Part(method, measurement) for method in self.methods for measurement in self.settings.measurements]
        # Random words have no linear model whose predictions could be compared.
        return every if self.subject.kind == IMAGE else [part for part in every if part != (RANDOM, HELD_OUT)]

    def tasks(self, labels: Sequence[int]) -> list[Task]:
        """The tasks of an input with these labels."""
        return [self._task(part, label) for part in self.parts for label in labels]

    def _task(self, part: Part, label: int) -> Task:
        by_pixels = part.measurement == CURVES and self.settings.unit == PIXELS
        return Task(label, part.method, PIXELS if by_pixels else PARTS[self.subject.kind], self.fill, part.measurement)

    def forwards(self, tasks: Iterable[Task], k: int) -> int:
        """Forwards of the tasks of an input with k parts, without those of the methods; labels share held-out masks."""
        steps = self.settings.steps or STEPS if self.settings.unit == PIXELS else min(self.settings.steps or k, k)
        each = {CURVES: 2 * steps, HELD_OUT: self.settings.samples + 1}
        shared = {task if task.measurement == CURVES else task._replace(label=0) for task in tasks}
        return sum(each[task.measurement] for task in shared)

    def measure(self, group: Group, part: Part) -> list[list[Row]]:
        """The rows of each input of a group.

        Raises
        ------
        NotAvailableError
            If the method cannot explain this model.
        GpulimeError
            If an input or a setting is invalid.
        """
        asked = part.method, tuple(row["image_id"] for row in group.rows)
        if self._last is None or self._last[0] != asked:  # maps may take much longer than their curves
            self._last = asked, self._noted(group, part.method)
        made = self._last[1]
        given = made.given
        self.seen.add(part.method)
        own = {} if isinstance(given, Explanations) else own_parts(group.explained)
        engine = self._engine
        if part.measurement == CURVES:
            found: Any = evaluate.curves(engine, group.inputs, given, self.settings.unit, self.settings.steps, **own)
        else:
            keys = torch.tensor([key(row["image_id"]) for row in group.rows])
            found = evaluate.held_out(engine, group.inputs, given, self.settings.samples, keys=keys, **own)
        return [self._rows(one["image_id"], i, part, found, made) for i, one in enumerate(group.rows)]

    def begin(self, group: Group) -> None:
        """Begin with a new group: forget the maps of the one before.

        Raises
        ------
        GpulimeError
            If the fill does not fit its images.
        """
        self._maps.clear()
        if self.settings.fill is not None:
            fills.fits(fills.resolve(self.settings.fill), tuple(group.inputs.shape))

    @cached_property
    def _engine(self) -> Any:
        """The run's explainer, with the fill of this evaluation."""
        explainer: Any = self.subject.explainer
        return explainer if self.settings.fill is None else explainer.with_fill(self.settings.fill)

    def _noted(self, group: Group, method: str) -> Made:
        """Attributions of a method, with notes: maps that an earlier method has, too, and what the method does not cover."""
        with noted() as notes:
            made = self._attributions(group, method)
        if made.maps is None:
            return made
        maps, ids = made.maps.float().cpu(), [row["image_id"] for row in group.rows]
        equal = [_equal(one, known) for one, known in zip(maps, self._others(group, method), strict=True)]
        for image_id, one in zip(ids, maps, strict=True):
            self._maps[image_id][method] = one
        return made._replace(notes=[[[*same, *notes] for same in of_input] for of_input in equal])

    def _others(self, group: Group, method: str) -> list[dict[str, Tensor]]:
        """Maps (l, h, w) of earlier methods for each input: those of this call, and those that cost little, made once."""
        known = [self._maps.setdefault(row["image_id"], {}) for row in group.rows]
        for name in FIRST[: FIRST.index(method)] if method in FIRST else FIRST:
            if any(name not in one for one in known):  # measured by an earlier call
                maps = self._attributions(group, name).maps
                assert maps is not None
                for one, made in zip(known, maps.float().cpu(), strict=True):
                    one[name] = made
        # A method is measured again if only some of its inputs lack a measurement: its own maps are no other's.
        others = [{name: maps for name, maps in one.items() if name != method} for one in known]
        plain = getattr(METHODS.get(method), "plain", None)
        if plain is not None and any("gradient" not in one for one in others):
            maps = self._of_method(group, plain).float().cpu()
            return [{"gradient": made} | one for made, one in zip(maps, others, strict=True)]
        return others

    def _attributions(self, group: Group, method: str) -> Made:
        """The explanations or maps of a method; maps to be stored are None for texts and table rows."""
        explained = group.explained
        if method == LIME:
            return Made(explained, explained.heatmaps() if isinstance(explained, ExplainedImages) else None)
        keys = torch.tensor([key(row["image_id"]) for row in group.rows])
        if not isinstance(explained, ExplainedImages):
            return Made(shuffled(explained, keys), None)
        segments, labels = explained.segments, explained.labels
        if method == RANDOM:
            maps = random_maps(segments, labels, keys=keys)
        else:
            maps = centre_maps(segments, labels) if method == CENTRE else self._of_method(group, METHODS[method])
        return Made(maps, maps)

    def _of_method(self, group: Group, method: Method) -> Tensor:
        """Maps (n, l, h, w) of a method that is not LIME."""
        assert isinstance(self.subject, Images)
        explainer, explained = self.subject.explainer, group.explained
        model, device = explainer.predictor.model, explainer.predictor.device(group.inputs)
        module = model if isinstance(model, nn.Module) else Classifier(model)
        images = explainer.preparation.for_model(Batch(group.inputs).as_tensors().on(device).images)
        suiting = suited(method, explained.segments.to(device), explainer.predictor.activation)
        hook = register_module_forward_pre_hook(lambda *_: self.heed())  # of any module, since methods work on copies
        try:
            return maps_of(suiting, module, images, explained.labels.to(device))
        finally:
            hook.remove()

    def _rows(self, image_id: str, i: int, part: Part, found: Any, from_: Made) -> list[Row]:
        """The rows of input i of a group."""
        made = []
        for j, label in enumerate(found.labels[i].tolist()):
            for metric, name in SCORES[part.measurement].items():
                value, reason = float(getattr(found, name)[i, j]), found.reason(name, i, j)
                one = rows.row_of(image_id, self._task(part, label), metric) | {"value": value, "reason": reason}
                if metric in (DELETION, INSERTION) and reason is None:
                    one |= self._curve(found, metric, i, j)
                if from_.maps is not None and metric == self._with_map:
                    one["map"] = small(from_.maps[i, j])
                if from_.notes is not None:
                    one["notes"] = from_.notes[i][j] or None
                made.append(one)
        return made

    @property
    def _with_map(self) -> str:
        """The metric whose rows hold the maps."""
        return DELETION if CURVES in self.settings.measurements else HELD_OUT_R2

    def _curve(self, found: Any, metric: str, i: int, j: int) -> Row:
        """The points of a curve, and the share of the area at each; without its repeated end."""
        points = 1 + int((found.hidden[i].diff() > 0).sum())
        return {"curve": getattr(found, metric)[i, j, :points].tolist(), "area": found.area[i, j, :points].tolist()}


def check_names(methods: Iterable[str], argument: str) -> None:
    """Raise `GpulimeError`, with the name of the argument, unless all are names of `METHODS`."""
    for name in methods:
        if name not in METHODS:
            raise unknown(argument, name, METHODS)


def _equal(maps: Tensor, others: Mapping[str, Tensor]) -> list[list[str]]:
    """For each of the maps (l, h, w) of a method the first other method with the same one, as a note."""
    notes: list[list[str]] = [[] for _ in maps]
    for name, other in others.items():
        for note, is_same in zip(notes, same_maps(maps[None], other[None])[0].tolist(), strict=True):
            if is_same and not note:
                note.append(f"{EQUAL} {name}")
    return notes


def own_parts(explained: ExplainedImages) -> dict[str, Any]:
    """The run's labels and segments, for maps; pixels that are never hidden have the id -1."""
    kept = explained.segments >= explained.counts[:, None, None]
    segments = explained.segments.masked_fill(kept, -1)
    return {"labels": explained.labels, "segments": segments, **({"keep": -1} if bool(kept.any()) else {})}


def shuffled(explained: Any, keys: Tensor) -> Any:
    """Explanations of texts or table rows with random coefficients in [0, 1), a function of each key."""
    shape = explained.coefficients.shape[1:]
    values = [torch.rand(shape, generator=torch.Generator().manual_seed(one), dtype=torch.float64) for one in keys.tolist()]
    there = torch.arange(shape[1]) < explained.counts[:, None, None]
    return dataclasses.replace(explained, coefficients=torch.stack(values) * there)


def small(map_: Tensor) -> bytes:
    """A map (h, w) as int8, `SIDE` x `SIDE`, row by row: its largest absolute value is 127."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(map_[None].detach().float().cpu(), SIDE)[0]
    largest = float(pooled.abs().max())
    found: Tensor = torch.zeros_like(pooled) if not 0 < largest < float("inf") else pooled / largest * LEVELS
    return found.round().to(torch.int8).numpy().tobytes()
