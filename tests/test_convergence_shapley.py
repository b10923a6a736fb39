"""The benchmark of Shapley values: its closed forms are the definition's, and its sides find them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from benchmarks.convergence import shapley


def by_definition(function, k):
    """Mean contribution of each part over all orders in which parts are shown."""
    values, orders = np.zeros(k), list(permutations(range(k)))
    for order in orders:
        masks = np.zeros((k + 1, k), bool)
        for i, j in enumerate(order):
            masks[i + 1 :, j] = True
        values[list(order)] += np.diff(function(masks).astype(float))
    return values / len(orders)


def test_values_of_groups():
    sizes = (2, 1, 3)

    def function(counts):
        return shapley.sigmoid(counts, (2.0, -1.0, 0.5), 1.0) + (counts[:, 2] >= 2) * counts[:, 1]

    expected = by_definition(lambda masks: shapley.grouped(masks, sizes, function), 6)
    np.testing.assert_allclose(shapley.of_groups(sizes, function), expected, atol=1e-12)


def test_values_of_the_games_add_up_and_are_found():
    for game in shapley.games():
        ends = game.predict(np.array([[True], [False]]).repeat(game.k, 1))[:, 0]
        assert game.truth.sum() == pytest.approx(ends[0] - ends[1], abs=1e-10)
        error, covered = shapley.measured(game, "gpulime gp", 512, 1)
        assert error < (1.5 if game.name == "vote" else 0.3) * (game.truth**2).mean()  # a vote is one step from 0 to 1
        assert covered > 0.7
