"""Fits of inputs that share their samples: equal to the fit of pieces, also if equal samples are grouped."""

from __future__ import annotations

import pytest
import torch

from gpulime.engine import shared
from gpulime.engine.proximity import proximity
from gpulime.engine.settings import Settings
from gpulime.engine.surrogate import FITTED, Moments, solved

N, S, K, L = 3, 200, 4, 2
KINDS = [
    Settings(distance="euclidean", kernel_width=None),
    Settings(distance="euclidean", kernel_width=1.0, num_features=2),
    Settings(distance="euclidean", kernel_width=None, num_features=3, feature_selection="highest_weights", alpha=0.1),
]


def samples(binary=True):
    random = torch.Generator().manual_seed(0)
    x = torch.rand(N, S, K, generator=random, dtype=torch.float64)
    x = x < 0.5 if binary else 3 * x
    if binary:
        x[:, 0] = True
    y = torch.randn(N, S, L, generator=random, dtype=torch.float64) + x.double() @ torch.randn(K, L, dtype=torch.float64)
    return x, y


def assert_same(actual, expected):
    for name in FITTED:
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("binary", [True, False])
def test_equal_to_the_fit_of_pieces(settings, binary):
    x, y = samples(binary)
    counts, x0 = torch.full((N,), K), None if binary else x[:, 0]
    weights = proximity(x, counts, settings, x0)
    given = x.clone()
    actual = shared.solved(Moments(counts, K, y[:, 0], x0), x, y, weights, settings)
    assert torch.equal(x, given)
    assert_same(actual, solved(Moments(counts, K, y[:, 0], x0), [...], lambda _: (x, y, weights, None), settings))


@pytest.mark.parametrize("settings", KINDS)
def test_groups_of_equal_samples(settings):
    x, y = samples()
    x[:] = x[:1]  # shared
    groups = (x[0, 1:].long() * torch.tensor([8, 4, 2, 1])).sum(1).unique(return_inverse=True)[1]
    counts = torch.full((N,), K)
    y[1:, 1:] = y[:1, 1:]
    repeats = shared.Repeats.of(groups, y[0, 1:])
    assert int(repeats.counts.sum()) == S - 1
    numbers = torch.cat([torch.zeros(1, dtype=torch.int64), repeats.first])
    means = torch.cat([y[:, :1], repeats.means.expand(N, -1, -1)], 1)
    variances = torch.cat([0 * y[:, :1], repeats.variances.expand(N, -1, -1)], 1)
    few, weights = x[:, numbers], proximity(x, counts, settings)
    repeated = torch.cat([torch.ones(1, dtype=torch.float64), repeats.counts]), variances
    actual = shared.solved(Moments(counts, K, y[:, 0]), few, means, weights[:, numbers], settings, repeated)
    assert_same(actual, solved(Moments(counts, K, y[:, 0]), [...], lambda _: (x, y, weights, None), settings))
