"""lime's discretisers: the same edges, names, statistics and draws as lime's, and its two faults mended."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris

from gpulime import discretize
from gpulime.errors import GpulimeError

KINDS = ("Quartile", "Decile", "Entropy")
IRIS = load_iris()


def made(module, kind, data=IRIS.data, categorical=(), names=IRIS.feature_names, seed=0, **more):
    labels = IRIS.target if len(data) == len(IRIS.data) else np.arange(len(data)) % 3
    return getattr(module, f"{kind}Discretizer")(
        data, list(categorical), names, labels=labels, random_state=np.random.RandomState(seed), **more
    )


@pytest.fixture(scope="module")
def lime_discretize():
    return pytest.importorskip("lime.discretize")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("categorical", [(), (1, 3)])
def test_everything_equals_lime(kind, categorical, lime_discretize):
    ours, limes = (made(module, kind, categorical=categorical) for module in (discretize, lime_discretize))
    for field in ("to_discretize", "names", "means", "stds", "mins", "maxs"):
        assert getattr(ours, field) == getattr(limes, field), field
    bins = limes.discretize(IRIS.data)
    assert np.array_equal(ours.discretize(IRIS.data), bins)
    assert np.array_equal(ours.discretize(IRIS.data[7]), bins[7])
    ours_drawn, limes_drawn = ours.undiscretize(bins), limes.undiscretize(bins)
    if exact_logsumexp():
        assert np.array_equal(ours_drawn, limes_drawn)
    np.testing.assert_allclose(ours_drawn, limes_drawn, rtol=1e-13)
    assert np.array_equal(ours.random_state.random_sample(3), limes.random_state.random_sample(3))


def exact_logsumexp():
    """Tell if this SciPy sums two logs by the formula that is used here; older ones differ in the last digit."""
    from scipy.special import logsumexp

    x, y = np.random.RandomState(0).normal(-2, 1, (2, 1000))
    low, high = np.minimum(x, y), np.maximum(x, y)
    return np.array_equal(logsumexp([x, y], axis=0), np.log1p(np.exp(low - high)) + high)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_values_lie_in_their_bins(kind):
    made_ = made(discretize, kind)
    bins = made_.discretize(IRIS.data)
    assert np.array_equal(made_.discretize(made_.undiscretize(bins)), bins)


def test_a_bin_with_one_value_is_sampled_as_that_value():
    data = load_diabetes().data
    sex = data[:, 1]
    assert len(np.unique(sex)) == 2
    made_ = discretize.QuartileDiscretizer(data, [], list("abcdefghij"), random_state=0)
    drawn = made_.undiscretize(made_.discretize(data))[:, 1]
    np.testing.assert_allclose(drawn, sex, rtol=0, atol=1e-9)


def test_a_missing_value_has_a_bin_of_its_own():
    data = IRIS.data.copy()
    data[::10, 2] = np.nan
    for kind in KINDS:
        made_ = made(discretize, kind, data)
        assert made_.names[2][-1] == "petal length (cm) is missing"
        last = len(made_.names[2]) - 1
        bins = made_.discretize(data)
        assert (bins[::10, 2] == last).all()
        assert (bins[1::10, 2] < last).all()
        drawn = made_.undiscretize(bins)
        assert np.isnan(drawn[::10, 2]).all()
        assert np.isfinite(drawn[1::10]).all()
        whole = made(discretize, kind, np.delete(data, np.s_[::10], 0))
        if kind != "Entropy":
            assert made_.mins[2][:-1] == whole.mins[2]
            assert made_.means[2][:-1] == whole.means[2]


def test_a_column_without_any_value():
    data = np.full((20, 1), np.nan)
    made_ = discretize.QuartileDiscretizer(data, [], ["age"], random_state=0)
    assert made_.names[0] == ["age is not missing", "age is missing"]
    assert made_.discretize(data).tolist() == [[1.0]] * 20
    assert np.isnan(made_.undiscretize(made_.discretize(data))).all()


def test_entropy_needs_labels():
    with pytest.raises(ValueError, match="Labels must be not None when using EntropyDiscretizer"):
        discretize.EntropyDiscretizer(IRIS.data, [], IRIS.feature_names)


def test_statistics_in_place_of_the_data():
    quartile = made(discretize, "Quartile")
    stats = {name: getattr(quartile, name) for name in ("means", "stds", "mins", "maxs")}
    bins = {column: quartile.maxs[column][:-1] for column in range(4)}
    for some in (stats, stats | {"bins": bins}):
        made_ = discretize.StatsDiscretizer(np.zeros((1, 4)), [], IRIS.feature_names, random_state=0, data_stats=some)
        assert made_.names == quartile.names
        assert np.array_equal(made_.discretize(IRIS.data), quartile.discretize(IRIS.data))
        assert made_.means is stats["means"]


class Halves(discretize.BaseDiscretizer):
    def bins(self, data, labels):
        return [np.array([np.median(data[:, column])]) for column in self.to_discretize]


class Middles(Halves):
    def get_undiscretize_values(self, feature, values):
        return (np.array(self.mins[feature])[values] + np.array(self.maxs[feature])[values]) / 2


def test_a_users_own():
    halves = Halves(IRIS.data, [3], IRIS.feature_names, random_state=0)
    assert list(halves.names) == [0, 1, 2]
    assert set(halves.discretize(IRIS.data)[:, 0]) == {0, 1}
    middles = Middles(IRIS.data, [3], IRIS.feature_names, random_state=0)
    low, middle, high = IRIS.data[:, 0].min(), np.median(IRIS.data[:, 0]), IRIS.data[:, 0].max()
    drawn = middles.undiscretize(middles.discretize(IRIS.data))
    np.testing.assert_allclose(np.unique(drawn[:, 0]), [(low + middle) / 2, (middle + high) / 2])
    assert np.array_equal(drawn[:, 3], IRIS.data[:, 3])


def test_no_edges_are_refused():
    class Nothing(discretize.BaseDiscretizer):
        def bins(self, data, labels):
            return [[] for _ in self.to_discretize]

    with pytest.raises(GpulimeError, match="an edge or more for each column; got none for column 0"):
        Nothing(IRIS.data, [], IRIS.feature_names)
    with pytest.raises(NotImplementedError, match="must define bins"):
        discretize.BaseDiscretizer(IRIS.data, [], IRIS.feature_names)


def test_pickles():
    made_ = made(discretize, "Quartile")
    again = pickle.loads(pickle.dumps(made_))
    bins = made_.discretize(IRIS.data)
    assert np.array_equal(again.undiscretize(again.discretize(IRIS.data)), made_.undiscretize(bins))


# lime's own tests of its discretisers, as assertions of ours: iris falls into four, ten and eight bins.
@pytest.mark.parametrize(("kind", "bins"), [("Quartile", 4), ("Decile", 10), ("Entropy", 8)])
def test_the_number_of_bins(kind, bins):
    made_ = made(discretize, kind, seed=10)
    names = made_.names
    assert all(2 <= len(names[column]) <= bins for column in range(4))
    assert names[0][0].startswith("sepal length (cm) <= ")
    assert names[0][-1].startswith("sepal length (cm) > ")
    assert len(made_.means[0]) == len(made_.stds[0]) == len(made_.mins[0]) == len(made_.maxs[0]) == len(names[0])
