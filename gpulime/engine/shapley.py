"""Shapley values of the parts: how the output for the whole input, less that for an empty one, is shared among them.

For an odd function of a mask, such as ``(f(x) - f(-x)) / 2``, they are all that counts: even functions have none. The whole and
the empty input are a pair that stands outside the design, and the values always add up to the difference of its outputs.

References
----------
Shapley, "A value for n-person games", 1953.
Lundberg and Lee, "A unified approach to interpreting model predictions", NeurIPS 2017 (KernelSHAP).
Covert and Lee, "Improving KernelSHAP", AISTATS 2021 (pairs, standard errors).
Musco and Witter, "Provably accurate Shapley value estimation via leverage score sampling", ICLR 2025 (more even sizes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine import gaussian_process, walsh
from gpulime.engine.designs import Antithetic
from gpulime.engine.gaussian_process import Prior
from gpulime.engine.ridge import LEAST_FREE
from gpulime.engine.settings import REGULAR, Settings
from gpulime.engine.surrogate import CONSTANT, Surrogate
from gpulime.errors import stage
from gpulime.ops.bernoulli import philox4x32

WORD = 0xFFFFFFFF
GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill [0, 1) evenly


class Sizes(Antithetic):
    """Complement pairs of masks, of which one shows z parts of k with probability proportional to ``1 / sqrt(z (k - z))``.

    This lies between KernelSHAP's sizes, ``1 / (z (k - z))``, and even ones, and measures better than both. The masks of blocks
    show about half of the parts, so they miss how an output depends on the size. Rows 0 and 1 show everything and nothing.
    """

    outside = 2

    def draw(self, keys: Tensor, counts: Tensor, k: int, start: int, stop: int) -> Tensor:
        """Draw rows ``start`` to ``stop`` (n, stop - start, k)."""
        pairs = torch.arange(start // 2, (stop + 1) // 2, device=keys.device)
        first = self._first(keys, devices.sent(counts, keys.device), k, pairs) | (pairs == 0)[:, None]
        return torch.stack([first, ~first], 2).flatten(1, 2)[:, start % 2 :][:, : stop - start]

    def _first(self, keys: Tensor, counts: Tensor, k: int, numbers: Tensor) -> Tensor:
        """First masks (n, m, k) of pairs with numbers from 1 on: the parts with the smallest random words are shown."""
        shown = torch.arange(1, k + 1, device=keys.device)
        share = _share(shown, counts[:, None]).cumsum(1)
        shift = self._words(keys, torch.zeros_like(numbers[:1]), 1)[..., 0] / 2.0**32
        size = torch.searchsorted(share, share[:, -1:] * ((shift + numbers * GOLDEN) % 1)).clamp(max=k - 1)
        words = self._words(keys, numbers, k) << 24 | shown  # no two are equal
        words = words.masked_fill((shown > counts[:, None])[:, None], 2**62)
        return words <= words.sort(-1).values.gather(-1, size[..., None])

    def _words(self, keys: Tensor, numbers: Tensor, k: int) -> Tensor:
        """Random words (n, m, k) of 32 bits, by other counters than `gpulime.ops.bernoulli`."""
        block = 2**31 + torch.arange(-(-k // 4), device=keys.device)
        keys = keys[:, None, None]
        counter = torch.broadcast_tensors(block, numbers[:, None], keys & WORD, keys >> 32 & WORD)
        words = philox4x32(counter, (self.seed & WORD, self.seed >> 32 & WORD))
        return torch.stack(words, -1).flatten(-2)[..., :k]


def _share(shown: Tensor, counts: Tensor) -> Tensor:
    """Relative frequency of the sizes ``shown``, 0 for those of the whole and the empty input.

    KernelSHAP's weight of a size over its frequency is the same number.
    """
    both = (shown * (counts - shown)).double()
    return both.clamp(min=1).rsqrt().masked_fill(both <= 0, 0.0)


@stage("surrogate")
def solved(
    masks: Tensor, outputs: Tensor, labels: Tensor, fresh: Tensor, counts: Tensor, settings: Settings, whole: bool
) -> Surrogate:
    """Estimate Shapley values from pairs: rows 0 and 1, 2 and 3, ...; a last row without a partner is ignored.

    Parameters
    ----------
    masks : (n, s, k) bool, False beyond an input's count; row 0 shows everything
    outputs : (n, s, classes)
    labels : (n, l), classes to explain
    fresh : (n, l) bool, False for labels that repeat an earlier one, which get no model
    counts : (n,) parts of each input
    whole : bool, True if the masks are all that exist, in any order
    """
    y = outputs.gather(2, labels[:, None].expand(-1, outputs.shape[1], -1)).double() * fresh[:, None]
    shown, valid = masks.sum(-1), torch.arange(masks.shape[2], device=counts.device) < counts[:, None]
    x = torch.where(masks, 1.0, -1.0).double() * valid[:, None]
    if whole:
        values = y.mT @ (walsh.shares(x, counts) / 2)
        empty = y.gather(1, shown.argmin(1)[:, None, None].expand(-1, 1, y.shape[2]))[:, 0]
        none = values.new_zeros(len(values), y.shape[1] // 2, *values.shape[1:])
        return _linear(masks, y, (y[:, 0], empty), values, torch.zeros_like(values), none)
    s = y.shape[1] // 2 * 2
    rows, first, second = x[:, :s:2], y[:, :s:2], y[:, 1:s:2]
    odd = (first - second) / 2
    if settings.estimator == "gp":
        limit = walsh.limit(counts, masks.shape[2], settings)
        scales = gaussian_process.scales(rows, odd, counts)
        found = gaussian_process.posterior(Prior.of(rows, scales, limit), first, second)
        values, influence = found.slopes, found.influence[:, 1:]
        variances = found.variances.maximum(influence.square().sum(1))  # few pairs make a process too sure
    else:
        values, influence = _least_squares(rows, odd, _share(shown[:, :s:2], counts[:, None]), valid)
        variances = influence.square().sum(1)
    return _linear(masks[:, 2:s], y[:, 2:s], (y[:, 0], y[:, 1]), values, variances, influence)


def _least_squares(rows: Tensor, odd: Tensor, w: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """KernelSHAP's weighted least squares, whose values add up to the first pair's difference.

    Parameters
    ----------
    rows, odd, w : (n, m, k), (n, m, l), (n, m), the first of them of the whole input
    valid : (n, k) bool

    Returns
    -------
    values : (n, l, k)
    influence : (n, m - 1, l, k), the values less those without each other pair
    """
    x, y, gap = rows[:, 1:], 2 * odd[:, 1:], 2 * odd[:, 0]
    weighted = x * w[:, 1:, None]
    scale = weighted.abs().sum((1, 2)) / valid.sum(1)
    eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
    factor, _ = torch.linalg.cholesky_ex(weighted.mT @ x + (REGULAR * scale.clamp(min=1e-300)).view(-1, 1, 1) * eye)
    root = torch.linalg.solve_triangular(factor, eye, upper=False)
    inverse = devices.product(root.mT, root)
    ones = devices.product(inverse, valid[..., None].double())
    ones = ones / (ones * valid[..., None]).sum(1, keepdim=True)
    tangent = inverse - devices.product(ones, valid[:, None].double() @ inverse)  # changes add up to 0
    values = devices.product(tangent, weighted.mT @ y) + devices.product(ones, gap[:, None])
    steps = devices.product(weighted, tangent)
    free = 1 - (steps * x).sum(-1, keepdim=True)
    errors = (y - devices.product(x, values)) / free.where(free > LEAST_FREE, torch.nan)
    return values.mT, errors[..., None] * steps[:, :, None]


def _linear(
    z: Tensor, y: Tensor, ends: tuple[Tensor, Tensor], values: Tensor, variances: Tensor, influence: Tensor
) -> Surrogate:
    """Linear models from the output for the empty input to the output for the whole one, with scores on the other rows.

    Parameters
    ----------
    z, y : (n, 2 m, k) bool and (n, 2 m, l)
    ends : outputs for the whole and for the empty input, (n, l) each
    values, variances : (n, l, k)
    influence : (n, m, l, k), of each pair on the values
    """
    whole, empty = ends
    rounding = torch.finfo(torch.float32).eps
    error = y - empty[:, None] - devices.product(z.double(), values.mT)
    without = error + devices.product(z.double().unflatten(1, (-1, 2)), influence.mT).flatten(1, 2)
    spread = (y - y.mean(1, keepdim=True)).square().sum(1)
    power = spread.masked_fill(spread <= y.shape[1] * (CONSTANT * rounding * whole).square(), torch.nan)
    return Surrogate(
        coefficients=values,
        standard_errors=variances.sqrt(),
        intercepts=empty,
        scores=1 - error.square().sum(1) / power,
        scores_loo=1 - without.square().sum(1) / power,
        spreads=(spread / y.shape[1]).sqrt(),
        local_predictions=whole,
        ranks=torch.arange(z.shape[-1], device=z.device).expand_as(values),
    )
