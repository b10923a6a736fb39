"""Curves: the model's output while the most important units are hidden, or shown, one after the other.

References
----------
Petsiuk, Das and Saenko, "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018 (deletion, insertion).
Rieger and Hansen, "IROF: a low resource evaluation metric for explanation methods", 2020.
Fong and Vedaldi, "Interpretable explanations of black boxes by meaningful perturbation", ICCV 2017 (minimal deletion).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gpulime.engine.chosen import ChosenFlight
from gpulime.engine.engine import Engine
from gpulime.engine.masked import Masked
from gpulime.engine.stopping import first_of
from gpulime.errors import check, unknown, whole
from gpulime.evaluate import ranks
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.scores import Reasons, Scores
from gpulime.evaluate.staircase import CURVES, DELETION, INSERTION, Staircase
from gpulime.evaluate.units import Units, at_once, constant_maps, of_pixels, of_segments
from gpulime.explainer import Explainer
from gpulime.images import fills
from gpulime.images.batch import Batch

Fills = dict[str, str | Tensor]  # of each curve
UNITS = SEGMENTS, PIXELS = ("segments", "pixels")
JUDGED = ("deletion", "insertion", "area", "minimal_deletion")  # fields (n, l, ...)
STEPS = 28  # of pixels, RISE's number of steps at 224 x 224


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves(Scores):
    """Curves of n inputs and l labels, with m steps; inputs with fewer steps repeat their last point.

    Attributes
    ----------
    deletion : (n, l, m + 1) float32, output for the label with the most important units hidden; first the input as it is
    insertion : (n, l, m + 1) float32, output with only the most important units shown; last the input as it is
    area : (n, l, m + 1) float64 in [0, 1], share of the area that is hidden, or shown, at each point
    hidden : (n, m + 1) int64, units that are hidden, or shown, at each point
    minimal_deletion : (n, l) float64 in [0, 1], least share of the area at which the predicted class changes in deletion
    """

    deletion: Tensor
    insertion: Tensor
    area: Tensor
    hidden: Tensor
    minimal_deletion: Tensor

    NAMES: ClassVar[tuple[str, ...]] = ("deletion_auc", "insertion_auc", "gap", "irof", "minimal_deletion")
    MISSING: ClassVar[dict[str, str]] = {
        "irof": "the output for the input as it is is 0, or the model's output is NaN or infinite",
        "minimal_deletion": "the label is not the predicted class, or it stays so with everything hidden",
    }

    @property
    def deletion_auc(self) -> Tensor:
        """Area under the deletion curve over the share of area, by trapezoids; (n, l) float64. Lower is better."""
        return torch.trapezoid(self.deletion.double(), self.area)

    @property
    def insertion_auc(self) -> Tensor:
        """Area under the insertion curve over the share of area, by trapezoids; (n, l) float64. Higher is better."""
        return torch.trapezoid(self.insertion.double(), self.area)

    @property
    def gap(self) -> Tensor:
        """Insertion minus deletion, (n, l) float64. Higher is better; 0 for an order that knows nothing."""
        return self.insertion_auc - self.deletion_auc

    @property
    def irof(self) -> Tensor:
        """Area over the deletion curve, divided by its first point, over the share of units; (n, l) float64, higher is better.

        The IROF of its paper: units count the same, regardless of their area.
        """
        return 1 - torch.trapezoid(self._relative, self._units / self._units[..., -1:])

    @property
    def irof_quantus(self) -> Tensor:
        """IROF as Quantus computes it: k less the area under points 1 to k at steps of 1; (n, l) float64, in [0, k] or so."""
        return self._units[..., -1] - torch.trapezoid(self._relative[..., 1:], self._units[..., 1:])

    def without(self, reasons: Reasons) -> Curves:
        """The same with NaN for labels that could not be judged."""
        made = replace(self, reasons=reasons)
        known: dict[str, Any] = {name: made.unknown(getattr(self, name)) for name in JUDGED}
        return replace(made, **known)

    @property
    def _relative(self) -> Tensor:
        relative = self.deletion.double() / self.deletion[..., :1].double()
        return relative.masked_fill(self.deletion[..., :1] == 0, torch.nan)

    @property
    def _units(self) -> Tensor:
        return self.hidden[:, None].expand(self.deletion.shape).double()


def curves(
    explainer: Explainer,
    images: Any,
    explained: Any,
    unit: str = SEGMENTS,
    steps: int | None = None,
    fill: Any = None,
    labels: Any = None,
    segments: Any = None,
    keep: Any = None,
    extra: Sequence[Tensor] = (),
) -> Curves:
    """Play the deletion and the insertion game.

    Parameters
    ----------
    explainer : Explainer
        Its model, activation, normalisation and batches are used; its fill and segmenter by default.
    images : (n, c, h, w) float or uint8, as for ``explain``
    explained : ExplainedImages, or maps (n, h, w) or (n, l, h, w)
        Explanations of the images, or maps of any method: larger is more important for the label.
    unit : {"segments", "pixels"}
        Hide whole segments, by their coefficient or by the mean of the map inside; or pixels, in steps of equal area.
        LIME's maps are constant within a segment, so their order of pixels there is arbitrary: take segments.
    steps : int, optional
        Steps of a curve, each of as many units as it takes; by default one for each segment, and 28 for pixels.
    fill : as for `gpulime.Explainer`, or a mapping of "deletion" and "insertion" to one each; optional
        Pixels of hidden units; by default the explainer's. RISE's protocol, for images in [0, 1] and the mean colour ``mean``:
        ``{"deletion": mean, "insertion": torchvision.transforms.functional.gaussian_blur(images, 11, 5)}``.
    labels : as for ``explain``
        Classes of the maps. For explanations by default all that were explained.
    segments, keep : as for ``explain``, optional
        For maps; explanations bring their own.
    extra : as for ``explain``

    Returns
    -------
    Curves
        NaN, with a reason, for labels that were not explained and for maps that are constant or not finite.

    Raises
    ------
    GpulimeError
        If an argument is invalid, or explanations or maps do not belong to the images.
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    steps = None if steps is None else whole("steps", steps, 1)
    check(unit == SEGMENTS or keep is None, "keep needs unit='segments'; pixels are hidden by their own rank")
    given, used = Attributions.of(explainer, images, explained, labels), _fills(explainer, fill)
    if unit == SEGMENTS:
        parts = given.segments(explainer, segments, keep)
        units = of_segments(given, parts)
        batch = Batch(given.images, units.labels, parts.labels, extra=extra)
        made, reasons = play(explainer, batch, units, steps, used), units.constant()
    else:
        made, reasons = _by_pixels(explainer, given, steps or STEPS, used, segments, extra), constant_maps(given.maps)
    return made.without(reasons | given.reasons)


def _by_pixels(
    explainer: Explainer, given: Attributions, steps: int, used: Fills, segments: Any, extra: Sequence[Tensor]
) -> Curves:
    """Curves of pixels: every pair of image and label is an input, whose segments are the buckets."""
    n, l = given.labels.shape
    if "mean" in used.values():  # of the segments that LIME hides, not of a bucket
        mean = given.pictures("mean", given.segments(explainer, segments))
        used = {name: mean if spec == "mean" else spec for name, spec in used.items()}
    played = []
    for where in at_once(n, l):
        buckets, units = of_pixels(given, where, steps)
        pairs, *more = (tensor[where].repeat_interleave(l, 0) for tensor in (given.images, *extra))
        own = {name: _repeated(spec, where, l) for name, spec in used.items()}
        played.append(play(explainer, Batch(pairs, units.labels, buckets, extra=tuple(more)), units, None, own))
    found = {name: torch.cat([getattr(one, name) for one in played]) for name in (*JUDGED, "hidden")}
    found = {name: values.view(n, l, *values.shape[2:]) for name, values in found.items() if name in JUDGED}
    return Curves(labels=given.labels, reasons={}, hidden=torch.arange(steps + 1).expand(n, -1), **found)


def play(explainer: Explainer, batch: Any, units: Units, steps: int | None, used: Fills) -> Curves:
    """Play both games with given units; they share the passes of the empty input if they share a fill."""
    order = ranks.order(units.values, units.counts)
    hidden = _hidden(units.counts, steps)
    found: dict[str, Tensor] = {}
    same = used[DELETION] is used[INSERTION]
    for names in [CURVES] if same else [(name,) for name in CURVES]:
        outputs, best = _passed(explainer.with_fill(used[names[0]]), batch, units, order, hidden, names)
        found |= dict(zip(names, outputs.unbind(1), strict=True))
        if DELETION in names:
            highest = best[:, 0]
    shares = units.shares[:, None].expand(order.shape).gather(2, order).cumsum(2)
    area = torch.nn.functional.pad(shares, (1, 0)).gather(2, hidden[:, None].expand(-1, order.shape[1], -1)).clamp(max=1)
    minimal = _minimal(highest, units.labels, area)
    return Curves(labels=units.labels, reasons={}, area=area, hidden=hidden, minimal_deletion=minimal, **found)


def _fills(explainer: Explainer, fill: Any) -> Fills:
    """The fill of each curve."""
    if not isinstance(fill, Mapping):
        return dict.fromkeys(CURVES, explainer.preparation.fill if fill is None else fills.resolve(fill))
    check(set(fill) == set(CURVES), lambda: f"fill must map {DELETION!r} and {INSERTION!r} to a fill each; got {list(fill)}")
    return {name: fills.resolve(fill[name]) for name in CURVES}


def _repeated(spec: str | Tensor, where: slice, l: int) -> str | Tensor:
    """A fill for pairs of some images and l labels."""
    each = isinstance(spec, Tensor) and spec.ndim == 4 and len(spec) > 1
    return spec[where].repeat_interleave(l, 0) if isinstance(spec, Tensor) and each else spec


def _hidden(counts: Tensor, steps: int | None) -> Tensor:
    """Units hidden at each point, (n, m + 1): all different up to an input's count, which repeats."""
    each = counts if steps is None else counts.clamp(max=steps)
    step = torch.minimum(torch.arange(int(each.max()) + 1, device=counts.device), each[:, None])
    return (2 * step * counts[:, None] + each[:, None]) // (2 * each[:, None])  # rounded to the nearest


def _passed(
    engine: Engine[Any], batch: Any, units: Units, order: Tensor, hidden: Tensor, names: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Outputs and the classes with the highest one, (n, curves, l, m + 1) both."""
    rank, first = order.argsort(-1), first_of(units.labels)
    stairs: deque[Staircase] = deque()

    def begin(inputs: Masked, where: slice) -> ChosenFlight:
        stairs.append(Staircase.of(rank[where], hidden[where], units.counts[where], first[where], names))
        return ChosenFlight.of(inputs, stairs[-1].index, stairs[-1].masks)

    rows = 1 + len(names) * units.labels.shape[1] * hidden.shape[1]
    found = [stairs.popleft().read(answers) for answers in engine.passed(batch, rows, begin, ChosenFlight.answers)]
    outputs, best = (torch.cat(parts) for parts in zip(*found, strict=True))
    return outputs, best


def _minimal(best: Tensor, labels: Tensor, area: Tensor) -> Tensor:
    """Least share of the area (n, l) at which the highest class (n, l, m + 1) is no more the label; NaN if it never changes."""
    changed = best != labels[..., None]
    first = changed.long().argmax(-1, keepdim=True)
    known = changed.any(-1) & ~changed[..., 0]
    return area.gather(2, first)[..., 0].masked_fill(~known, torch.nan)
