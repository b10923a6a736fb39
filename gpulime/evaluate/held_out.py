"""Held-out masks: how well an explanation predicts the model on masks that it was not fitted to.

References
----------
Yeh et al., "On the (in)fidelity and sensitivity of explanations", NeurIPS 2019 (infidelity).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked
from gpulime.engine.masks import Bernoulli
from gpulime.engine.proximity import proximity
from gpulime.engine.settings import SHAPLEY, Settings
from gpulime.errors import check, whole
from gpulime.evaluate.scores import Scores, reasons_at, without
from gpulime.evaluate.subjects import Judged, Subject, check_explainer, subject

ALONE = "there is one part only, which any importance predicts"
CONSTANT = "the model's output is the same for all masks, or NaN or infinite, or the only part has an importance of 0"


@dataclass(frozen=True, eq=False, kw_only=True)
class HeldOut(Scores):
    """How well n explanations predict the model's output for l labels on masks that they were not fitted to.

    With d, how much the output falls if parts are hidden, and h, the sum of the importance of these parts:

    Attributes
    ----------
    r2 : (n, l) float64, at most 1: share of the variance of outputs that is predicted; samples are weighted as in the fit.
        1 is exact, 0 no better than the mean, below 0 worse. R2 of explanations and R2 of maps are not the same formula. An
        explanation predicts by its own linear model, with its intercept. A map has neither intercept nor scale: the prediction
        is the output for the whole input less ``beta * h``, with ``beta`` weighted as the samples. It is only scaled, so an
        offset, the same number in all parts, counts against a map
    infidelity : (n, l) float64, mean of ``(beta * h - d)**2`` with ``beta = mean(h * d) / mean(h**2)``; lower is better
    infidelity_unscaled : (n, l) float64, mean of ``(h - d)**2``; it compares only maps in the units of the output, as LIME's
    """

    r2: Tensor
    infidelity: Tensor
    infidelity_unscaled: Tensor

    NAMES: ClassVar[tuple[str, ...]] = ("r2", "infidelity", "infidelity_unscaled")
    MISSING: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, CONSTANT)


def held_out(
    explainer: Judged,
    inputs: Any,
    explained: Any,
    n_samples: int = 100,
    seed: int | None = None,
    labels: Any = None,
    segments: Any = None,
    keep: Any = None,
    keys: Any = None,
    extra: Sequence[Tensor] = (),
) -> HeldOut:
    """Predict the model's output on fresh masks, and compare.

    Parameters
    ----------
    explainer : Explainer, TextExplainer or TableExplainer
        Its fill, and its kernel for the weights of samples, are used; with ``kernel="shapley"`` all weights are equal.
    inputs : images (n, c, h, w), n texts or rows (n, d), as for ``explain``
    explained : Explanations, or for images maps (n, h, w) or (n, l, h, w)
        Explanations of the inputs; or maps of any method, of which a segment has the mean.
    n_samples : int
        Masks of each input, beside the whole input. Each part is shown with probability 1/2; rows of tables are drawn as for
        `gpulime.TableExplainer`.
    seed : int, optional
        By default one more than the explainer's, which drew the masks of the fit.
    labels, segments, keep, extra : as for `gpulime.evaluate.curves`
    keys : as for ``explain``, optional

    Returns
    -------
    HeldOut
        NaN, with a reason, for labels that were not explained, for maps that are constant or not finite, and for inputs of one
        part.

    Raises
    ------
    GpulimeError
        If an argument is invalid, or explanations or maps do not belong to the inputs.
    """
    check_explainer(explainer)
    s = whole("n_samples", n_samples, 2) + 1
    seed = explainer.seed + 1 if seed is None else whole("seed", seed, 0)
    check(seed != explainer.seed, f"seed must differ from the explainer's, whose masks were fitted; got {seed}")
    judged = subject(explainer, inputs, explained, labels, segments, keep, keys, extra)
    engine, done = explainer.redrawn(seed, s), 0
    sampler = Bernoulli(seed, s)

    def begin(some: Masked, where: slice) -> Flight:
        return Flight(some, s, sampler, engine.top_labels)

    def solve(flight: Flight) -> Tensor:
        nonlocal done
        where, done = slice(done, done + flight.n), done + flight.n
        return _judge(flight, judged, where, engine.settings)

    found = torch.cat(list(engine.passed(judged.batch, s, begin, solve)))
    units = judged.units
    alone = reasons_at((units.counts == 1)[:, None].expand_as(units.labels), ALONE)
    reasons = alone | units.constant() | judged.reasons
    scores = dict(zip(HeldOut.NAMES, without(found, reasons).unbind(-1), strict=True))
    return HeldOut(labels=judged.units.labels, reasons=reasons, **scores)


def _judge(flight: Flight, judged: Subject, where: slice, settings: Settings) -> Tensor:
    """The scores (n, l, 3) of a complete flight, in the order of `HeldOut`."""
    inputs, outputs = flight.inputs, flight.outputs().double()
    index = torch.arange(flight.n, device=outputs.device)[:, None]
    samples = torch.arange(1, flight.n_samples, device=outputs.device)
    x = inputs.regressors(index, samples, flight.draw(index, samples))
    k = min(inputs.k, judged.units.values.shape[2])
    values = judged.units.values[where, :, :k]
    weights = torch.ones(x.shape[:2], dtype=torch.float64, device=x.device)
    if settings.kernel != SHAPLEY:
        weights = proximity(x, inputs.counts, settings, inputs.origin)
    x = x[..., :k].double()
    origin = torch.ones_like(x[:, 0]) if inputs.origin is None else inputs.origin[:, :k]
    # (n, l, s - 1) from here on
    hidden = ((origin[:, None] - x) @ values.mT).mT
    whole, y = outputs[:, :1].mT, outputs[:, 1:].mT
    fall = whole - y
    w = weights[:, None]
    predicted = whole - _beta(w, hidden, fall) * hidden
    if judged.intercepts is not None:
        predicted = judged.intercepts[where, :, None] + (x @ values.mT).mT
    mean = (w * y).sum(-1, keepdim=True) / w.sum(-1, keepdim=True)
    variance = (w * (y - mean) ** 2).sum(-1)
    r2 = (1 - (w * (y - predicted) ** 2).sum(-1) / variance).masked_fill(variance == 0, torch.nan)
    scaled = _beta(torch.ones_like(w), hidden, fall) * hidden
    return torch.stack([r2, ((scaled - fall) ** 2).mean(-1), ((hidden - fall) ** 2).mean(-1)], -1)


def _beta(w: Tensor, hidden: Tensor, fall: Tensor) -> Tensor:
    """The scale (n, l, 1) of ``hidden`` that predicts ``fall`` best, with the weights w (n, 1, s - 1)."""
    beta: Tensor = (w * hidden * fall).sum(-1, keepdim=True) / (w * hidden**2).sum(-1, keepdim=True)
    return beta
