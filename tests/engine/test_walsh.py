"""LIME's limit in closed form, against the fit to all 2^k masks."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch

from gpulime.engine import walsh
from gpulime.engine.proximity import proximity
from gpulime.engine.settings import Settings
from gpulime.errors import GpulimeError


def all_masks(k):
    """All masks (2^k, k) and their entries as -1 and 1."""
    masks = torch.tensor(list(product([False, True], repeat=k)))
    return masks, 2.0 * masks.double() - 1


def slopes_of(values, k):
    """Slopes (m, k) of the weighted linear fit to values (2^k, m) at all masks, by the normal equations."""
    masks, _ = all_masks(k)
    weights = proximity(masks[None], torch.tensor([k]), Settings())[0]
    regressors = torch.cat([torch.ones(len(masks), 1, dtype=torch.float64), masks.double()], 1)
    weighted = regressors * weights[:, None]
    return torch.linalg.solve(weighted.mT @ regressors, weighted.mT @ values)[1:].mT


def limit_of(*counts):
    return walsh.limit(torch.tensor(counts), max(counts), Settings())


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_slopes_of_products_are_those_of_the_fit_to_all_masks(k):
    limit = limit_of(12, k)  # beside an input with more parts
    _, x = all_masks(k)
    for d in range(min(k, walsh.ORDERS) + 1):
        for parts in list(combinations(range(k), d))[:5]:
            expected = slopes_of(x[:, list(parts)].prod(1, keepdim=True), k)[0]
            found = limit.outside[1, d].repeat(k)
            found[list(parts)] = limit.inside[1, d]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_slopes_and_variances_of_kernels(k):
    generator = torch.Generator().manual_seed(k)
    scales = torch.zeros(1, 10, dtype=torch.float64)
    scales[0, :k] = torch.rand(k, generator=generator, dtype=torch.float64) + 0.1
    _, x = all_masks(k)
    x = torch.nn.functional.pad(x, (0, 10 - k))[None]  # parts beyond the count
    limit = walsh.limit(torch.tensor([k]), 10, Settings())
    kernels = walsh.kernels(x, x, scales)
    sections = walsh.sections(x, scales, limit)
    for kernel, section, variance in zip(kernels, sections, walsh.variances(scales, limit), strict=True):
        torch.testing.assert_close(section[0, :, :k], slopes_of(kernel[0], k), rtol=0, atol=1e-11)
        expected = slopes_of(slopes_of(kernel[0], k), k).diagonal()  # of the slopes of both arguments
        torch.testing.assert_close(variance[0, :k], expected, rtol=0, atol=1e-11)
        assert kernel.abs().max() < 1e-9 or (kernel[0].diagonal() - 1).abs().max() < 1e-12


@pytest.mark.parametrize("k", [1, 2, 5, 9])
@pytest.mark.parametrize("settings", [{}, {"kernel": "uniform"}, {"kernel_width": 0.1}])
def test_the_scatter_is_that_of_all_masks(k, settings):
    masks, _ = all_masks(k)
    weights = proximity(masks[None], torch.tensor([k]), Settings(**settings))[0]
    expected = torch.cov(masks.double().T, aweights=weights, correction=0).reshape(k, k)
    found = walsh.scatter(torch.tensor([12, k]), 12, Settings(**settings))[1]
    torch.testing.assert_close(found[:k, :k], expected, rtol=0, atol=1e-12)
    assert not found[k:].any()
    assert not found[:, k:].any()


DEGENERATE = {
    "all weight on the whole input": {"kernel": lambda d, width: (d == 0).double()},
    "no weight": {"kernel": lambda d, width: 0 * d},
    "too narrow": {"kernel_width": 0.03},
    "far too narrow": {"kernel_width": 1e-4},
    "another unit": {"distance": "manhattan"},
    "on both ends, so that even orders have no slope": {"kernel": lambda d, width: ((d < 0.05) | (d > 0.7)).double()},
}


@pytest.mark.parametrize(
    ("name", "count"),  # three orders are all that three parts have, so no width is too narrow for these
    [(name, count) for name in DEGENERATE for count in (3, 6, 50) if count > 3 or "kernel" in DEGENERATE[name]],
)
def test_kernels_without_a_limit_in_few_orders_are_refused(name, count):
    settings = DEGENERATE[name]
    with pytest.raises(GpulimeError, match=f"{count} parts for estimator='gp'.*kernel_width"):
        walsh.check_kernel(count, Settings(estimator="gp", **settings), whole=False)


@pytest.mark.parametrize("settings", [{}, {"kernel": "uniform"}, {"kernel_width": None}, {"kernel_width": 0.1}])
@pytest.mark.parametrize("count", [1, 2, 3, 20, 400])
def test_other_kernels_are_not(settings, count):
    walsh.check_kernel(count, Settings(estimator="gp", **settings), whole=False)
