"""Surrogate: the linear model that explains, by proximity weights, selection of parts and a batched weighted ridge.

Fits use weighted moments, which are summed over pieces of the samples, so memory does not grow with s. Everything runs in
float64, so the user's TF32 setting has no effect.

References
----------
Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016.
Efroymson, "Multiple regression analysis", 1960 (forward selection by sweeping).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine.proximity import proximity
from gpulime.engine.ridge import LeaveOneOut, ridge
from gpulime.engine.selection import select
from gpulime.engine.settings import REGULAR, Settings
from gpulime.errors import check, stage

T = TypeVar("T")

# Regressors (n, s, k), outputs (n, s, l), weights (n, s) float64, and of each sample the place of its partner (s,), or None.
Samples = tuple[Tensor, Tensor, Tensor, Tensor | None]

# An output is constant if its weighted spread is below this many roundings of its dtype.
CONSTANT = 4
LARGEST = 1e30  # larger outputs count as infinite: results are kept in float32, and a fit sums squares of outputs
FITTED = ("coefficients", "standard_errors", "intercepts", "scores", "scores_loo", "spreads", "local_predictions")
LEAST_WEIGHT = 1e-100  # of samples 1 to s - 1; squares of its inverse are finite
MATRICES = 5  # k x k matrices in memory at once during the fit of an input, at least


@dataclass(frozen=True)
class Surrogate:
    """Fitted linear models, all float64.

    Attributes
    ----------
    coefficients : (n, l, k), 0 for parts that were not selected and beyond an input's count
    standard_errors : (n, l, k), of the coefficients; 0 where these are
    intercepts : (n, l)
    scores : (n, l) weighted R2; NaN, since undefined, if the output is constant
    scores_loo : (n, l) weighted leave-one-out R2: each sample is predicted by the model fitted to all other samples; NaN if
        ``scores`` is NaN, or if a single sample determines a coefficient; ``scores`` if the samples are all masks
    spreads : (n, l) weighted standard deviation of the output over the masked samples; NaN if all of these have weight 0
    local_predictions : (n, l), the linear model's prediction for sample 0
    ranks : (n, l, k) int64, the order in which the parts were selected, from 0; -1 if not selected
    """

    coefficients: Tensor
    standard_errors: Tensor
    intercepts: Tensor
    scores: Tensor
    scores_loo: Tensor
    spreads: Tensor
    local_predictions: Tensor
    ranks: Tensor

    def of_labels(self, place: Tensor) -> Surrogate:
        """The models of the labels at ``place`` (n, l)."""
        index = torch.arange(len(place), device=place.device)[:, None]
        return Surrogate(**{name: value[index, place] for name, value in vars(self).items()})

    def exact(self, weights: Tensor) -> Surrogate:
        """The same, if all masks have been seen: without sampling errors, and without masks that the score has not seen.

        Of inputs with a single mask whose weight (n, s) is above 0 the masks tell nothing, so errors are NaN.
        """
        alone = (weights > 0).sum(1)[:, None, None] < 2
        errors = torch.zeros_like(self.coefficients).masked_fill(alone & (self.ranks >= 0), torch.nan)
        return replace(self, standard_errors=errors, scores_loo=self.scores)


@stage("surrogate")
def check_memory(k: int, device: torch.device, one: str, parts: str) -> None:
    """Fail early if the k x k matrices of a fit cannot fit in memory.

    Raises
    ------
    GpulimeError
        If ``device`` has less memory than the matrices of one input; ``one`` and ``parts`` are its names in the message.
    """
    needed, there = MATRICES * 8.0 * k * k, devices.memory(device)
    check(
        needed <= there,
        lambda: (
            f"k = {k:,} {parts} need {needed / 1e9:,.1f} GB for the fit of one {one}, whose matrices are k x k; "
            f"{device} has {there / 1e9:,.1f} GB: take fewer, larger {parts}"
        ),
    )


class Sums(NamedTuple):
    """Weighted sums over samples, of regressors x and outputs y relative to those of row 0."""

    weight: Tensor  # (n, 1, 1)
    others: Tensor  # (n, 1), weight without row 0; tiny for a narrow kernel
    x: Tensor  # (n, k, 1)
    y: Tensor  # (n, l, 1)
    xx: Tensor  # (n, k, k)
    xy: Tensor  # (n, k, l)
    yy: Tensor  # (n, l, 1)


class Moments:
    """Weighted sums over samples, sufficient for every fit; `add` pieces of any size, then `solve`; `solved` does both.

    Row 0 is subtracted from outputs and regressors. It often outweighs all other rows; its part in the sums is then 0, and no
    digits are lost.
    """

    def __init__(self, counts: Tensor, k: int, y0: Tensor, x0: Tensor | None = None) -> None:
        """Start without samples, for inputs with ``counts`` (n,) parts and k columns.

        ``y0`` (n, l) and ``x0`` (n, k) are outputs and regressors of row 0; by default ones, a mask that shows everything.
        """
        self.counts, self.k, self.y0 = counts, k, y0.double()
        self.x0 = torch.ones(1, k, dtype=torch.float64, device=y0.device) if x0 is None else x0.double()
        self.rounding = torch.finfo(y0.dtype).eps
        self.samples = 0
        self.sums: Sums

    def add(self, regressors: Tensor, outputs: Tensor, weights: Tensor) -> None:
        """Add samples, row 0 first: regressors (n, s, k), outputs (n, s, l), weights (n, s) float64."""
        x = regressors.double() - self.x0[:, None]
        y = outputs.double() - self.y0[:, None]
        w = weights[..., None]
        xw, yw = (x * w).mT, (y * w).mT
        sums = Sums(
            weight=w.sum(1, keepdim=True),
            others=w[:, 0 if self.samples else 1 :].sum(1),
            x=xw.sum(-1, keepdim=True),
            y=yw.sum(-1, keepdim=True),
            xx=xw @ x,
            xy=xw @ y,
            yy=(yw * y.mT).sum(-1, keepdim=True),
        )
        self.sums = Sums(*map(torch.add, self.sums, sums)) if self.samples else sums
        self.samples += regressors.shape[1]

    def centre(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted scatter of parts (n, k, k), of parts with outputs (n, l, k), and of outputs (n, l)."""
        weight, _, x, y, xx, xy, yy = self.sums
        valid = torch.arange(self.k, device=self.counts.device) < self.counts[:, None]
        gram = (xx - devices.product(x, x.mT) / weight) * (valid[:, None] & valid[:, :, None])
        cross = ((xy - devices.product(x, y.mT) / weight) * valid[..., None]).mT
        spread = (yy - y**2 / weight).squeeze(-1).clamp(min=0)
        return gram, cross, spread

    def solve(self, settings: Settings) -> tuple[Surrogate, LeaveOneOut, Tensor]:
        """Fit the weighted ridge with an unpenalised intercept, after selecting parts.

        The optimum is ``beta = (X'WX + alpha I)^-1 X'Wy`` of centred data. If the system is singular, as with ``alpha=0`` and
        fewer samples than parts, the solution of least norm is taken.

        Returns
        -------
        The models, with ``scores_loo`` and ``standard_errors`` still NaN; their leave-one-out errors, for which the samples are
        needed again; and the weighted total sum of squares (n, l) for both scores, NaN if the output is constant.
        """
        weight, others = self.sums.weight, self.sums.others
        if callable(settings.kernel):
            check(bool((weight > 0).all()), "kernel must return a weight above 0 for some samples; got 0 for all")
        gram, cross, spread = self.centre()
        ranks = select(gram, cross, self.counts, self.samples, settings, self.x0)
        chosen = (ranks[:, :1] >= 0).expand_as(ranks) if ranks.stride(1) == 0 else ranks >= 0
        alpha: float | Tensor = settings.alpha
        if settings.estimator != "ridge":  # without a penalty of the user's, slopes do not depend on the scale of the kernel
            alpha = REGULAR * others.clamp(LEAST_WEIGHT, 1.0)[..., None, None]
        beta, root = ridge(gram, cross, chosen, alpha)
        mean, mean_y = (self.sums.x / weight + self.x0[..., None]).mT, (self.sums.y / weight).squeeze(-1)
        intercepts = self.y0 + mean_y - (beta * mean).sum(-1)
        residual = spread - 2 * (beta * cross).sum(-1) + (devices.product(beta, gram) * beta).sum(-1)
        constant = spread <= others * (CONSTANT * self.rounding * self.y0).square()
        total = torch.where(constant, torch.nan, spread)
        fitted = Surrogate(
            coefficients=beta,
            standard_errors=torch.full_like(beta, torch.nan),
            intercepts=intercepts,
            scores=1 - residual / total,
            scores_loo=torch.full_like(total, torch.nan),
            spreads=(spread / others).sqrt(),
            local_predictions=intercepts + (beta * self.x0[:, None]).sum(-1),
            ranks=ranks,
        )
        return fitted, LeaveOneOut(weight, mean, root, beta, intercepts, alpha), total


def solved(moments: Moments, rows: Sequence[T], samples: Callable[[T], Samples], settings: Settings) -> Surrogate:
    """Fit linear models to samples given in pieces: one pass for the moments, one for the leave-one-out errors.

    Parameters
    ----------
    moments : Moments, still empty
    rows : sequence, the names of the pieces, first the one with row 0
    samples : callable, name of a piece -> its samples; called twice for each piece but the last
    settings : Settings
    """
    for some in rows:
        last = samples(some)
        moments.add(*last[:3])
    fitted, left_out, total = moments.solve(settings)
    press, variances = left_out.errors(*last)
    for some in rows[:-1]:
        more = left_out.errors(*samples(some))
        press, variances = press + more[0], variances + more[1]
    return replace(fitted, scores_loo=1 - press / total, standard_errors=variances.sqrt())


def fit(masks: Tensor, outputs: Tensor, counts: Tensor | None = None, settings: Settings | None = None) -> Surrogate:
    """Fit linear models to samples in a single piece.

    Parameters
    ----------
    masks : (n, s, k) bool, row 0 all True
    outputs : (n, s, l)
    counts : (n,), optional
        Parts of each input; by default k. Columns beyond have no meaning.
    settings : Settings, optional

    Returns
    -------
    Surrogate
    """
    settings = settings or Settings()
    n, s, k = masks.shape
    check(
        outputs.ndim == 3 and outputs.shape[:2] == (n, s),
        f"outputs must be (n, s, l) = {(n, s, 'l')}; got {tuple(outputs.shape)}",
    )
    counts = torch.full((n,), k, device=masks.device) if counts is None else counts
    masks = masks & (torch.arange(k, device=masks.device) < counts[:, None])[:, None]
    weights = proximity(masks, counts, settings)
    return solved(Moments(counts, k, outputs[:, 0]), [...], lambda _: (masks, outputs, weights, None), settings)
