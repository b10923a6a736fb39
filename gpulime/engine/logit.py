"""Logit link: a model of the log-probabilities; its softmax predicts saturation, which no model of the outputs does.

The model is a Gaussian process in the centred log-probabilities. Its probabilities are projected on lime's linear model with
rows that no classifier sees. The process of `gpulime.engine.gaussian_process` then estimates the slopes of the rest: the
outputs less the probabilities predicted from all other pairs. So the sum stays right where the model is wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpulime.engine import gaussian_process
from gpulime.engine.designs import Blocks
from gpulime.engine.gaussian_process import Estimate, Posterior
from gpulime.engine.proximity import proximity
from gpulime.engine.ridge import ridge
from gpulime.engine.settings import REGULAR, Settings
from gpulime.engine.walsh import Slopes

CLASSES = 24  # with the highest mean probability; all others count as one
LEAST = 1e-7  # probabilities below count as this
ROWS = 8192  # rows of the projection
INFLUENCE_ROWS = 1024  # of these, for the influence of each pair
TOGETHER = 2**22  # entries of the kernels of a projection at once


def posterior(
    rows: Tensor, outputs: Tensor, labels: Tensor, scales: Tensor, counts: Tensor, limit: Slopes, settings: Settings
) -> Estimate:
    """Estimate the slopes from pairs, with the probabilities of all classes.

    Parameters
    ----------
    rows : (n, m, k) float64, first mask of each pair as -1 and 1; 0 beyond an input's count
    outputs : (n, 2 m, classes) float64, probabilities for each mask and its complement
    labels : (n, l), classes to explain
    scales : (n, k), of the parts, for the process of the rest
    """
    z = log_probabilities(outputs, labels)
    first, second = z[:, ::2], z[:, 1::2]
    of_model = gaussian_process.scales(rows, (first - second) / 2, counts)
    model = gaussian_process.posterior(rows, first, second, of_model, limit)
    l = labels.shape[1]
    y = outputs.gather(2, labels[:, None].expand(-1, outputs.shape[1], -1))
    rest = y - (z - model.errors).softmax(-1)[..., :l]
    found = gaussian_process.posterior(rows, rest[:, ::2], rest[:, 1::2], scales, limit)
    slopes, noise, influence = _projected(model, l, counts, settings)
    variances = found.variances + noise + influence.square().sum(1)
    return Estimate(found.slopes + slopes, variances, found.influence + influence, found.left_out)


def log_probabilities(outputs: Tensor, labels: Tensor) -> Tensor:
    """Centred log-probabilities (n, s, l + more): the labels, the most probable other classes, and all the rest as one."""
    l, classes = labels.shape[1], outputs.shape[2]
    size = outputs.mean(1).scatter(1, labels, 2.0)
    others = size.topk(min(classes, max(CLASSES, l)), dim=1).indices[:, l:]
    chosen = torch.cat([labels, others], 1)
    p = outputs.gather(2, chosen[:, None].expand(-1, outputs.shape[1], -1))
    if chosen.shape[1] < classes:
        p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
    z = p.clamp(min=LEAST).log()
    return z - z.mean(-1, keepdim=True)


def _projected(model: Posterior, l: int, counts: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the model's first l probabilities in lime's linear model.

    Returns
    -------
    slopes, variances : (n, l, k); the variances are those that the choice of rows adds
    influence : (n, m, l, k), first-order change of the slopes without each pair
    """
    n, m, k = model.rows.shape
    masks = Blocks(1, ROWS).draw(torch.zeros_like(counts), counts, k, 1, ROWS + 1)
    valid = torch.arange(k, device=counts.device) < counts[:, None]
    masks = masks & valid[:, None]
    w = proximity(masks, counts, settings)
    x = torch.where(masks, 1.0, -1.0).double() * valid[:, None]
    pieces = x.split(max(1, TOGETHER // (n * m)), 1)
    p = torch.cat([model.predict(piece).softmax(-1) for piece in pieces], 1)
    slopes, noise = _slopes(x, w, p[..., :l], valid)
    few = slice(0, INFLUENCE_ROWS)
    x, w, p = x[:, few], w[:, few], p[:, few]
    odd, even = model.smoothed(x)
    influence = []
    for i in range(l):
        change = odd * (model.odd.left_out[:, None, :, i] - p @ model.odd.left_out.mT)
        change = change + even * (model.even.left_out[:, None, :, i] - p @ model.even.left_out.mT)
        influence.append(_slopes(x, w, p[..., i, None] * change, valid)[0])
    return slopes, noise, torch.stack(influence, 2)


def _slopes(x: Tensor, w: Tensor, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (n, l, k) of values (n, r, l) in a fit to rows x (n, r, k) of -1 and 1 with weights w (n, r), per unit of z.

    Also returns their variance over the choice of pairs of rows.
    """
    share = (w / w.sum(1, keepdim=True))[..., None]
    x = x - (share * x).sum(1, keepdim=True)
    weighted = (x * share).mT
    values = values - (share * values).sum(1, keepdim=True)
    n, _, k = x.shape
    chosen = valid[:, None].expand(n, values.shape[2], k)
    beta, root = ridge(weighted @ x, (weighted @ values).mT, chosen, REGULAR)
    error = share * (values - x @ beta.mT)
    influence = x @ (root[:, 0].mT @ root[:, 0])
    both = error.square().mT @ influence.square()
    both = both + 2 * (error[:, ::2] * error[:, 1::2]).mT @ (influence[:, ::2] * influence[:, 1::2])
    return 2 * beta, 4 * both
