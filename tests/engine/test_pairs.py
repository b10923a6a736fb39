"""Selection of parts from a process: the fit to all 2^k masks with some of the parts."""

from __future__ import annotations

import pytest
import torch
from test_rounds import Model, explain
from test_walsh import all_masks, slopes_of

from gpulime.engine import gaussian_process, pairs, surrogate, walsh
from gpulime.engine.gaussian_process import Estimate, Prior
from gpulime.engine.masks import resolve
from gpulime.engine.settings import Settings

K = 9
METHODS = ["none", "auto", "forward_selection", "highest_weights", "lasso_path"]


def outputs_of_all(generator):
    """Outputs (512, 2) of all masks of nine parts."""
    masks, x = all_masks(K)
    slopes = torch.randn(K, 2, generator=generator, dtype=torch.float64)
    return masks.flip(0), torch.sigmoid(x @ slopes + (x[:, :3] * x[:, 3:6]) @ slopes[:3]).flip(0)  # row 0 shows everything


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_features", [3, 8, None])
def test_selected_slopes_are_those_of_the_fit_to_all_masks(method, num_features):
    """Exact slopes of all parts give exact slopes of some parts."""
    masks, y = outputs_of_all(torch.Generator().manual_seed(1))
    exact = slopes_of(y.flip(0), K)[None]
    settings = Settings(estimator="gp", feature_selection=method, num_features=num_features)
    none = torch.zeros(1, 4, 2, K, dtype=torch.float64)
    found, ranks = pairs.selected(Estimate(exact, torch.ones_like(exact), none, none), torch.tensor([K]), settings)
    expected = surrogate.fit(masks[None], y[None], settings=settings)
    torch.testing.assert_close(found.slopes, expected.coefficients, rtol=0, atol=1e-5)
    assert torch.equal(ranks, expected.ranks)
    assert torch.equal(found.variances > 0, ranks >= 0)


def test_influence_is_that_of_the_refit():
    """Slopes without a pair, refitted, are the refitted slopes less the influence."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(2, 3, K, generator=generator, dtype=torch.float64) + torch.arange(K)  # so that all choose alike
    influence = 1e-3 * torch.randn(2, 5, 3, K, generator=generator, dtype=torch.float64)
    settings = Settings(estimator="gp", num_features=4, feature_selection="highest_weights")
    counts = torch.tensor([K, K])

    def refit(values):
        estimate = Estimate(values, torch.ones_like(values), influence, influence[..., 0])
        return pairs.selected(estimate, counts, settings)[0]

    found = refit(slopes)
    for pair in range(5):
        torch.testing.assert_close(
            refit(slopes - influence[:, pair]).slopes, found.slopes - found.influence[:, pair], rtol=0, atol=1e-8
        )


def test_variances_are_no_smaller_than_those_of_left_out_pairs():
    """A process of 16 pairs for 12 parts is too sure of some."""
    masks = resolve("antithetic", 0, 33).draw(torch.arange(20), torch.full((20,), 12), 12, 0, 33)
    y = Model(noise=0.3)(torch.cat([torch.zeros(660, 1), torch.nn.functional.pad(masks, (0, 18)).flatten(0, 1)], 1).double())
    labels, counts = torch.zeros(20, 1, dtype=torch.int64), torch.full((20,), 12)
    settings = Settings(estimator="gp", feature_selection="none")
    found = pairs.solved(masks, y.unflatten(0, (20, 33)), labels, labels == 0, counts, settings)
    x = 2 * masks[:, 1::2].double() - 1
    first, second = (y.unflatten(0, (20, 33))[:, start::2, :1] for start in (1, 2))
    prior = Prior.of(x, gaussian_process.scales(x, (first - second) / 2, counts), walsh.limit(counts, 12, settings))
    process = gaussian_process.posterior(prior, first, second)
    left_out = process.influence.square().sum(1)
    torch.testing.assert_close(found.standard_errors.square(), process.variances.maximum(left_out))
    assert 0.05 < (left_out > process.variances).double().mean() < 0.95


@pytest.mark.parametrize("link", ["identity", "auto"])
def test_few_of_many_parts_are_chosen_and_the_rest_is_0(link):
    found = explain(Model(), [30, 4], estimator="gp", link=link, num_features=3)
    full = explain(Model(), [30, 4], estimator="gp", link=link)
    assert ((found.coefficients != 0).sum(-1) == 3).all()
    assert torch.equal(found.coefficients[0] != 0, found.standard_errors[0] != 0)
    chosen = full.coefficients[0, 0].abs().topk(3).indices
    torch.testing.assert_close(found.coefficients[0, 0, chosen], full.coefficients[0, 0, chosen], rtol=0.05, atol=0)
    torch.testing.assert_close(found.standard_errors[0, 0, chosen], full.standard_errors[0, 0, chosen], rtol=0.2, atol=0)
    assert (found.scores[0] < full.scores[0]).all()
