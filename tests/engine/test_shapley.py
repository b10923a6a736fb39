"""Shapley values: exact by enumeration, their axioms, the design's sizes, and errors that tell the spread over seeds."""

from __future__ import annotations

from itertools import combinations
from math import comb, factorial

import pytest
import torch
from test_masked import Given
from test_rounds import Games
from test_walsh import all_masks

from gpulime import Explainer
from gpulime.engine import shapley, walsh
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.engine import Engine
from gpulime.engine.masks import resolve
from gpulime.engine.model import Predictor
from gpulime.engine.settings import Settings
from gpulime.engine.stopping import Stopping
from gpulime.errors import GpulimeError
from gpulime.segments import Grid

ESTIMATORS = ["wls", "gp"]


def explain(game, counts, sampler="antithetic", estimator="gp", n_samples=258, keys=None, stopping=None, **settings):
    """Explain ``game``, a function of masks (b, k) float64 -> (b,)."""
    numbers = torch.arange(len(counts))
    games = Games(torch.tensor(counts), numbers, numbers if keys is None else torch.tensor(keys))
    predictor = Predictor(lambda rows: game(rows[:, 1:]), None, "float32", None)
    settings = Settings(estimator=estimator, **{"kernel": "shapley"} | settings)
    design = resolve(sampler, 0, n_samples)
    engine = Engine(predictor, BatchSize(500), Given(), design, n_samples, 1, settings, stopping)
    pieces = list(engine.stream([games]))
    return type(pieces[0]).cat(pieces)


def by_definition(game, k):
    """Mean contribution of each part over all subsets of the others."""

    def value(subset):
        mask = torch.zeros(1, 30, dtype=torch.float64)
        mask[0, list(subset)] = 1
        return game(mask)[0].item()

    return torch.tensor(
        [
            sum(
                factorial(size) * factorial(k - size - 1) / factorial(k) * (value((*subset, j)) - value(subset))
                for size in range(k)
                for subset in combinations([i for i in range(k) if i != j], size)
            )
            for j in range(k)
        ],
        dtype=torch.float64,
    )


def saturated(z):
    return torch.sigmoid(3 * z[:, 0] + 2 * z[:, 1] * z[:, 2] - z[:, 3] + (z * torch.linspace(0.5, 0, 30)).sum(1) - 2).double()


def unanimous(z):
    """Products of shown parts: each part of a product gets an equal share of its factor."""
    return z[:, 0] + 2 * z[:, 0] * z[:, 1] - 3 * z[:, 2] * z[:, 3] * z[:, 4] + z[:, 5:10].prod(1)


UNANIMOUS = torch.tensor([2, 1, -1, -1, -1, 0.2, 0.2, 0.2, 0.2, 0.2] + [0] * 20)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_few_parts_get_exact_values(estimator):
    counts = [1, 2, 5, 8]
    found = explain(saturated, counts, estimator=estimator)
    assert found.samples.tolist() == [2**k for k in counts]
    for i, k in enumerate(counts):
        torch.testing.assert_close(found.coefficients[i, 0, :k], by_definition(saturated, k), rtol=0, atol=1e-6)
    assert not found.standard_errors.any()


@pytest.mark.filterwarnings("ignore:n_samples = 4 is below k = 30")
@pytest.mark.parametrize(("estimator", "n_samples"), [("gp", 4), ("gp", 41), ("gp", 258), ("wls", 63), ("wls", 1001)])
def test_values_add_up(estimator, n_samples):
    counts = [30, 21, 11]
    found = explain(saturated, counts, estimator=estimator, n_samples=n_samples)
    ends = torch.zeros(len(counts), 2, 30)
    for i, k in enumerate(counts):
        ends[i, 0, :k] = 1
    whole, empty = saturated(ends.flatten(0, 1)).view(-1, 2).T
    torch.testing.assert_close(found.coefficients.sum(-1)[:, 0], whole - empty, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.intercepts[:, 0], empty)
    torch.testing.assert_close(found.local_predictions[:, 0], whole)
    assert not found.coefficients[2, 0, 11:].any()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_of_a_linear_function(estimator):
    slopes = torch.linspace(-1, 1, 30, dtype=torch.float64)
    found = explain(lambda z: z @ slopes + 5, [30], estimator=estimator)
    torch.testing.assert_close(found.coefficients[0, 0], slopes, rtol=0, atol=2e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_dummy_and_symmetric_parts(estimator):
    found = explain(unanimous, [30], estimator=estimator, n_samples=4002)
    error = found.coefficients[0, 0] - UNANIMOUS
    assert error.abs().max() < 0.06
    assert (error.abs() < 4.5 * found.standard_errors[0, 0] + 1e-6).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_errors_are_the_spread_over_seeds(estimator):
    seeds = 60
    found = explain(unanimous, [30] * seeds, estimator=estimator, n_samples=514, keys=range(seeds))
    error = (found.coefficients[:, 0] - UNANIMOUS).square().mean()
    said = found.standard_errors[:, 0].square().mean()
    assert 0.6 < float(said / error) < 2
    inside = ((found.coefficients[:, 0] - UNANIMOUS).abs() < 1.96 * found.standard_errors[:, 0]).double().mean()
    assert 0.9 < float(inside) <= 1


def test_rounds_end_at_the_tolerance():
    few, many = (
        explain(unanimous, [30, 6], n_samples=130, stopping=Stopping(tolerance=tolerance, max_samples=3000))
        for tolerance in (0.1, 0.03)
    )
    assert few.samples[1] == many.samples[1] == 64
    assert few.samples[0] < many.samples[0] < 3000
    assert many.samples[0] % 64 == 2
    assert many.standard_errors[0].square().mean().sqrt() < 0.03


def test_banzhaf_values_are_slopes_of_the_uniform_kernel():
    """Banzhaf's value is the mean contribution over all subsets, each counted once: 2 fhat of the part alone."""
    limit = walsh.limit(torch.tensor([8]), 8, Settings(kernel="uniform"))
    torch.testing.assert_close(limit.inside[0, 1:], torch.tensor([2.0, 0, 0]).double(), rtol=0, atol=1e-12)
    assert limit.outside[:, 1:].abs().max() < 1e-12
    k = 7
    found = explain(saturated, [k], estimator="wls", kernel="uniform")
    masks = torch.nn.functional.pad(all_masks(k)[0].double(), (0, 30 - k))
    y = saturated(masks)
    expected = torch.stack([y[masks[:, j] == 1].mean() - y[masks[:, j] == 0].mean() for j in range(k)])
    torch.testing.assert_close(found.coefficients[0, 0, :k], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_shares_and_products_have_the_values_of_the_definition(k):
    masks, x = all_masks(k)
    odd = torch.randn(2**k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    odd = odd - odd.flip(0)  # all_masks counts up, so complements stand at mirrored places
    assert torch.equal(x, -x.flip(0))
    code = (2 ** torch.arange(k)).double()

    def game(z):
        order = (masks.double() @ code).long().argsort()
        return odd[order][(z[:, :k] @ code).long()]

    counts = torch.tensor([k])
    values = odd @ walsh.shares(x[None], counts)[0] / 2
    torch.testing.assert_close(values, by_definition(game, k), rtol=0, atol=1e-10)
    noise = walsh.white(x[None], torch.ones(1, k), walsh.limit(counts, k, Settings(kernel="shapley", estimator="gp")))
    half = walsh.shares(x[None], counts)[0][masks[:, 0]]
    torch.testing.assert_close(noise[2][0], half.square().sum(0), rtol=1e-10, atol=0)


def test_design():
    design = shapley.Sizes(3, 0)
    keys, counts = torch.tensor([5, 6, 7]), torch.tensor([30, 12, 30])
    masks = design.draw(keys, counts, 32, 0, 402)
    assert masks[0, 0, :30].all()
    valid = (torch.arange(32) < counts[:, None])[:, None]
    assert torch.equal((masks[:, ::2] ^ masks[:, 1::2]) & valid, valid.expand(3, 201, 32))
    for start, stop in ((1, 2), (3, 8), (2, 131), (130, 259), (7, 402)):
        assert torch.equal(design.draw(keys, counts, 32, start, stop) & valid, masks[:, start:stop] & valid)
    assert torch.equal(design.draw(keys[1:2], counts[1:2], 12, 0, 402)[0], masks[1, :, :12])
    assert not torch.equal(masks[0], masks[2])


def test_sizes_of_the_design():
    k = 9
    masks = shapley.Sizes(0, 0).draw(torch.tensor([1]), torch.tensor([k]), k, 2, 20002)[0]
    size = torch.arange(1, k)
    expected = (size * (k - size)).double().rsqrt()
    torch.testing.assert_close(
        masks.sum(1).bincount(minlength=k + 1)[1:k] / 20000, (expected / expected.sum()).float(), rtol=0.05, atol=0
    )
    torch.testing.assert_close(masks.float().mean(0), torch.full((k,), 0.5))
    of_two = masks[masks.sum(1) == 2].float()
    each = (of_two.T @ of_two).masked_select(~torch.eye(k, dtype=torch.bool)) / len(of_two)
    torch.testing.assert_close(each, torch.full_like(each, 1 / comb(k, 2)), rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampler": "bernoulli", "estimator": "wls"}, "sampler='bernoulli'"),
        ({"sampler": "blocks"}, "sampler='blocks'"),
        ({"estimator": "ridge"}, "estimator='ridge'"),
        ({"link": "auto"}, "link='auto'"),
        ({"num_features": 3}, "num_features=3"),
    ],
)
def test_settings_that_do_not_fit_are_told_all_that_do(given, message):
    right = "needs all of sampler='antithetic', estimator='gp' or 'wls', link='identity' and num_features=None"
    with pytest.raises(GpulimeError, match=f"{right}, which quality= does not set; got {message}"):
        explain(saturated, [8], **given)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("columns", [1, 12])
def test_values_are_the_same_on_each_device(columns, estimator, device, cnn, pictures):
    how = {
        "kernel": "shapley",
        "sampler": "antithetic",
        "estimator": estimator,
        "link": "identity",
        "segments": Grid(1, columns),
    }
    expected = Explainer(cnn, 258, **how).explain(pictures(2)).coefficients
    found = Explainer(cnn.to(device), 258, **how).explain(pictures(2)).coefficients.cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
