"""Curves: the model's output while the most important units are hidden, or shown, one after the other.

References
----------
Petsiuk, Das and Saenko, "RISE: Randomized input sampling for explanation of black-box models", BMVC 2018 (deletion, insertion).
Rieger and Hansen, "IROF: a low resource evaluation metric for explanation methods", 2020.
Fong and Vedaldi, "Interpretable explanations of black boxes by meaningful perturbation", ICCV 2017 (minimal deletion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gpulime.engine.chosen import ALONE
from gpulime.engine.engine import Engine
from gpulime.errors import GpulimeError, check, unknown, whole
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.games import Engines, Played, play
from gpulime.evaluate.pixels import play_pixels
from gpulime.evaluate.scores import Reasons, Scores, without
from gpulime.evaluate.staircase import CURVES, DELETION, INSERTION
from gpulime.evaluate.subjects import Judged, check_explainer, subject
from gpulime.explainer import Explainer
from gpulime.images import fills
from gpulime.images.batch import Batch
from gpulime.text_explainer import TextExplainer

UNITS = SEGMENTS, PIXELS = ("segments", "pixels")
STEPS = 28  # of pixels, RISE's number of steps at 224 x 224

NOT_FINITE = "the model's output is NaN or infinite"
NO_SHARE = "the output for the whole input is 0, so no share of it can be given"
NOT_PREDICTED = "the label is not the predicted class of the whole input"
ONE_OUTPUT = "the model has one output, so no other class can take its place"


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves(Scores):
    """Curves of n inputs and l labels, with m steps; inputs with fewer steps repeat their last point.

    Attributes
    ----------
    deletion : (n, l, m + 1) float32, output for the label with the most important units hidden; first the input as it is
    insertion : (n, l, m + 1) float32, output with only the most important units shown; last the input as it is
    area : (n, l, m + 1) float64 in [0, 1], share of the area that is hidden, or shown, at each point
    hidden : (n, m + 1) int64, units that are hidden, or shown, at each point
    minimal_deletion : (n, l) float64 in [0, 1], least share of the area at which the predicted class changes in deletion; 1 if
        the class never changes. Lower is better. NaN if the label is not the predicted class of the whole input
    predicted : (n,) int64, class with the highest output for the whole input; -1 if an output is NaN, -2 if there is only one
    """

    deletion: Tensor
    insertion: Tensor
    area: Tensor
    hidden: Tensor
    minimal_deletion: Tensor
    predicted: Tensor

    NAMES: ClassVar[tuple[str, ...]] = ("deletion_auc", "insertion_auc", "gap", "irof", "minimal_deletion")
    MISSING: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, NOT_FINITE)

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
        """Insertion minus deletion, (n, l) float64. Higher is better; about 0 on average for an order that knows nothing."""
        return self.insertion_auc - self.deletion_auc

    @property
    def irof(self) -> Tensor:
        """Area over the deletion curve, divided by its first point, over the share of units; (n, l) float64, higher is better.

        The IROF of its paper: each unit counts the same, regardless of its area. So it favours many small segments: each one
        that is hidden once the output is low widens the low part of the curve by a full step. Compare it on the same segments.
        """
        return 1 - torch.trapezoid(self._relative, self._units / self._units[..., -1:])

    @property
    def irof_quantus(self) -> Tensor:
        """IROF as Quantus computes it: k less the area under points 1 to k at steps of 1; (n, l) float64, in [0, k] or so."""
        return self._units[..., -1] - torch.trapezoid(self._relative[..., 1:], self._units[..., 1:])

    def reason(self, name: str, i: int, j: int) -> str | None:
        """The reason why a score of input i and label j is NaN; None if it is not."""
        why = super().reason(name, i, j)
        if why is None or (i, j) in self.reasons:
            return why
        if name == "irof" and float(self.deletion[i, j, 0]) == 0:
            return NO_SHARE
        if name == "minimal_deletion":
            best, label = int(self.predicted[i]), int(self.labels[i, j])
            return ONE_OUTPUT if best == ALONE else NOT_PREDICTED if best >= 0 and best != label else why
        return why

    @classmethod
    def of(cls, played: Played, labels: Tensor, reasons: Reasons) -> Self:
        """Curves of played games; NaN for labels (n, l) that could not be judged."""
        minimal = _minimal(played, labels)
        found = (without(values, reasons) for values in (played.deletion, played.insertion, played.area, minimal))
        deletion, insertion, area, minimal = found
        return cls(
            labels=labels,
            reasons=reasons,
            deletion=deletion,
            insertion=insertion,
            area=area,
            hidden=played.hidden,
            minimal_deletion=minimal,
            predicted=played.highest[:, 0, 0],
        )

    @property
    def _relative(self) -> Tensor:
        relative = self.deletion.double() / self.deletion[..., :1].double()
        return relative.masked_fill(self.deletion[..., :1] == 0, torch.nan)

    @property
    def _units(self) -> Tensor:
        return self.hidden[:, None].expand(self.deletion.shape).double()


def curves(
    explainer: Judged,
    inputs: Any,
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
    inputs : images (n, c, h, w), n texts or rows (n, d), as for ``explain``
    explained : Explanations, or for images maps (n, h, w) or (n, l, h, w)
        Explanations of the inputs, or maps of any method: larger is more important for the label.
    unit : {"segments", "pixels"}
        Hide whole segments, by their coefficient or by the mean of the map inside; or pixels, in steps of equal area.
        LIME's maps are constant within a segment, so their order of pixels there is arbitrary: take segments.
    steps : int, optional
        Steps of a curve, each of as many units as it takes; by default one for each segment, and 28 for pixels,
        or one for each pixel of a smaller image.
    fill : as for `gpulime.Explainer`, or a mapping of "deletion" and "insertion" to one each; optional
        Pixels of hidden units; by default the explainer's. For rows a row (1, d), by default the mean of each numeric column
        and the most frequent category; words are hidden as the explainer hides them. RISE's protocol, for images in [0, 1] and
        the mean colour ``mean``:
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
    check_explainer(explainer)
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    steps = None if steps is None else whole("steps", steps, 1)
    if unit == SEGMENTS:
        judged = subject(explainer, inputs, explained, labels, segments, keep, None, extra)
        played = play(_engines(explainer, _fills(fill)), judged.batch, judged.units, steps)
        return Curves.of(played, judged.units.labels, judged.units.constant() | judged.reasons)
    if not isinstance(explainer, Explainer):
        raise GpulimeError(f"unit='pixels' is for images; got a {type(explainer).__name__}")
    check(keep is None, "keep needs unit='segments'; pixels are hidden by their own rank")
    given = Attributions.of(explainer, inputs, explained, labels)
    used = _fills(explainer.preparation.fill if fill is None else fill)
    if any(isinstance(spec, str) and spec == "mean" for spec in used.values()):  # of LIME's segments, not of the buckets
        mean = given.pictures("mean", given.segments(explainer, segments))
        used = {name: mean if isinstance(spec, str) and spec == "mean" else spec for name, spec in used.items()}
    more = Batch(given.images, extra=extra).as_tensors().extra
    steps = steps or min(STEPS, given.images[0, 0].numel())
    played, constant = play_pixels(lambda which: _engines(explainer, _of(used, which)), given, steps, more)
    return Curves.of(played, given.labels, constant | given.reasons)


def _fills(fill: Any) -> dict[str, Any]:
    """The fill of each curve."""
    if not isinstance(fill, Mapping):
        return dict.fromkeys(CURVES, fill)
    check(set(fill) == set(CURVES), lambda: f"fill must map {DELETION!r} and {INSERTION!r} to a fill each; got {list(fill)}")
    return {name: fill[name] for name in CURVES}


def _engines(explainer: Judged, used: dict[str, Any]) -> Engines:
    """The explainer with the fill of each curve; one for both if they share it."""

    def engine(spec: Any) -> Engine[Any]:
        if isinstance(explainer, TextExplainer):
            check(spec is None, "words are hidden as the explainer's hide says; leave fill out")
            return explainer
        return explainer if spec is None and isinstance(explainer, Explainer) else explainer.with_fill(spec)

    first = engine(used[DELETION])
    return {DELETION: first, INSERTION: first if used[INSERTION] is used[DELETION] else engine(used[INSERTION])}


def _of(used: dict[str, Any], which: Tensor) -> dict[str, Any]:
    """The fills for some images, by their numbers; a fill may be a picture for each."""

    def chosen(spec: Any) -> Any:
        found = fills.resolve(spec)
        each = isinstance(found, Tensor) and found.ndim == 4 and len(found) > 1
        return found[which.to(found.device)] if isinstance(found, Tensor) and each else found

    first = chosen(used[DELETION])
    return {DELETION: first, INSERTION: first if used[INSERTION] is used[DELETION] else chosen(used[INSERTION])}


def _minimal(played: Played, labels: Tensor) -> Tensor:
    """Least share of the area (n, l) at which the highest class is no more the label; 1 if it never changes.

    NaN if the label is not the highest class at first, or an output on the way to the change is NaN or infinite.
    """
    unknown = (played.highest < 0) | ~played.deletion.isfinite()
    ends = unknown | (played.highest != labels[..., None])
    first = ends.long().argmax(-1, keepdim=True)
    found = played.area.gather(2, first).where(ends.any(-1, keepdim=True), 1)
    missing = unknown.gather(2, first) | ends[..., :1]
    return found.masked_fill(missing, torch.nan)[..., 0]
