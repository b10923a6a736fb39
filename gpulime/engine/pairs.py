"""Surrogate from complement pairs of masks: slopes of lime's limit by a Gaussian process, and the linear model with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpulime.engine import gaussian_process, logit, walsh
from gpulime.engine.gaussian_process import Estimate, Prior
from gpulime.engine.proximity import proximity
from gpulime.engine.ridge import ridge
from gpulime.engine.selection import select
from gpulime.engine.settings import REGULAR, Settings
from gpulime.engine.surrogate import CONSTANT, Surrogate
from gpulime.errors import stage

MANY = 1_000_000  # masks, which stand for all: penalties of the selection are for sums over masks


@stage("surrogate")
def solved(masks: Tensor, outputs: Tensor, labels: Tensor, fresh: Tensor, counts: Tensor, settings: Settings) -> Surrogate:
    """Estimate the surrogates' slopes from pairs: rows 1 and 2, 3 and 4, ...; a last row without a partner is ignored.

    Parameters
    ----------
    masks : (n, s, k) bool, row 0 all True; False beyond an input's count
    outputs : (n, s, classes)
    labels : (n, l), classes to explain
    fresh : (n, l) bool, False for labels that repeat an earlier one: they have no part in the estimate, and get no model
    counts : (n,) parts of each input
    """
    s, k = masks.shape[1:]
    pairs = slice(1, s - (s - 1) % 2)
    valid = torch.arange(k, device=counts.device) < counts[:, None]
    z, all_y = masks[:, pairs].double(), outputs[:, pairs].double()
    y = all_y.gather(2, labels[:, None].expand(-1, all_y.shape[1], -1)) * fresh[:, None]
    rows = (2 * z[:, ::2] - 1) * valid[:, None]
    scales = gaussian_process.scales(rows, (y[:, ::2] - y[:, 1::2]) / 2, counts)
    estimates: list[Estimate] = []
    prior = Prior.of(rows, scales, walsh.limit(counts, k, settings))
    if settings.link != "logit":
        estimates.append(gaussian_process.posterior(prior, y[:, ::2], y[:, 1::2]).with_jackknife())
    if settings.link != "identity":
        estimates.append(logit.posterior(prior, all_y, labels, fresh, counts, settings))
    found = estimates[0] if len(estimates) == 1 else _better(estimates, logit.probabilities(all_y).all(1))
    ranks = torch.arange(k, device=z.device).expand_as(found.slopes)
    if settings.selects:
        found, ranks = selected(found, counts, settings)
    whole = outputs[:, 0].gather(1, labels)
    return _linear(z, y, proximity(masks[:, pairs], counts, settings), found, whole, ranks)


def selected(found: Estimate, counts: Tensor, settings: Settings) -> tuple[Estimate, Tensor]:
    """Slopes of the fit to some parts, which are chosen by lime's rules, and the ranks (n, l, k) of the choice.

    The slopes of all parts are all that it depends on, since the scatter of all masks is known. As with "wls", errors are those
    for this choice. The scatter has equal diagonals and, beside them, equal entries near 0, so slopes hardly change.
    """
    scatter = walsh.scatter(counts, found.slopes.shape[2], settings) * MANY
    cross = found.slopes @ scatter
    ranks = select(scatter, cross, counts, MANY, settings, torch.ones_like(scatter[:1, 0]))
    chosen = ranks >= 0
    slopes, root = ridge(scatter, cross, chosen, REGULAR)
    fit = scatter[:, None] @ (root.mT @ root)  # of slopes (..., k) of all parts, from the right
    influence = (found.influence.transpose(1, 2) @ fit).transpose(1, 2)
    # The process tells variances of slopes, not how they vary together; that is known from the pairs left out.
    change = influence.square().sum(1) - found.influence.square().sum(1)
    variances = (found.variances + change).clamp(min=0) * chosen
    return Estimate(slopes, variances, influence, found.left_out), ranks


def _better(estimates: Sequence[Estimate], possible: Tensor) -> Estimate:
    """Average two estimates by how well each predicts the odd part of a left-out pair, pooled over an input's labels.

    The second one is left out for inputs without ``possible`` (n,).
    """
    m = estimates[0].left_out.shape[1]
    each = torch.stack([-0.5 * m * found.left_out.square().mean(1).clamp(min=1e-300).log().sum(1) for found in estimates])
    share = torch.stack([each[0], each[1].masked_fill(~possible, -torch.inf)]).softmax(0)

    def mixed(name: str) -> Tensor:
        values = torch.stack([getattr(found, name) for found in estimates])
        return (share.view(2, -1, *[1] * (values.ndim - 2)) * values).sum(0)

    slopes = mixed("slopes")
    distances = [(found.slopes - slopes).square() for found in estimates]
    between = (share[..., None, None] * torch.stack(distances)).sum(0)
    return Estimate(slopes, mixed("variances") + between, mixed("influence"), mixed("left_out"))


def _linear(z: Tensor, y: Tensor, w: Tensor, found: Estimate, whole: Tensor, ranks: Tensor) -> Surrogate:
    """Linear models with the slopes found: intercepts, and scores on the rows of the pairs.

    Parameters
    ----------
    z, y, w : (n, 2 m, k), (n, 2 m, l), (n, 2 m), masks, outputs and weights of the pairs
    whole : (n, l), outputs of row 0
    """
    slopes = found.slopes
    total = w.sum(1)[:, None]
    mean_y, mean_z = (w[:, None] @ y)[:, 0] / total, (w[:, None] @ z)[:, 0] / total
    residual = (y - mean_y[:, None]) - (z - mean_z[:, None]) @ slopes.mT
    spread = (w[..., None] * (y - mean_y[:, None]).square()).sum(1)
    rounding = torch.finfo(whole.dtype).eps
    power = spread.masked_fill(spread <= total * (CONSTANT * rounding * whole.double()).square(), torch.nan)
    # Without a pair its weights leave the means, and its influence leaves the slopes.
    of_pair = w.unflatten(1, (-1, 2))
    left = total - of_pair.sum(2)
    pulled_y = (of_pair[..., None] * (y - mean_y[:, None]).unflatten(1, (-1, 2))).sum(2) / left[..., None]
    pulled_z = (of_pair[..., None] * (z - mean_z[:, None]).unflatten(1, (-1, 2))).sum(2) / left[..., None]
    without = slopes[:, None] - found.influence
    centred = (z - mean_z[:, None]).unflatten(1, (-1, 2)) + pulled_z[:, :, None]
    errors = (y - mean_y[:, None]).unflatten(1, (-1, 2)) + pulled_y[:, :, None] - centred @ without.mT
    press = (of_pair[..., None] * errors.square()).sum((1, 2))
    intercepts = mean_y - (slopes @ mean_z[..., None])[..., 0]
    return Surrogate(
        coefficients=slopes,
        standard_errors=found.variances.sqrt(),
        intercepts=intercepts,
        scores=1 - (w[..., None] * residual.square()).sum(1) / power,
        scores_loo=1 - press / power,
        spreads=(spread / total).sqrt(),
        local_predictions=intercepts + slopes.sum(-1),
        ranks=ranks,
    )
