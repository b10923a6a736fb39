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
from typing import TypeVar

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine.proximity import proximity
from gpulime.engine.ridge import LeaveOneOut, ridge
from gpulime.engine.selection import select
from gpulime.engine.settings import Settings
from gpulime.errors import check, stage

T = TypeVar("T")

Samples = tuple[Tensor, Tensor, Tensor]  # regressors (n, s, k), outputs (n, s, l), weights (n, s) float64

# An output is constant if its weighted spread is below this many roundings of its dtype.
CONSTANT = 4
MATRICES = 5  # k x k matrices in memory at once during the fit of an input, at least


@dataclass(frozen=True)
class Surrogate:
    """Fitted linear models, all float64.

    Attributes
    ----------
    coefficients : (n, l, k), 0 for parts that were not selected and beyond an input's count
    intercepts : (n, l)
    scores : (n, l) weighted R2; NaN, since undefined, if the output is constant
    scores_loo : (n, l) weighted leave-one-out R2: each sample is predicted by the model fitted to all other samples; NaN if
        ``scores`` is NaN, or if a single sample determines a coefficient
    spreads : (n, l) weighted standard deviation of the output over the masked samples; NaN if all of these have weight 0
    local_predictions : (n, l), the linear model's prediction for sample 0
    ranks : (n, l, k) int64, the order in which the parts were selected, from 0; -1 if not selected
    """

    coefficients: Tensor
    intercepts: Tensor
    scores: Tensor
    scores_loo: Tensor
    spreads: Tensor
    local_predictions: Tensor
    ranks: Tensor


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


class Moments:
    """Weighted sums over samples, sufficient for every fit; `add` pieces of any size, then `solve`; `solved` does both.

    Row 0 is subtracted from outputs and regressors. It often outweighs all other rows; its part in the sums is then 0, and no
    digits are lost.
    """

    def __init__(self, counts: Tensor, k: int, y0: Tensor, x0: Tensor | None = None) -> None:
        """Start with empty sums, for inputs with ``counts`` (n,) parts and k columns.

        ``y0`` (n, l) and ``x0`` (n, k) are outputs and regressors of row 0; by default ones, a mask that shows everything.
        """
        (n, l), device = y0.shape, y0.device
        self.counts, self.k, self.y0 = counts, k, y0.double()
        self.x0 = torch.ones(1, k, dtype=torch.float64, device=device) if x0 is None else x0.double()
        self.rounding = torch.finfo(y0.dtype).eps
        self.samples = 0
        self.weight = torch.zeros(n, 1, 1, dtype=torch.float64, device=device)
        self.others = torch.zeros(n, 1, dtype=torch.float64, device=device)  # weight without row 0; tiny for a narrow kernel
        self.x = torch.zeros(n, k, 1, dtype=torch.float64, device=device)
        self.y = torch.zeros(n, l, 1, dtype=torch.float64, device=device)
        self.xx = torch.zeros(n, k, k, dtype=torch.float64, device=device)
        self.xy = torch.zeros(n, k, l, dtype=torch.float64, device=device)
        self.yy = torch.zeros(n, l, 1, dtype=torch.float64, device=device)

    def add(self, regressors: Tensor, outputs: Tensor, weights: Tensor) -> None:
        """Add samples, row 0 first: regressors (n, s, k), outputs (n, s, l), weights (n, s) float64."""
        x = regressors.double() - self.x0[:, None]
        y = outputs.double() - self.y0[:, None]
        w = weights[..., None]
        xw, yw = (x * w).mT, (y * w).mT
        self.others += w[:, 0 if self.samples else 1 :].sum(1)
        self.samples += regressors.shape[1]
        self.weight += w.sum(1, keepdim=True)
        self.x += xw.sum(-1, keepdim=True)
        self.y += yw.sum(-1, keepdim=True)
        self.xx += xw @ x
        self.xy += xw @ y
        self.yy += (yw * y.mT).sum(-1, keepdim=True)

    def centre(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted scatter of parts (n, k, k), of parts with outputs (n, l, k), and of outputs (n, l)."""
        valid = torch.arange(self.k, device=self.counts.device) < self.counts[:, None]
        gram = (self.xx - devices.product(self.x, self.x.mT) / self.weight) * (valid[:, None] & valid[:, :, None])
        cross = ((self.xy - devices.product(self.x, self.y.mT) / self.weight) * valid[..., None]).mT
        spread = (self.yy - self.y**2 / self.weight).squeeze(-1).clamp(min=0)
        return gram, cross, spread

    def solve(self, settings: Settings) -> tuple[Surrogate, LeaveOneOut, Tensor]:
        """Fit the weighted ridge with an unpenalised intercept, after selecting parts.

        The optimum is ``beta = (X'WX + alpha I)^-1 X'Wy`` of centred data. If the system is singular, as with ``alpha=0`` and
        fewer samples than parts, the solution of least norm is taken.

        Returns
        -------
        The models, with ``scores_loo`` still NaN; their leave-one-out errors, to which the samples must be added again; and
        the weighted total sum of squares (n, l) for both scores, NaN if the output is constant.
        """
        if callable(settings.kernel):
            check(bool((self.weight > 0).all()), "kernel must return a weight above 0 for some samples; got 0 for all")
        gram, cross, spread = self.centre()
        ranks = select(gram, cross, self.counts, self.samples, settings, self.x0)
        chosen = (ranks[:, :1] >= 0).expand_as(ranks) if ranks.stride(1) == 0 else ranks >= 0
        beta, root = ridge(gram, cross, chosen, settings.alpha)
        mean, mean_y = (self.x / self.weight + self.x0[..., None]).mT, (self.y / self.weight).squeeze(-1)
        intercepts = self.y0 + mean_y - (beta * mean).sum(-1)
        residual = spread - 2 * (beta * cross).sum(-1) + (devices.product(beta, gram) * beta).sum(-1)
        constant = spread <= self.others * (CONSTANT * self.rounding * self.y0).square()
        total = spread.masked_fill(constant, torch.nan)
        fitted = Surrogate(
            coefficients=beta,
            intercepts=intercepts,
            scores=1 - residual / total,
            scores_loo=torch.full_like(total, torch.nan),
            spreads=(spread / self.others).sqrt(),
            local_predictions=intercepts + (beta * self.x0[:, None]).sum(-1),
            ranks=ranks,
        )
        return fitted, LeaveOneOut(self.weight, mean, root, beta, intercepts), total


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
        moments.add(*last)
    fitted, left_out, total = moments.solve(settings)
    left_out.add(*last)
    for some in rows[:-1]:
        left_out.add(*samples(some))
    return replace(fitted, scores_loo=1 - left_out.press / total)


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
    return solved(Moments(counts, k, outputs[:, 0]), [...], lambda _: (masks, outputs, weights), settings)
