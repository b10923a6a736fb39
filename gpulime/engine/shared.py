"""Fits of inputs that share their samples, all samples of an input at once: a few matrix products per input.

The results equal those of `gpulime.engine.surrogate.solved`, which takes samples in pieces of any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpulime.engine.ridge import LEAST_FREE, LeaveOneOut
from gpulime.engine.settings import Settings
from gpulime.engine.surrogate import Moments, Sums, Surrogate


@dataclass(frozen=True)
class Repeats:
    """Samples with equal regressors for every input, each kept once, after sample 0.

    Attributes
    ----------
    first : (g,) int64, one sample of each group
    counts : (g,) float64, its samples
    means, variances : (g, classes) float64, of their outputs
    """

    first: Tensor
    counts: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def of(cls, groups: Tensor, outputs: Tensor) -> Repeats:
        """Group samples 1 to s - 1 by their ``groups`` (s - 1,) int64, with ``outputs`` (s - 1, classes)."""
        s, y = len(groups), outputs.double()
        counts = torch.bincount(groups).double()
        g = len(counts)
        means = y.new_zeros(g, y.shape[1]).index_add_(0, groups, y) / counts[:, None]
        variances = y.new_zeros(g, y.shape[1]).index_add_(0, groups, (y - means[groups]).square()) / counts[:, None]
        first = torch.empty(g, dtype=torch.int64).index_copy_(0, groups, torch.arange(1, s + 1))
        return cls(first, counts, means, variances)


def solved(
    moments: Moments,
    regressors: Tensor,
    outputs: Tensor,
    weights: Tensor,
    settings: Settings,
    repeated: tuple[Tensor, Tensor] | None = None,
) -> Surrogate:
    """Fit linear models to all samples of some inputs.

    Parameters
    ----------
    moments : Moments, still empty
    regressors : (n, s, k); outputs : (n, s, l) float64; weights : (n, s) float64
    repeated : (s,) and (n, s, l) float64, optional
        How many samples each row stands for, and the variance of their outputs; ``outputs`` are then their means.
    settings : Settings
    """
    n, s, k = regressors.shape
    x = outputs.new_empty(n, s, k + 1)  # relative to sample 0, and ones
    x[..., :k].copy_(regressors).sub_(moments.x0[:, None])
    x[..., k] = 1
    y = outputs - moments.y0[:, None]
    moments.sums, moments.samples = _sums(x, y, weights, repeated), s if repeated is None else int(repeated[0].sum())
    fitted, left_out, total = moments.solve(settings)
    lines = torch.cat([fitted.coefficients, (fitted.local_predictions - moments.y0)[..., None]], -1)
    residual = y - x @ lines.mT
    if repeated is not None:
        residual = (repeated[0][:, None] * (residual.square() + repeated[1])).sqrt()
    press, variances = _errors(left_out, moments.x0, x, residual, weights)
    return replace(fitted, scores_loo=1 - press / total, standard_errors=variances.sqrt())


def _sums(x: Tensor, y: Tensor, weights: Tensor, repeated: tuple[Tensor, Tensor] | None) -> Sums:
    """Weighted sums of regressors and ones x (n, s, k + 1) and outputs y (n, s, l), relative to those of sample 0."""
    w = (weights if repeated is None else weights * repeated[0])[..., None]
    k = x.shape[2] - 1
    xw = (x * w).mT
    xx, xy = xw @ x, xw @ y
    squares = y.square() if repeated is None else y.square() + repeated[1]
    return Sums(
        weight=xx[:, k:, k:],
        others=w[:, 1:].sum(1),
        x=xx[:, :k, k:],
        y=xy[:, k:].mT,
        xx=xx[:, :k, :k],
        xy=xy[:, :k],
        yy=(w.mT @ squares).mT,
    )


def _errors(left_out: LeaveOneOut, x0: Tensor, x: Tensor, residual: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """As `LeaveOneOut.errors`, from regressors and ones x (n, s, k + 1) relative to sample 0, and residuals (n, s, l).

    One matrix product gives the influence ``d A`` of each centred row d, with the inverse A of the system, and with its last
    column the leverage ``d A d'``.
    """
    w, k = weights[..., None], x.shape[2] - 1
    mean = left_out.mean[:, 0] - x0  # (n, k)
    groups = residual.split(1, -1) if left_out.root.shape[1] > 1 else [residual]
    press, variances = [], []
    for root, of_labels in zip(left_out.root.unbind(1), groups, strict=True):
        turned = torch.cat([root, -root @ mean[..., None]], -1)  # d root' = [x, 1] turned'
        influence = x @ (turned.mT @ turned)
        leverage = torch.einsum("nsk,nsk->ns", influence, x)[..., None]
        free = 1 - w * (leverage + 1 / left_out.weight)
        error = of_labels / free.where(free > LEAST_FREE, torch.nan)
        press.append((w * error.square()).sum(1))
        variances.append(((w * error).square_().mT @ influence.square_())[..., :k])
    return torch.cat(press, 1), torch.cat(variances, 1)
