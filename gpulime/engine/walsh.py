"""LIME's limit in closed form: slopes of the weighted linear fit to all 2^k masks, for products of mask entries.

With x = 2 z - 1 in {-1, 1}^k, every function of a mask is a sum of products ``chi_S(x) = prod_{j in S} x_j`` (Walsh functions).
The weight of a mask depends only on how many parts it shows, so the slope of part j in the fit to chi_S depends only on
d = |S| and on whether j is in S: `Slopes` holds these numbers. They follow from ``omega_d = E[w chi_S]`` and the normal
equations of the fit on (1, x):

    [[o_0, o_1 1'], [o_1 1, (o_0 - o_2) I + o_2 1 1']] (b_0, b) = E[w (1, x) chi_S]

A kernel of order d, ``e_d(p_1 a_1 b_1, ..., p_k a_k b_k)`` with the elementary symmetric polynomial e_d, is a sum of products
of order d, so its slopes are closed forms, too (`sections`).

References
----------
O'Donnell, "Analysis of Boolean functions", 2014 (Walsh functions; Krawtchouk polynomials).
Garreau and Mardaoui, "What does LIME really see in images?", ICML 2021 (the limit for images).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine.proximity import proximity
from gpulime.errors import check

if TYPE_CHECKING:
    from gpulime.engine.settings import Settings

ORDERS = 3  # of kernels; with lime's weights, products of higher order have slopes below 1e-4 of the first
MOST_BEYOND = 0.1  # of the first order's slope, that of the first order above
EXACT = 1e-6


@dataclass(frozen=True)
class Slopes:
    """Slopes, per unit of z, of a product of order d: (n, orders + 1) float64 each, d in the last dimension."""

    inside: Tensor  # of a part that is in the product
    outside: Tensor  # of any other part
    counts: Tensor | None = None  # (n,) parts, for Shapley values: unlike lime's slopes, they depend on products of all orders


def limit(counts: Tensor, k: int, settings: Settings, orders: int = ORDERS) -> Slopes:
    """Slopes of products of each order up to ``orders`` for inputs with ``counts`` (n,) parts, at most k."""
    if settings.kernel == "shapley":  # the parts of a product share chi_S(all) - chi_S(none) equally
        order = torch.arange(orders + 1, device=counts.device)
        odd = (order % 2 == 1) & (order <= counts[:, None])
        inside = 2 * odd.double() / order.clamp(min=1)
        return Slopes(inside, torch.zeros_like(inside), counts)
    return _slopes(_weights(counts, k, settings), counts, orders)


def scatter(counts: Tensor, k: int, settings: Settings) -> Tensor:
    """Weighted scatter (n, k, k) of the entries z of all masks, for weights that sum to 1; 0 beyond an input's count."""
    share, t = _shares(_weights(counts, k, settings), counts), counts[:, None].double()
    shown = torch.arange(k + 1, dtype=torch.float64, device=counts.device)
    mean = (share * shown).sum(-1, keepdim=True)
    apart = (share * shown * (t - shown)).sum(-1) / (t * (t - 1)).clamp(min=1)[:, 0]  # E[w z_j (1 - z_l)]
    whole = (share * (shown - mean).square()).sum(-1)  # of the number of shown parts
    common = (whole - counts * apart) / counts.double().square()
    eye, valid = (
        torch.eye(k, dtype=torch.float64, device=counts.device),
        torch.arange(k, device=counts.device) < counts[:, None],
    )
    return (apart[:, None, None] * eye + common[:, None, None]) * (valid[:, None] & valid[:, :, None])


def check_kernel(count: int, settings: Settings, whole: bool) -> None:
    """Fail if the slopes of an input with ``count`` parts do not exist, or depend on products of many parts.

    The latter does not matter if its masks are all that exist, the ``whole`` 2^count.

    Raises
    ------
    GpulimeError
        If the kernel gives nearly all weight to masks near the whole input, to masks of one size, or to none.
    """
    found = limit(torch.tensor([count]), count, settings, ORDERS + 2)
    first, outside = float(found.inside[0, 1]), float(found.outside[0, 1])
    few = f"kernel={settings.kernel!r} with kernel_width={settings.kernel_width!r} and distance={settings.distance!r}"
    little, larger = (
        f"too little weight to most masks of {count} parts",
        "take a larger kernel_width (0.25 is lime's for images)",
    )
    # The slope of a single part is 2 by definition, so another number is a singular system. A comparison with NaN is false.
    exists = abs(first - 2) < EXACT and abs(outside) < EXACT
    check(exists, f"{few} gives {little} for estimator={settings.estimator!r}: {larger}")
    # Two orders, since one is 0 for weights that are symmetric in size.
    beyond = float(found.inside[0, ORDERS + 1 :].abs().max())
    check(
        whole or beyond <= MOST_BEYOND * 2,
        f"{few} gives {little} for estimator='gp', which knows products of up to {ORDERS} parts: {larger}",
    )


def _weights(counts: Tensor, k: int, settings: Settings) -> Tensor:
    """Weights (n, k + 1) of masks that show 0 to k parts."""
    shown = torch.arange(k + 1, device=counts.device)
    by_shown = (torch.arange(k, device=counts.device) < shown[:, None]).expand(len(counts), k + 1, k)
    return proximity(by_shown & (shown[:-1] < counts[:, None])[:, None], counts, settings)


def _shares(weights: Tensor, counts: Tensor) -> Tensor:
    """Shares (n, k + 1) of the total weight by the number of shown parts; weights beyond a count are ignored."""
    k, shown = counts[:, None], torch.arange(weights.shape[1], device=weights.device)
    log = _log_factorials(weights.shape[1] - 1, weights.device)
    log_share = log[k] - log[shown] - log[(k - shown).clamp(min=0)] - k * math.log(2)
    mass = weights * log_share.exp().masked_fill(shown > k, 0.0)
    share: Tensor = mass / mass.sum(-1, keepdim=True)
    return share


def _log_factorials(most: int, device: torch.device) -> Tensor:
    """Logarithms (most + 1,) of 0!, 1!, ... as sums, since PyTorch compiles lgamma at run time on a GPU."""
    return devices.sent(torch.arange(most + 1).clamp(min=1).double().log().cumsum(0), device)


def _slopes(weights: Tensor, counts: Tensor, orders: int = ORDERS) -> Slopes:
    """The same from the weights (n, k + 1) of masks that show 0 to k parts; entries beyond a count are ignored."""
    k = counts[:, None].double()
    shown = torch.arange(weights.shape[1], dtype=torch.float64, device=weights.device)
    share = _shares(weights, counts)
    # The mean of chi_S over |S| = d, at a mask that shows `shown` parts: normalised Krawtchouk polynomials, by recursion.
    mean = [torch.ones_like(share), (2 * shown - k) / k]
    for d in range(1, orders + 1):
        mean.append(((2 * shown - k) * mean[d] - d * mean[d - 1]) / (k - d).clamp(min=1))
    chi = torch.stack(mean, -1)  # (n, k + 1, orders + 2); orders above k are not used
    # The mean slope of all parts is that of chi_S on the number of shown parts. Sums of centred terms keep their digits if
    # nearly all weight is on one number.
    step = shown - (share * shown).sum(-1, keepdim=True)
    centred = chi[..., :-1] - (share[..., None] * chi[..., :-1]).sum(1, keepdim=True)
    level = (share * step)[:, None] @ centred / (share * step.square()).sum(-1)[:, None, None]
    # Parts of the product differ from all others by E[w (chi_{d - 1} - chi_{d + 1})] / (o_0 - o_2), times 2 per unit of z.
    below = torch.cat([chi[..., :1], chi[..., :-2]], -1)
    spread = (share * shown * (k - shown)).sum(-1, keepdim=True).where(k > 1, 1.0)
    apart = (share[:, None] @ (below - chi[..., 1:]))[:, 0] * k * (k - 1) / (2 * spread)
    order = torch.arange(orders + 1, dtype=torch.float64, device=share.device)
    inside, outside = (level[:, 0] + apart * part for part in ((k - order) / k, -order / k))
    exists = order <= k
    return Slopes(inside.masked_fill(~exists, 0.0), outside.masked_fill(~(exists & (order < k)), 0.0))


def symmetric(u: Tensor) -> list[Tensor]:
    """Elementary symmetric polynomials e_0 to e_3 of the last dimension, by Newton's identities."""
    p1, p2, p3 = (u.pow(m).sum(-1) for m in (1, 2, 3))
    return [torch.ones_like(p1), p1, (p1.square() - p2) / 2, (p1 * (p1.square() - 3 * p2) + 2 * p3) / 6]


def _without(u: Tensor) -> list[Tensor]:
    """The same polynomials without entry j, for every j: (..., k) each."""
    e = symmetric(u)
    left = [torch.ones_like(u)]
    for d in range(1, ORDERS + 1):
        left.append(e[d][..., None] - u * left[d - 1])
    return left


def norms(scales: Tensor) -> list[Tensor]:
    """e_1(p) to e_3(p) of scales (n, k), (n,) each; 1 for orders above the number of parts, whose kernels are 0."""
    tiny = 1e-12 * scales.sum(-1)
    return [e.where(e > tiny**d, 1.0) for d, e in enumerate(symmetric(scales)[1:], 1)]


def kernels(a: Tensor, b: Tensor, scales: Tensor) -> list[Tensor]:
    """Kernels of the orders 1 to 3 between rows a (n, r, k) and b (n, m, k) of -1 and 1.

    ``scales`` (n, k) are the p_j, 0 beyond an input's count. Kernel d, (n, r, m), is ``e_d(p a b) / e_d(p)``: 1 for equal rows.
    """
    p1, p3 = ((a * scales[:, None] ** m) @ b.mT for m in (1, 3))
    p2 = scales.square().sum(-1)[:, None, None]  # the square of a product of entries is 1
    n1, n2, n3 = (norm[:, None, None] for norm in norms(scales))
    square = p1.square()
    return [p1 / n1, (square - p2) / (2 * n2), (p1 * (square - 3 * p2) + 2 * p3) / (6 * n3)]


def weighted(a: Tensor, b: Tensor, scales: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Sum of the three kernels times their weights (n, m, l) each: (n, r, l), in the dtype of ``a``."""
    w1, w2, w3 = (weight / norm[:, None, None] for weight, norm in zip(weights, norms(scales), strict=True))
    p, p2 = scales[..., None], scales.square().sum(-1)[:, None, None]
    linear = p * (b.mT @ w1) + p**3 * (b.mT @ w3) / 3
    constant = -p2 * w2.sum(1, keepdim=True) / 2
    linear, constant, w2, w3, p2, section = (one.to(a.dtype) for one in (linear, constant, w2, w3, p2, p * b.mT))
    first = a @ section
    square = first.square()
    found: Tensor = (constant + a @ linear).baddbmm_(square, w2 / 2)
    return found.baddbmm_(first.mul_(square.sub_(3 * p2)), w3 / 6)


def sections(rows: Tensor, scales: Tensor, limit: Slopes) -> list[Tensor]:
    """Slopes in the limit of each kernel's section ``x -> kernel_d(x, row)``, for rows (n, m, k): (n, m, k) for each order."""
    u = rows * scales[:, None]
    left = [one * (scales > 0)[:, None] for one in _without(u)]  # 0 beyond an input's count
    inside, outside = limit.inside[:, None, :, None], limit.outside[:, None, :, None]
    return [
        (inside[:, :, d] * u * left[d - 1] + outside[:, :, d] * left[d]) / norm[:, None, None]
        for d, norm in enumerate(norms(scales), 1)
    ]


def variances(scales: Tensor, limit: Slopes) -> list[Tensor]:
    """Variance of the slopes (n, k) of a random function whose covariance is the kernel of each order."""
    left = [one * (scales > 0) for one in _without(scales)]
    inside, outside = limit.inside[..., None].square(), limit.outside[..., None].square()
    return [
        (inside[:, d] * scales * left[d - 1] + outside[:, d] * left[d]) / norm[:, None]
        for d, norm in enumerate(norms(scales), 1)
    ]


def white(rows: Tensor, scales: Tensor, limit: Slopes) -> tuple[Tensor, Tensor, Tensor] | None:
    """White noise that is an odd function of a mask, for Shapley values; None for lime's slopes, which hardly depend on it.

    Returns
    -------
    Its kernel (n, m, m) between rows (n, m, k), its sections' Shapley values (n, m, k) and their variance (n, k).
    """
    if limit.counts is None:
        return None
    alike = devices.product(rows, rows.mT)
    same = alike.sign() * (alike.abs() == limit.counts[:, None, None])  # -1 for complements
    t, c = limit.counts[:, None], torch.arange(1, rows.shape[2] + 1, device=rows.device)
    # Of the C(t - 1, c - 1) masks that show a part and c - 1 others, each has the value 2 / (t C(t - 1, c - 1)).
    log = _log_factorials(rows.shape[2], rows.device)
    each = 4 / t.double() * (log[c - 1] + log[(t - c).clamp(min=0)] - log[t]).exp()
    variance = each.masked_fill(c > t, 0.0).sum(1, keepdim=True)
    return same, shares(rows, limit.counts), variance * (scales > 0)


def shares(rows: Tensor, counts: Tensor) -> Tensor:
    """Shapley values (n, m, k) of an odd function that is 1 at a row (n, m, k), -1 at its complement and 0 elsewhere."""
    log, t, shown = _log_factorials(rows.shape[2], rows.device), counts[:, None], (rows > 0).sum(-1)
    value, other = (2 * (log[(c - 1).clamp(min=0)] + log[t - c] - log[t]).exp()[..., None] for c in (shown, t - shown))
    return torch.where(rows > 0, value, -other) * (rows != 0)
