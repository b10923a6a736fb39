"""Stability: how much explanations of the same inputs differ if other masks are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor

from gpulime.errors import GpulimeError, whole
from gpulime.evaluate.ranks import order, painted
from gpulime.evaluate.scores import Scores, without
from gpulime.evaluate.similarity import similarities, spearman
from gpulime.evaluate.subjects import Judged, Subject, check_explainer, subject
from gpulime.explanations.batch import Explanations
from gpulime.images.batch import Batch

TOP = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Stability(Scores):
    """Similarity of explanations from different seeds, a mean over pairs of seeds; n inputs, l labels.

    It is the ceiling of these similarities: no comparison with another model or method can be expected to reach more.

    Attributes
    ----------
    spearman, spearman_abs : (n, l) float64 in [-1, 1], rank correlation of coefficients, and of their absolute values; for
        images, of pixels
    ssim, hog : (n, l) float64, as in `gpulime.evaluate.similarities`; NaN for texts and rows
    top5 : (n, l) float64 in [0, 1], share of the five parts with the largest absolute coefficients that both have
    """

    spearman: Tensor
    spearman_abs: Tensor
    ssim: Tensor
    hog: Tensor
    top5: Tensor

    NAMES: ClassVar[tuple[str, ...]] = ("spearman", "spearman_abs", "ssim", "hog", "top5")
    MISSING: ClassVar[dict[str, str]] = dict.fromkeys(NAMES, "an explanation is constant or NaN") | {
        "ssim": "it needs images with sides of 11 or more, and maps that are not constant",
        "hog": "it needs images with sides of 6 or more, and maps that are not constant",
    }


def stability(
    explainer: Judged,
    inputs: Any,
    explained: Explanations,
    seeds: int = 2,
    labels: Any = None,
    keys: Any = None,
    extra: Sequence[Tensor] = (),
) -> Stability:
    """Explain again with other seeds, and compare.

    Parameters
    ----------
    explainer : Explainer, TextExplainer or TableExplainer
        With the settings of the explanations.
    inputs : images (n, c, h, w), n texts or rows (n, d), as for ``explain``
    explained : Explanations
        Of the inputs, by the explainer. Their segments and labels are used.
    seeds : int
        Explanations to compare, at least 2; one of them is ``explained``, the others cost as many forwards as it did.
    labels : as for ``explain``, optional
        By default all that were explained.
    keys, extra : as for ``explain``

    Returns
    -------
    Stability
        NaN, with a reason, for labels that were not explained.

    Raises
    ------
    GpulimeError
        If an argument is invalid, or the explanations do not belong to the inputs.
    """
    check_explainer(explainer)
    seeds = whole("seeds", seeds, 2)
    if not isinstance(explained, Explanations):
        raise GpulimeError(f"explained must be explanations, since maps have no seed; got {type(explained).__name__}")
    judged = subject(explainer, inputs, explained, labels, keys=keys, extra=extra)
    k, found = judged.units.values.shape[2], [judged.units.values]
    for i in range(1, seeds):
        parts: list[Explanations] = list(explainer.redrawn(explainer.seed + i).explained(judged.batch))
        found.append(torch.nn.functional.pad(again := type(explained).cat(parts).coefficients, (0, k - again.shape[2])))
    pairs = [_compared(judged, *pair) for pair in combinations(found, 2)]
    means = {name: without(torch.stack([pair[name] for pair in pairs]).mean(0), judged.reasons) for name in Stability.NAMES}
    return Stability(labels=judged.units.labels, reasons=judged.reasons, **means)


def _compared(judged: Subject, first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Similarities (n, l) of coefficients (n, l, k)."""
    counts, both = judged.units.counts, (first, second)
    if isinstance(judged.batch, Batch):
        found = similarities(*(painted(one, judged.batch.segments) for one in both))
    else:
        nothing = torch.full(first.shape[:2], torch.nan, dtype=torch.float64, device=first.device)
        found = {"ssim": nothing, "hog": nothing}
        for name, compared in (("spearman", both), ("spearman_abs", (first.abs(), second.abs()))):
            rows = [spearman(*(one[i, :, :count] for one in compared)) for i, count in enumerate(counts.tolist())]
            found[name] = torch.stack(rows)
    return found | {"top5": _overlap(first, second, counts)}


def _overlap(first: Tensor, second: Tensor, counts: Tensor) -> Tensor:
    """Share (n, l) of the parts with the largest absolute values that both have; NaN if a value is NaN."""
    tops = [
        torch.zeros_like(one, dtype=torch.bool).scatter(2, order(one.abs(), counts)[..., :TOP], True) for one in (first, second)
    ]
    beyond = torch.arange(first.shape[2], device=first.device) >= counts[:, None, None]
    shared: Tensor = (tops[0] & tops[1] & ~beyond).sum(-1) / counts.clamp(max=TOP)[:, None].double()
    return shared.masked_fill((first + second).isnan().any(-1), torch.nan)
