"""Logit link: a model of the log-probabilities; its softmax predicts saturation, which no model of the outputs does.

The model is a Gaussian process in the centred log-probabilities. Its probabilities are projected on lime's linear model with
rows that no classifier sees. The process of `gpulime.engine.gaussian_process` then estimates the slopes of the rest: the
outputs less the probabilities predicted from all other pairs. So the sum stays right where the model is wrong.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from gpulime.engine import gaussian_process
from gpulime.engine.designs import hadamard
from gpulime.engine.gaussian_process import Estimate, Posterior, Prior
from gpulime.engine.proximity import proximity
from gpulime.engine.ridge import ridge
from gpulime.engine.settings import REGULAR, Settings

CLASSES = 24  # with the highest mean probability; all others count as one
NEAR = 1e-2  # of a sum of probabilities to 1, in bfloat16, too
LEAST = 1e-7  # probabilities below count as this
ROWS = 8192  # rows of the projection, a single block
PROJECTION = -1  # its seed
INFLUENCE_ROWS = 1024  # of these, for the influence of each pair
# Entries of the kernels of a projection at once: few on a CPU, to stay in its cache.
TOGETHER = defaultdict(lambda: 2**25, cpu=2**19)


def posterior(prior: Prior, outputs: Tensor, labels: Tensor, fresh: Tensor, counts: Tensor, settings: Settings) -> Estimate:
    """Estimate the slopes from pairs, with the probabilities of all classes.

    Parameters
    ----------
    prior : Prior, of the process of the rest
    outputs : (n, 2 m, classes) float64, probabilities for each mask and its complement
    labels : (n, l), classes to explain
    fresh : (n, l) bool, False for labels that repeat an earlier one
    counts : (n,) parts of each input
    """
    z, place = log_probabilities(outputs, labels)
    first, second = z[:, ::2], z[:, 1::2]
    of_model = gaussian_process.scales(prior.rows, (first - second) / 2, counts)
    model = gaussian_process.posterior(Prior.of(prior.rows, of_model, prior.limit), first, second)
    predicted = (z - model.errors).softmax(-1)
    rest = (_of(outputs, labels) - _of(predicted, place)) * fresh[:, None]
    found = gaussian_process.posterior(prior, rest[:, ::2], rest[:, 1::2])
    slopes, noise, influence = _projected(model, place, counts, settings)
    variances = found.variances + noise + influence.square().sum(1)
    return Estimate(found.slopes + slopes, variances, found.influence + influence, found.left_out)


def probabilities(outputs: Tensor) -> Tensor:
    """Tell for each row of outputs (..., classes) if they are probabilities that sum to 1: (...) bool."""
    return (outputs >= 0).all(-1) & ((outputs.sum(-1) - 1).abs() < NEAR)


def _of(values: Tensor, place: Tensor) -> Tensor:
    """Columns ``place`` (n, l) of values (n, s, classes)."""
    return values.gather(2, place[:, None].expand(-1, values.shape[1], -1))


def log_probabilities(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Centred log-probabilities of the most probable classes, the labels among them, and of all other classes as one.

    Returns
    -------
    (n, s, classes or less), and the place (n, l) of each label in it
    """
    l, classes = labels.shape[1], outputs.shape[2]
    mean = outputs.mean(1)
    wanted = torch.zeros_like(mean).scatter(1, labels, 2.0)  # above any mean
    chosen = (mean + wanted).topk(min(classes, max(CLASSES, l)), dim=1).indices
    place = (chosen[:, None] == labels[..., None]).int().argmax(-1)
    p = _of(outputs, chosen)
    if chosen.shape[1] < classes:
        p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
    z = p.clamp(min=LEAST).log()
    return z - z.mean(-1, keepdim=True), place


def _projected(model: Posterior, place: Tensor, counts: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the model's probabilities at ``place`` (n, l) in lime's linear model.

    Returns
    -------
    slopes, variances : (n, l, k); the variances are those that the choice of rows adds
    influence : (n, m, l, k), first-order change of the slopes without each pair
    """
    n, m, k = model.rows.shape
    valid = torch.arange(k, device=counts.device) < counts[:, None]
    block = hadamard(torch.zeros_like(counts[:1]), max(ROWS // 2, 2 ** k.bit_length()), k, 0, 1, PROJECTION)
    masks = block & valid[:, None]
    w = proximity(masks, counts, settings)
    x = torch.where(masks, 1.0, -1.0) * valid[:, None]  # float32: rounding is far below the noise of the rows
    pieces = x.split(max(1, TOGETHER[x.device.type] // (n * m)), 1)
    p = torch.cat([model.predict(piece).softmax(-1) for piece in pieces], 1)
    slopes, noise = _slopes(x, w.float(), _of(p, place), valid)
    few = slice(0, INFLUENCE_ROWS)
    return slopes, noise, _influence(model, x[:, few].double(), w[:, few], p[:, few].double(), place, valid)


def _influence(model: Posterior, x: Tensor, w: Tensor, p: Tensor, place: Tensor, valid: Tensor) -> Tensor:
    """First-order change (n, m, l, k) of the slopes of the probabilities p (n, r, classes) at ``place`` by each pair."""
    odd, even = model.smoothed(x)
    left_odd, left_even = model.odd.left_out, model.even.left_out
    # A pair moves the log-probability of class c by odd * left_odd_c + even * left_even_c, and so its probability by p_c times
    # that less its mean over the classes.
    mean = odd * (p @ left_odd.mT) + even * (p @ left_even.mT)
    inverse, weighted = _fit(x, w, valid)
    fit = inverse @ weighted
    found = []
    for of_label in place.split(1, dim=1):
        of_class = fit * _of(p, of_label).mT
        from_odd, from_even = _of(left_odd, of_label).mT, _of(left_even, of_label).mT
        change = (of_class @ odd) * from_odd + (of_class @ even) * from_even - of_class @ mean
        found.append(change.mT)
    return torch.stack(found, 2)


def _fit(x: Tensor, w: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted fit of slopes to rows x (n, r, k) of -1 and 1 with weights w (n, r), per unit of z.

    Returns
    -------
    inverse : (n, k, k), weighted : (n, k, r); the slopes of values (n, r, l) are their product with these
    """
    share = (w / w.sum(1, keepdim=True))[..., None]
    weighted = ((x - (share * x).sum(1, keepdim=True)) * share).mT
    gram = (weighted @ x).double()
    root = ridge(gram, torch.zeros_like(gram[:, :1]), valid[:, None], REGULAR)[1][:, 0]
    return (2 * root.mT @ root).to(x.dtype), weighted


def _slopes(x: Tensor, w: Tensor, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (n, l, k) of values (n, r, l) in the fit to rows x, and their variance over the choice of the rows' pairs."""
    inverse, weighted = _fit(x, w, valid)
    values = values - values.mean(1, keepdim=True)
    slopes = inverse @ (weighted @ values)
    share = (w / w.sum(1, keepdim=True))[..., None]
    error = values - x @ (slopes / 2)
    error = share * (error - (share * error).sum(1, keepdim=True))
    # Rows 2 i and 2 i + 1 are complements, so their terms have opposite signs, and equal sizes for all parts.
    noise = (error[:, ::2] - error[:, 1::2]).square().sum(1)
    variances = noise[..., None] * inverse.diagonal(dim1=-2, dim2=-1).square()[:, None]
    return slopes.mT.double(), variances.double()
