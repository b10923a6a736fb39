"""Truncated normal numbers: equal to SciPy's, also far out in the tails."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import truncnorm

from gpulime.tables.truncated import Intervals

ENDS = np.array([(-1, 2), (-8, -7.5), (3, 3.1), (-1e11, 0), (0, 0.5), (-2, 0), (12, 14), (-0.1, 0.1)], dtype=float)


@pytest.mark.parametrize("which", [*range(len(ENDS)), None])
def test_equal_to_scipy(which):
    numbers = np.random.RandomState(1).randint(0, len(ENDS), 2000) if which is None else np.full(500, which)
    low, high = ENDS[numbers].T
    expected = truncnorm.rvs(low, high, random_state=np.random.RandomState(0))
    drawn = Intervals(*ENDS.T).quantiles(numbers, np.random.RandomState(0).random_sample(len(numbers)))
    np.testing.assert_allclose(drawn, expected, rtol=1e-12, atol=1e-14)
    assert (drawn >= low - 1e-12).all()
    assert (drawn <= high + 1e-12).all()


def test_a_probability_of_0_is_the_lower_end():
    drawn = Intervals(*ENDS.T).quantiles(np.arange(len(ENDS)), np.zeros(len(ENDS)))
    np.testing.assert_allclose(drawn, ENDS[:, 0], rtol=1e-9, atol=1e-12)
