"""Gaussian process over masks: estimates the slopes of lime's limit from complement pairs of masks, with their errors.

A pair of rows x and -x splits the output into its odd part ``(f(x) - f(-x)) / 2``, a sum of products of 1, 3, ... parts, and
its even part ``(f(x) + f(-x)) / 2``. Each has a process of its own, whose covariance mixes kernels of these orders
(`gpulime.engine.walsh`) and noise for all others. Parts that matter alone have larger scales, so they may interact more. The
shares of the orders are averaged over a small grid by marginal likelihood. Slopes are linear in the process, so their posterior
mean and variance are closed forms.

References
----------
Rasmussen and Williams, "Gaussian processes for machine learning", 2006 (2.25, 5.8, 5.12).
O'Hagan, "Bayes-Hermite quadrature", 1991 (the posterior of a linear functional).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine import walsh
from gpulime.engine.walsh import Slopes

# Shares of the orders' kernels and of the noise, each row 1 in sum. Twice as many points change no benchmark.
ODD = [(a, (1 - a) * b, (1 - a) * (1 - b)) for a in (0.1, 0.4, 0.7, 0.9, 0.98, 0.9999) for b in (0.0, 0.45, 0.9)]
EVEN = [(a, 1 - a) for a in (0.0, 0.3, 0.6, 0.9, 0.97)]
KEPT = 4  # points of the grid that are averaged
SEARCHED = 128  # pairs that choose them; the cost of the search is cubic in these
JITTER = 1e-6
FLAT = 10.0  # prior variance of the even part's mean, in variances of the output
LEAST_SCALE = 0.02  # of a part that does not matter alone, relative to the mean


@dataclass(frozen=True)
class Process:
    """Posterior of the odd or the even part: its slopes, and what predicts it.

    Attributes
    ----------
    slopes, variances : (n, l, k)
    left_out : (n, m, l), error of the prediction of each pair from all others
    influence : (n, m, l, k), the slopes less those without this pair
    smoothers : (n, m, m) for each order of the part: the function is the sum of kernels of order d times these times the values
    values : (n, m, l)
    constant : (n, l)
    """

    slopes: Tensor
    variances: Tensor
    left_out: Tensor
    influence: Tensor
    smoothers: dict[int, Tensor]
    values: Tensor
    constant: Tensor


@dataclass(frozen=True)
class Estimate:
    """Slopes of lime's limit.

    Attributes
    ----------
    slopes, variances : (n, l, k) float64
    influence : (n, m, l, k), the slopes less those without each pair
    left_out : (n, m, l), error of the odd part of each pair, predicted from all other pairs
    """

    slopes: Tensor
    variances: Tensor
    influence: Tensor
    left_out: Tensor

    def with_jackknife(self) -> Self:
        """The same with variances of at least the sum of squares of the influence: few pairs make a process too sure."""
        return replace(self, variances=self.variances.maximum(self.influence.square().sum(1)))


@dataclass(frozen=True)
class Posterior(Estimate):
    """Posterior of functions of masks.

    Attributes
    ----------
    odd, even : Process
    mean : (n, l), mean of the even parts
    rows, scales : (n, m, k) and (n, k), the masks that were seen and the scales of the parts
    """

    odd: Process
    even: Process
    mean: Tensor
    rows: Tensor
    scales: Tensor

    @property
    def errors(self) -> Tensor:
        """Errors (n, 2 m, l) of the predictions for the rows of each pair from all other pairs."""
        odd, even = self.odd.left_out, self.even.left_out
        return torch.stack([even + odd, even - odd], 2).flatten(1, 2)

    def predict(self, rows: Tensor) -> Tensor:
        """Mean (n, r, l) at rows (n, r, k) of -1 and 1, in their dtype."""
        smoothers = self.odd.smoothers | self.even.smoothers
        values = [self.odd.values, self.even.values, self.odd.values]
        weights = [smoothers[d] @ value for d, value in enumerate(values, 1)]
        found = walsh.weighted(rows, self.rows, self.scales, weights)
        return found + (self.mean + self.even.constant)[:, None].to(rows.dtype)

    def smoothed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Effect (n, r, m) of each pair's odd and even part on the mean at rows (n, r, k)."""
        kernels = walsh.kernels(rows, self.rows, self.scales)
        odd, even = self.odd.smoothers, self.even.smoothers
        return kernels[0] @ odd[1] + kernels[2] @ odd[3], kernels[1] @ even[2]


@dataclass(frozen=True)
class Prior:
    """Covariances of functions at pairs of masks, and of their slopes; the outputs have no part in it.

    Attributes
    ----------
    rows : (n, m, k) float64, first mask of each pair as -1 and 1; 0 beyond an input's count
    scales : (n, k), from `scales`
    limit : Slopes
    kernels, sections, variances : (n, m, m), (n, m, k) and (n, k) of each order, of `gpulime.engine.walsh`
    unexpected : (n, k), variance of the slopes of interactions that the scales do not expect: of parts that do not matter alone
    white : kernel, sections and variance of white noise, or None
    """

    rows: Tensor
    scales: Tensor
    limit: Slopes
    kernels: list[Tensor]
    sections: list[Tensor]
    variances: list[Tensor]
    unexpected: Tensor
    white: tuple[Tensor, Tensor, Tensor] | None

    @classmethod
    def of(cls, rows: Tensor, scales: Tensor, limit: Slopes) -> Prior:
        """Covariances for rows, scales and the slopes of their products."""
        return cls(
            rows,
            scales,
            limit,
            walsh.kernels(rows, rows, scales),
            walsh.sections(rows, scales, limit),
            walsh.variances(scales, limit),
            walsh.variances((scales > 0).double(), limit)[1],
            walsh.white(rows, scales, limit),
        )


def posterior(prior: Prior, first: Tensor, second: Tensor) -> Posterior:
    """Posterior from outputs (n, m, l) float64 for the masks of the pairs and for their complements."""
    even = (first + second) / 2
    mean = even.mean(1)
    odd_ = _process((first - second) / 2, (1, 3), ODD, prior, 0.0, white=prior.white)
    even_ = _process(even - mean[:, None], (2,), EVEN, prior, FLAT, prior.unexpected)
    return Posterior(
        slopes=odd_.slopes + even_.slopes,
        variances=odd_.variances + even_.variances,
        influence=odd_.influence + even_.influence,
        left_out=odd_.left_out,
        odd=odd_,
        even=even_,
        mean=mean,
        rows=prior.rows,
        scales=prior.scales,
    )


def scales(rows: Tensor, odd: Tensor, counts: Tensor) -> Tensor:
    """Scale p_j of each part (n, k), ``counts`` in sum: posterior second moment of its coefficient in a linear fit.

    ``odd`` (n, m, l) are the odd parts. Empirical Bayes in closed form: all coefficients have one prior variance.
    """
    m, k = rows.shape[1:]
    valid = torch.arange(k, device=rows.device) < counts[:, None]
    share = (counts / m)[:, None].double()  # of coefficients to pairs
    eye = 0.5 * torch.eye(k, dtype=rows.dtype, device=rows.device)
    factor, _ = torch.linalg.cholesky_ex(rows.mT @ rows + eye)
    right = torch.linalg.solve_triangular(factor, rows.mT @ odd, upper=False)
    b = torch.linalg.solve_triangular(factor.mT, right, upper=True)
    power, total = b.square().sum(1), odd.square().mean(1)
    noise = ((total - power) / (1 - share).clamp(min=0.1)).maximum(0.02 * total)
    shrunk = (1 - share * noise / power.clamp(min=1e-300)).clamp(min=0.05)
    moments = (shrunk[:, None] * b).square() + (shrunk * noise / m)[:, None]
    moments = (moments / total.clamp(min=1e-300)[:, None]).mean(2).masked_fill(~valid, 0.0)
    mean = moments.sum(1, keepdim=True) / counts[:, None]
    found: Tensor = (moments / mean.where(mean > 0, 1.0) + LEAST_SCALE).masked_fill(~valid, 0.0)
    return found * (counts[:, None] / found.sum(1, keepdim=True))


def _process(
    values: Tensor,
    orders: tuple[int, ...],
    grid: Sequence[tuple[float, ...]],
    prior: Prior,
    flat: float,
    unexpected: Tensor | None = None,
    white: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Process:
    """Posterior of a part with ``values`` (n, m, l), averaged over the best points of the grid.

    ``unexpected`` (n, k) are variances of the noise's slopes, of which the values tell nothing; ``white`` are kernel, sections
    and variances of noise whose slopes they do tell.
    """
    kernels, sections, variances = (
        [of_order[d - 1] for d in orders] for of_order in (prior.kernels, prior.sections, prior.variances)
    )
    if unexpected is not None:
        variances = [*variances, unexpected]
    if white is not None:
        sections, variances = [*sections, white[1]], [*variances, white[2]]
    m = values.shape[1]
    size = values.square().mean(1).sqrt()
    known = size > 1e-12
    scaled = values / size.where(known, 1.0)[:, None]
    shares = devices.sent(torch.tensor(grid, dtype=values.dtype), values.device)
    eye = torch.eye(m, dtype=values.dtype, device=values.device)

    def covariance(some: Tensor, few: slice = slice(None)) -> Tensor:
        """(n, g, m, m) for shares (n or 1, g, orders + 1), of some pairs."""
        found = some[..., 0, None, None] * kernels[0][:, None, few, few]
        for i, kernel in enumerate(kernels[1:], 1):
            found.addcmul_(some[..., i, None, None], kernel[:, None, few, few])
        if white is not None:
            found.addcmul_(some[..., -1, None, None], white[0][:, None, few, few])
        found.diagonal(dim1=-2, dim2=-1).add_(JITTER if white is not None else some[..., -1:] + JITTER)
        return found.add_(flat) if flat else found

    few = slice(SEARCHED)
    each = [_likelihood(covariance(some[None], few), scaled[:, few], known) for some in shares.split(8)]
    likelihoods = torch.cat(each, 1)
    best, chosen = likelihoods.topk(min(KEPT, len(grid)), dim=1)
    mix = (best - best[:, :1]).exp()
    mix = (mix / mix.sum(1, keepdim=True))[..., None, None]  # (n, g, 1, 1)
    some = shares[chosen]
    factor, _ = torch.linalg.cholesky_ex(covariance(some))
    root = torch.linalg.solve_triangular(factor, eye, upper=False)
    inverse = root.mT @ root
    solved = inverse @ scaled[:, None]  # (n, g, m, l)
    q = ((scaled[:, None] * solved).sum(2) / m).clamp(min=1e-300)  # (n, g, l), variance of each label
    each_share = [*some[..., :-1].unbind(-1), some[..., -1] + JITTER]
    section = torch.stack([a[..., None, None] * one[:, None] for a, one in zip(each_share, sections, strict=False)]).sum(0)
    expected = torch.stack([a[..., None] * one[:, None] for a, one in zip(each_share, variances, strict=False)]).sum(0)
    slopes = solved.mT @ section  # (n, g, l, k)
    half = root @ section
    left = (expected - half.square().sum(2)).clamp(min=0)
    mean = (mix * slopes).sum(1)
    variance = (mix * (q[..., None] * left[:, :, None] + slopes.square())).sum(1) - mean.square()
    errors = solved / inverse.diagonal(dim1=-2, dim2=-1)[..., None]
    unit = size.where(known, 0.0)
    smoothers = {d: (mix * some[..., i, None, None] * inverse).sum(1) for i, d in enumerate(orders)}
    return Process(
        slopes=mean * unit[..., None],
        variances=variance.clamp(min=0) * unit[..., None].square(),
        left_out=(mix * errors).sum(1) * unit[:, None],
        influence=torch.einsum("ngml,ngmk->nmlk", mix * errors, inverse @ section) * unit[:, None, :, None],
        smoothers=smoothers,
        values=values,
        constant=flat * (mix * solved).sum((1, 2)) * unit,
    )


def _likelihood(covariance: Tensor, scaled: Tensor, known: Tensor) -> Tensor:
    """Log marginal likelihood (n, g), each label's variance at its best value, summed over the labels that vary."""
    factor, _ = torch.linalg.cholesky_ex(covariance)
    half = torch.linalg.solve_triangular(factor, scaled[:, None].expand(-1, factor.shape[1], -1, -1), upper=False)
    m = scaled.shape[1]
    q = (half.square().sum(2) / m).clamp(min=1e-300)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    each: Tensor = -0.5 * m * q.log() - log_det[..., None]
    return each.masked_fill(~known[:, None], 0.0).sum(-1)
