"""The Gaussian process over masks, against its definition on all 2^k masks and against refits without a pair."""

from __future__ import annotations

import pytest
import torch
from test_walsh import all_masks, limit_of, slopes_of

from gpulime.engine import gaussian_process, walsh
from gpulime.engine.designs import Blocks
from gpulime.engine.gaussian_process import Prior

K = 6


@pytest.fixture
def one_point(monkeypatch):
    """A grid of a single point, so that hyperparameters are known."""
    monkeypatch.setattr(gaussian_process, "ODD", [(0.7, 0.2, 0.1)])
    monkeypatch.setattr(gaussian_process, "EVEN", [(0.6, 0.4)])


def problem(k=K, l=3, pairs=16, seed=0):
    """Rows (1, m, k) of complement pairs, outputs (1, m, l) of both, and scales (1, k)."""
    generator = torch.Generator().manual_seed(seed)
    masks = Blocks(seed, 0).draw(torch.zeros(1, dtype=torch.int64), torch.tensor([k]), k, 1, 1 + 2 * pairs)
    rows = 2.0 * masks.double()[:, ::2] - 1
    outputs = torch.randn(2, 1, pairs, l, generator=generator, dtype=torch.float64)
    return rows, *outputs, torch.rand(1, k, generator=generator, dtype=torch.float64) + 0.1


def posterior(rows, first, second, scales, limit):
    return gaussian_process.posterior(Prior.of(rows, scales, limit), first, second)


def test_slopes_are_those_of_the_predicted_function(one_point):
    found = posterior(*problem(), limit_of(K))
    everywhere = found.predict(all_masks(K)[1][None])[0]
    torch.testing.assert_close(found.slopes[0], slopes_of(everywhere, K), rtol=0, atol=1e-10)


def test_slopes_are_averaged_over_the_grid():
    found = posterior(*problem(), limit_of(K))
    everywhere = found.predict(all_masks(K)[1][None])[0]
    torch.testing.assert_close(found.slopes[0], slopes_of(everywhere, K), rtol=0, atol=1e-10)


def test_variances_are_those_of_the_process(one_point):
    rows, first, second, scales = problem(l=1)
    found = posterior(rows, first, second, scales, limit_of(K))
    _, x = all_masks(K)
    expected = torch.zeros(K, dtype=torch.float64)
    odd, even = (first - second) / 2, (first + second) / 2
    for values, shares, flat in (
        (odd, {1: 0.7, 3: 0.2, "noise": 0.1}, 0.0),
        (even - even.mean(1), {2: 0.6, "noise": 0.4}, 10.0),
    ):
        of = {
            name: sum(share * walsh.kernels(a, b, scales)[d - 1][0] for d, share in shares.items() if d != "noise") + flat
            for name, a, b in (("all", x[None], x[None]), ("mixed", x[None], rows), ("seen", rows, rows))
        }
        size = values.square().mean()
        seen = of["seen"] + (shares["noise"] + gaussian_process.JITTER) * torch.eye(rows.shape[1])
        y = values[0, :, 0] / size.sqrt()
        scale = size * (y @ torch.linalg.solve(seen, y)) / len(y)
        covariance = scale * (of["all"] - of["mixed"] @ torch.linalg.solve(seen, of["mixed"].T))
        if 2 in shares:  # noise may be products of any two parts, alike
            unexpected = walsh.kernels(x[None], x[None], torch.ones_like(scales))[1][0]
            covariance += scale * (shares["noise"] + gaussian_process.JITTER) * unexpected
        expected += slopes_of(slopes_of(covariance, K), K).diagonal()
    torch.testing.assert_close(found.variances[0, 0], expected, rtol=1e-8, atol=1e-12)


def test_left_out_pairs_are_predicted_by_the_others(one_point):
    rows, first, second, scales = problem()
    found = posterior(rows, first, second, scales, limit_of(K))
    for i in (0, 7):
        kept = torch.arange(rows.shape[1]) != i
        mean = (first + second).mean(1) / 2  # the even part's mean stays
        given = first[:, kept] - mean[:, None], second[:, kept] - mean[:, None]
        refit = gaussian_process._process(
            (given[0] - given[1]) / 2, (1, 3), gaussian_process.ODD, Prior.of(rows[:, kept], scales, limit_of(K)), 0.0
        )
        torch.testing.assert_close(found.odd.slopes - refit.slopes, found.odd.influence[:, i], rtol=1e-8, atol=1e-12)
        kernels = walsh.kernels(rows[:, [i]], rows[:, kept], scales)
        predicted = sum(kernels[d - 1] @ (s @ refit.values) for d, s in refit.smoothers.items())[:, 0]
        errors = (first - second)[:, i] / 2 - predicted
        torch.testing.assert_close(found.odd.left_out[:, i], errors, rtol=1e-8, atol=1e-12)


def test_a_linear_function_is_found():
    rows, _, _, _ = problem(k=20, pairs=32)
    truth = torch.logspace(0, -3, 20, dtype=torch.float64)
    values = (rows @ truth / 2)[..., None]
    counts = torch.tensor([20])
    scales = gaussian_process.scales(rows, values, counts)
    assert torch.equal(scales[0].argsort(descending=True)[:5], torch.arange(5))
    found = posterior(rows, 5 + values, 5 - values, scales, limit_of(20))
    torch.testing.assert_close(found.slopes[0, 0], truth, rtol=0, atol=1e-3)
    assert found.variances.sqrt().max() < 3e-3


def test_a_constant_function_has_no_slopes():
    rows, first, _, scales = problem()
    constant = torch.full_like(first, 3.0)
    found = posterior(rows, constant, constant, scales, limit_of(K))
    assert not found.slopes.any()
    assert not found.variances.any()


def test_inputs_are_estimated_alike_alone_and_beside_larger_ones():
    rows, first, second, scales = problem()
    wide = [torch.nn.functional.pad(tensor, (0, 3)) for tensor in (rows, scales)]
    other = problem(k=9, seed=1)
    both = [torch.cat([one, more]) for one, more in zip((wide[0], first, second, wide[1]), other, strict=True)]
    together = posterior(*both, limit_of(K, 9))
    alone = posterior(rows, first, second, scales, limit_of(K))
    torch.testing.assert_close(together.slopes[:1, :, :K], alone.slopes, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together.variances[:1, :, :K], alone.variances, rtol=1e-9, atol=1e-12)
    assert not together.slopes[0, :, K:].any()


def test_errors_know_interactions_of_parts_that_do_not_matter_alone():
    """Only even parts: products of two parts, whose slopes nothing but the prior bounds."""
    k, n = 40, 50
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 2, (n, 64, k), generator=generator).double() * 2 - 1
    limit, counts = limit_of(*[k] * n), torch.full((n,), k)
    mixed = torch.randn(n, k, k, generator=generator, dtype=torch.float64).triu(1)
    even = torch.einsum("nmj,njl,nml->nm", rows, mixed, rows)[..., None]
    odd = 10 * rows[..., :1]
    found = posterior(rows, even + odd, even - odd, gaussian_process.scales(rows, odd, counts), limit)
    both = mixed + mixed.mT
    truth = limit.inside[0, 2] * both.sum(2) + limit.outside[0, 2] * (mixed.sum((1, 2))[:, None] - both.sum(2))
    truth[:, 0] += 10 * limit.inside[0, 1]
    covered = (found.slopes[:, 0] - truth).abs() <= 1.96 * found.variances[:, 0].sqrt()
    assert 0.9 < covered.double().mean() < 0.99
