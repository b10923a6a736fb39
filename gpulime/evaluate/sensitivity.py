"""Sensitivity: how much an explanation changes if the image changes a little.

References
----------
Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from gpulime.engine.chosen import ChosenFlight
from gpulime.engine.masked import Masked
from gpulime.engine.masks import key
from gpulime.errors import GpulimeError, check, whole
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.method_maps import check_method, maps_of
from gpulime.evaluate.methods.method import Method
from gpulime.evaluate.scores import Reasons, Scores, without
from gpulime.evaluate.subjects import check_explainer
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch

IMAGES = 64  # changed images that are explained at once, to bound memory


@dataclass(frozen=True, eq=False, kw_only=True)
class Sensitivity(Scores):
    """Change of the maps of n images for l labels, relative to the map's norm.

    Attributes
    ----------
    sensitivity_max : (n, l) float64, the largest ``||a(x + e) - a(x)|| / ||a(x)||`` of the draws; a norm of 0 counts as 1
    sensitivity_mean : (n, l) float64, their mean
    changed : (n,) int64, draws in which the predicted class is another one; -1 if not asked for
    """

    sensitivity_max: Tensor
    sensitivity_mean: Tensor
    changed: Tensor

    NAMES: ClassVar[tuple[str, ...]] = ("sensitivity_max", "sensitivity_mean")
    MISSING: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, "a map holds NaN or infinite values")


def sensitivity(
    explainer: Explainer,
    images: Any,
    labels: Any,
    radius: float = 0.02,
    draws: int = 10,
    same_class: bool = False,
    method: Method | None = None,
    segments: Any = None,
    keys: Any = None,
    extra: Sequence[Tensor] = (),
    seed: int = 0,
) -> Sensitivity:
    """Explain images with uniform noise, and compare with their own explanations.

    The segments are those of the images themselves and all draws share the masks of their image, so that sampling noise, which
    is much larger, cancels. By default as captum's ``sensitivity_max``; Quantus' MaxSensitivity has a radius of 0.2 and 200
    draws.

    Parameters
    ----------
    explainer : Explainer
    images, segments, keys, extra : as for ``explain``
    labels : as for ``explain``
        Classes of the maps.
    radius : float
        Half of the width of the noise, in the units of the images; bytes count as 0 to 1.
    draws : int
    same_class : bool
        NaN for images whose predicted class changes in a draw. It costs a forward for each draw.
    method : callable, optional
        ``method(model, images, labels (n, l)) -> maps (n, l, h, w)`` in place of LIME; it gets the explainer's model and images
        as the model takes them.
    seed : int
        Noise is a function of seed and key.

    Returns
    -------
    Sensitivity

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    """
    check_explainer(explainer, Explainer)
    fits = isinstance(radius, Real) and not isinstance(radius, bool) and 0 <= radius < float("inf")
    check(fits, f"radius must be a number, 0 or more; got {radius!r}")
    radius = float(radius)
    if method is not None:
        check_method(method)
    draws = whole("draws", draws, 1)
    batch = Batch(images, labels, segments, keys, extra=extra).as_tensors(explainer.class_names)
    check(method is None or explainer.predictor.module is not None, "a method needs a model that is an nn.Module")
    if batch.labels is None:
        raise GpulimeError("labels must be the classes that are explained; got None")
    batch = batch.on(explainer.predictor.device(batch.images))
    batch = replace(batch, labels=batch.labels.where(batch.labels >= 0, batch.labels[:, :1]).to(batch.images.device))
    assert batch.labels is not None
    parts = Attributions(batch.images, batch.labels, {}).segments(explainer, batch.segments)
    quiet = explainer.with_fill(explainer.preparation.fill)
    quiet.preparation.warned = explainer.preparation.warned | {"range"}  # since noise leaves [0, 1]
    n, size = len(batch), max(1, IMAGES // (draws + 1))
    found = []
    for where in (slice(start, start + size) for start in range(0, n, size)):
        own = replace(batch, segments=parts.labels, keep=parts.most).part(where)
        found.append(_judged(quiet, _moved(own, radius, draws, seed), draws, same_class, method))
    largest, means, changed = (torch.cat(tensors) for tensors in zip(*found, strict=True))
    reasons: Reasons = {}
    for i in (changed > 0).nonzero().flatten().tolist():
        why = f"the predicted class is another one in {int(changed[i])} of {draws} draws"
        reasons |= {(i, j): why for j in range(batch.labels.shape[1])}
    scores = without(largest, reasons), without(means, reasons)
    return Sensitivity(
        labels=batch.labels, reasons=reasons, sensitivity_max=scores[0], sensitivity_mean=scores[1], changed=changed
    )


def _moved(batch: Batch, radius: float, draws: int, seed: int) -> Batch:
    """Every image, followed by its draws."""
    assert batch.keys is not None
    shape, times = batch.images.shape[1:], draws + 1
    moves = []
    for number in batch.keys.tolist():
        random = torch.Generator().manual_seed(key(f"{seed} {number}"))
        noise = (2 * torch.rand(draws, *shape, generator=random, dtype=torch.float64) - 1) * radius
        moves.append(torch.cat([torch.zeros(1, *shape), noise]))
    moved = batch.images.repeat_interleave(times, 0) + torch.cat(moves).to(batch.images)
    labels, segments, keys = (one.repeat_interleave(times, 0) for one in (batch.labels, batch.segments, batch.keys))
    return Batch(
        moved, labels, segments, keys, False, tuple(one.repeat_interleave(times, 0) for one in batch.extra), batch.keep
    )


def _judged(
    explainer: Explainer, batch: Batch, draws: int, same_class: bool, method: Method | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest and mean change (n, l), and how often the predicted class changes (n,)."""
    if method is None:
        maps = ExplainedImages.cat(list(explainer.explained(batch))).heatmaps()
    else:
        model = explainer.predictor.module
        assert model is not None
        maps = maps_of(method, model, explainer.preparation.for_model(batch.images), batch.labels)
    maps = maps.double().flatten(2).unflatten(0, (-1, draws + 1))
    norm = maps[:, 0].norm(dim=-1)
    change = (maps[:, 1:] - maps[:, :1]).norm(dim=-1) / norm.masked_fill(norm == 0, 1)[:, None]
    changed = torch.full((len(maps),), -1, device=maps.device)
    if same_class:
        best = torch.cat(list(explainer.passed(batch, 1, _alone, lambda flight: flight.best))).view(-1, draws + 1)
        changed = (best != best[:, :1]).sum(1)
    return change.amax(1), change.mean(1), changed


def _alone(inputs: Masked, where: slice) -> ChosenFlight:
    """Inputs as they are, without masks."""
    device = inputs.keys.device
    nothing = torch.empty(0, inputs.k, dtype=torch.bool, device=device)
    return ChosenFlight.of(inputs, torch.empty(0, dtype=torch.int64, device=device), nothing)
