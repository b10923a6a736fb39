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
    x = regressors.double()
    x = x.sub_(moments.x0[:, None]) if x is not regressors else x - moments.x0[:, None]
    y = outputs - moments.y0[:, None]
    moments.sums, moments.samples = _sums(x, y, weights, repeated), x.shape[1] if repeated is None else int(repeated[0].sum())
    fitted, left_out, total = moments.solve(settings)
    residual = outputs - fitted.local_predictions[:, None] - x @ fitted.coefficients.mT
    if repeated is not None:
        residual = (repeated[0][:, None] * (residual.square() + repeated[1])).sqrt()
    centred = x.sub_(left_out.mean - moments.x0[:, None])
    press, variances = _errors(left_out, centred, residual, weights)
    return replace(fitted, scores_loo=1 - press / total, standard_errors=variances.sqrt())


def _sums(x: Tensor, y: Tensor, weights: Tensor, repeated: tuple[Tensor, Tensor] | None) -> Sums:
    """Weighted sums of regressors x (n, s, k) and outputs y (n, s, l) relative to those of sample 0."""
    w = (weights if repeated is None else weights * repeated[0])[..., None]
    xw = (x * w).mT
    squares = y.square() if repeated is None else y.square() + repeated[1]
    return Sums(
        weight=w.sum(1, keepdim=True),
        others=w[:, 1:].sum(1),
        x=(w.mT @ x).mT,
        y=(w.mT @ y).mT,
        xx=xw @ x,
        xy=xw @ y,
        yy=(w.mT @ squares).mT,
    )


def _errors(left_out: LeaveOneOut, x: Tensor, residual: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """As `LeaveOneOut.errors`, from centred regressors ``x`` (n, s, k) and the models' residuals (n, s, l).

    The leverage of a row d is read from its influence ``d A``, with the inverse A of the system: ``d A d'``.
    """
    w = weights[..., None]
    groups = residual.split(1, -1) if left_out.root.shape[1] > 1 else [residual]
    press, variances = [], []
    for root, of_labels in zip(left_out.root.unbind(1), groups, strict=True):
        influence = x @ (root.mT @ root)
        leverage = torch.einsum("nsk,nsk->ns", influence, x)[..., None]
        free = 1 - w * (leverage + 1 / left_out.weight)
        error = of_labels / free.where(free > LEAST_FREE, torch.nan)
        press.append((w * error.square()).sum(1))
        variances.append((w * error).square_().mT @ influence.square_())
    return torch.cat(press, 1), torch.cat(variances, 1)
