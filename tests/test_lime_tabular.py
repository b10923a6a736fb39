"""lime's tabular explainers: the same neighbourhoods, numbers, names and stream as lime's own."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import BayesianRidge, Lasso, LinearRegression, LogisticRegression, Ridge

from gpulime import GpulimeError, discretize, lime_tabular
from gpulime.lime_queue import UnexplainedError

IRIS, DIABETES = load_iris(), load_diabetes()
S = 200
MIXED = np.column_stack([IRIS.data[:, :3], np.arange(150) % 3, np.arange(150) // 3 % 2])


@pytest.fixture(scope="module")
def limes():
    return pytest.importorskip("lime.lime_tabular")


@pytest.fixture(scope="module")
def models():
    iris = LogisticRegression(max_iter=1000).fit(IRIS.data, IRIS.target)
    mixed = LogisticRegression(max_iter=1000).fit(MIXED, IRIS.target)
    regression = LinearRegression().fit(IRIS.data, IRIS.data @ [1, -2, 3, 0.5])
    return {"iris": iris.predict_proba, "mixed": mixed.predict_proba, "regression": regression.predict}


class Asked:
    """A model that keeps its rows."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, rows):
        self.calls.append(rows.copy())
        return self.function(rows)


def both(limes, data, row, predict, twice=True, explain=None, **settings):
    """The explanations of ours and lime's of two calls, the rows that each model was asked, and the ends of both streams."""
    found = []
    for module in (lime_tabular, limes):
        asked = Asked(predict)
        explainer = module.LimeTabularExplainer(data, random_state=np.random.RandomState(5), **settings)
        call = {"num_samples": S} | (explain or {})
        explained = [explainer.explain_instance(row, asked, **call) for _ in range(1 + twice)]
        found.append((explained, asked.calls, explainer))
    return found


def assert_same(ours, expected, near=1e-9):
    """Compare all of lime's fields of two explanations."""
    assert list(ours.local_exp) == list(expected.local_exp)
    for label, weights in expected.local_exp.items():
        assert [part for part, _ in ours.local_exp[label]] == [part for part, _ in weights]
        np.testing.assert_allclose([w for _, w in ours.local_exp[label]], [w for _, w in weights], rtol=0, atol=near)
        assert [name for name, _ in ours.as_list(label)] == [name for name, _ in expected.as_list(label)]
        assert abs(ours.intercept[label] - expected.intercept[label]) < near
    assert abs(ours.score - expected.score) < near
    np.testing.assert_allclose(ours.local_pred, expected.local_pred, rtol=0, atol=near)
    assert ours.class_names == expected.class_names
    assert ours.domain_mapper.feature_names == expected.domain_mapper.feature_names
    assert ours.domain_mapper.feature_values == expected.domain_mapper.feature_values
    if expected.mode == "classification":
        assert ours.top_labels == expected.top_labels
        assert np.array_equal(ours.predict_proba, expected.predict_proba)
    else:
        for field in ("predicted_value", "min_value", "max_value"):
            assert getattr(ours, field) == getattr(expected, field)


DISCRETIZED = [
    {},
    {"discretizer": "decile"},
    {"discretizer": "entropy", "training_labels": IRIS.target},
    {"discretize_continuous": False},
    {"discretize_continuous": False, "sample_around_instance": True},
]
CALLS = [
    {"labels": (0, 2)},
    {"top_labels": 3},
    {"top_labels": 2, "num_features": 2},
    {"num_features": 3, "distance_metric": "cosine"},
    {"num_features": 2, "model_regressor": Lasso(alpha=0.001)},
]
SELECTIONS = ["none", "forward_selection", "highest_weights", "lasso_path", "auto"]


@pytest.mark.parametrize("settings", DISCRETIZED)
@pytest.mark.parametrize("call", CALLS)
def test_iris(settings, call, limes, models):
    (ours, our_rows, our), (expected, rows, theirs) = both(
        limes, IRIS.data, IRIS.data[70], models["iris"], explain=call, feature_names=IRIS.feature_names, **settings
    )
    for one, other in zip(ours, expected, strict=True):
        assert_same(one, other)
    for one, other in zip(our_rows, rows, strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(our.random_state.random_sample(3), theirs.random_state.random_sample(3))


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("settings", [{}, {"discretize_continuous": False}])
def test_every_selection_on_mixed_columns(selection, settings, limes, models):
    names = {3: ["red", "green", "blue"], 4: ["no", "yes"]}
    (ours, our_rows, our), (expected, rows, theirs) = both(
        limes,
        MIXED,
        MIXED[40],
        models["mixed"],
        explain={"num_features": 3, "top_labels": 2},
        categorical_features=[3, 4],
        categorical_names=names,
        class_names=["a", "b", "c"],
        feature_selection=selection,
        **settings,
    )
    for one, other in zip(ours, expected, strict=True):
        assert_same(one, other)
    assert all(map(np.array_equal, our_rows, rows))
    for field in ("feature_values", "categorical_features", "feature_names", "class_names"):
        assert getattr(our, field) == getattr(theirs, field), field
    for column, frequencies in theirs.feature_frequencies.items():
        assert np.array_equal(our.feature_frequencies[column], frequencies)
    assert np.array_equal(our.scaler.scale_, theirs.scaler.scale_)
    assert np.array_equal(our.scaler.mean_, theirs.scaler.mean_)


@pytest.mark.parametrize("settings", DISCRETIZED)
@pytest.mark.parametrize("regressor", [None, BayesianRidge()])
def test_regression(settings, regressor, limes, models):
    (ours, our_rows, _), (expected, rows, _) = both(
        limes,
        IRIS.data,
        IRIS.data[3],
        models["regression"],
        mode="regression",
        explain={"model_regressor": regressor, "num_features": 3},
        **settings,
    )
    for one, other in zip(ours, expected, strict=True):
        assert_same(one, other, near=1e-8)
        assert one.as_list() == one.as_list(1)
    assert all(map(np.array_equal, our_rows, rows))


def test_statistics_in_place_of_the_data(limes, models):
    quartile = discretize.QuartileDiscretizer(IRIS.data, [], IRIS.feature_names)
    explainer = lime_tabular.LimeTabularExplainer(IRIS.data)
    stats = {name: getattr(quartile, name) for name in ("means", "mins", "maxs", "stds")}
    stats |= {"feature_values": explainer.feature_values, "feature_frequencies": explainer.feature_frequencies}
    bins = {column: quartile.maxs[column][:-1] for column in range(4)}
    (ours, our_rows, _), (expected, rows, _) = both(
        limes, IRIS.data, IRIS.data[70], models["iris"], training_data_stats=stats | {"bins": bins}
    )
    assert_same(ours[0], expected[0])
    assert all(map(np.array_equal, our_rows, rows))
    without = lime_tabular.LimeTabularExplainer(IRIS.data, random_state=np.random.RandomState(5), training_data_stats=stats)
    asked = Asked(models["iris"])
    without.explain_instance(IRIS.data[70], asked, num_samples=S)
    assert np.array_equal(asked.calls[0], rows[0])  # lime samples zeros
    with pytest.raises(ValueError, match=r"Missing keys in training_data_stats. Details: \['stds'\]"):
        lime_tabular.LimeTabularExplainer(IRIS.data, training_data_stats={k: v for k, v in stats.items() if k != "stds"})


def test_kernels_and_widths(limes, models):
    def kernel(d, kernel_width):
        return 1 / (1 + d / kernel_width)

    for settings in ({"kernel_width": 3}, {"kernel": kernel}):
        (ours, _, _), (expected, _, _) = both(limes, IRIS.data, IRIS.data[70], models["iris"], **settings)
        assert_same(ours[0], expected[0])


def test_a_discretizer_of_limes_own(limes, models):
    lime_discretize = pytest.importorskip("lime.discretize")
    asked = Asked(models["iris"]), Asked(models["iris"])
    found = []
    for module, model in zip((lime_tabular, limes), asked, strict=True):
        made = lime_discretize.DecileDiscretizer(IRIS.data, [], IRIS.feature_names, random_state=np.random.RandomState(3))
        explainer = module.LimeTabularExplainer(IRIS.data, discretizer=made, random_state=np.random.RandomState(5))
        found.append(explainer.explain_instance(IRIS.data[70], model, num_samples=S))
    assert_same(*found)
    assert np.array_equal(asked[0].calls[0], asked[1].calls[0])


def sparse_data():
    random = np.random.RandomState(0)
    return sparse.csr_matrix(random.normal(size=(80, 12)) * (random.rand(80, 12) < 0.4) * np.arange(1, 13))


@pytest.mark.parametrize("selection", ["none", "auto"])
def test_sparse_rows_are_sampled_as_in_lime_and_scaled_rightly(selection, limes):
    data = sparse_data()
    model = LogisticRegression().fit(data, np.asarray(data.sum(1)).ravel() > 0)
    asked, found = [], []
    for module in (lime_tabular, limes):
        asked.append(Asked(model.predict_proba))
        explainer = module.LimeTabularExplainer(data, random_state=np.random.RandomState(5), feature_selection=selection)
        found.append(explainer.explain_instance(data[3], asked[-1], num_samples=S))
    ours = found[0]
    assert sparse.issparse(asked[0].calls[0])
    assert np.array_equal(asked[0].calls[0].toarray(), asked[1].calls[0].toarray())
    where = data[3].indices
    scale = explainer.scaler.scale_[where]
    z = asked[0].calls[0].toarray()[:, where] / scale
    distances = np.linalg.norm(z - z[0], axis=1)
    weights = np.sqrt(np.exp(-(distances**2) / (0.75 * 12**0.5) ** 2))
    fitted = Ridge(alpha=1).fit(z, model.predict_proba(asked[0].calls[0])[:, 1], sample_weight=weights)
    coefficients = dict(ours.local_exp[1])
    np.testing.assert_allclose([coefficients[j] for j in where], fitted.coef_, rtol=0, atol=1e-9)
    assert ours.domain_mapper.feature_indexes == where.tolist()
    assert len(ours.as_list()) == len(where)


def test_sparse_rows_around_the_instance_and_in_one_queue():
    data = sparse_data()
    model = LogisticRegression().fit(data, np.asarray(data.sum(1)).ravel() > 0)
    made = [
        lime_tabular.LimeTabularExplainer(data, random_state=np.random.RandomState(5), sample_around_instance=True)
        for _ in range(2)
    ]
    together = made[0].explain_instances(data[:6], model.predict_proba, num_samples=S, batch_size=500)
    for i, one in enumerate(together):
        assert_same(one, made[1].explain_instance(data[i], model.predict_proba, num_samples=S), near=1e-12)


def test_series(limes):
    random = np.random.RandomState(0)
    data = random.normal(size=(60, 4, 2))
    settings = {"feature_names": ["u", "v"], "class_names": ["down", "up"]}

    def predict(rows):
        assert rows.shape[1:] == (4, 2)
        p = 1 / (1 + np.exp(-rows[:, -1, 1]))
        return np.stack([1 - p, p], 1)

    found = []
    for module in (lime_tabular, limes):
        explainer = module.RecurrentTabularExplainer(data, random_state=np.random.RandomState(5), **settings)
        found.append(explainer.explain_instance(data[7], predict, num_samples=S))
        assert (explainer.n_timesteps, explainer.n_features) == (4, 2)
    assert_same(*found)
    unnamed = lime_tabular.RecurrentTabularExplainer(data)
    assert unnamed.feature_names[:5] == ["0_t-3", "0_t-2", "0_t-1", "0_t-0", "1_t-3"]
    explainer = lime_tabular.RecurrentTabularExplainer(data, **settings)
    with pytest.raises(GpulimeError, match=r"a row must be a series \(4, 2\), as in the training data; got \(3, 2\)"):
        explainer.explain_instance(data[0, :3], predict)


def test_many_rows_equal_a_loop(models):
    def made():
        return lime_tabular.LimeTabularExplainer(IRIS.data, random_state=3)

    asked = Asked(models["iris"])
    together = made().explain_instances(IRIS.data[:5], asked, num_samples=S, top_labels=2, batch_size=450)
    assert max(map(len, asked.calls)) == 450
    one_by_one = made()
    for i, one in enumerate(together):
        assert_same(one, one_by_one.explain_instance(IRIS.data[i], models["iris"], num_samples=S, top_labels=2), near=1e-12)


def test_a_row_that_fails_fails_alone(models):
    rows = [IRIS.data[0], IRIS.data[1, :3], IRIS.data[2], ["a", "b", "c", "d"]]
    explainer = lime_tabular.LimeTabularExplainer(IRIS.data, random_state=3)
    with pytest.raises(UnexplainedError, match=r"row 1: a row must have 4 values, as the training data; got \(3,\)") as caught:
        explainer.explain_instances(rows, models["iris"], num_samples=S)
    assert sorted(caught.value.explanations) == [0, 2]
    assert "a row must hold numbers" in str(caught.value.failures[3])

    def fails(batch):
        if (batch == IRIS.data[1]).all(1).any():
            raise RuntimeError("no such row")
        return models["iris"](batch)

    with pytest.raises(UnexplainedError, match="row 1: RuntimeError: no such row") as caught:
        explainer.explain_instances(IRIS.data[:4], fails, num_samples=S, batch_size=1000)
    assert sorted(caught.value.explanations) == [0, 2, 3]
    with pytest.raises(RuntimeError, match="no such row"):
        explainer.explain_instance(IRIS.data[1], fails, num_samples=S)


def test_a_value_that_a_bin_has_alone_is_sampled_as_it_is(limes):
    model = LinearRegression().fit(DIABETES.data, DIABETES.target)
    asked = Asked(model.predict), Asked(model.predict)
    for module, one in zip((lime_tabular, limes), asked, strict=True):
        explainer = module.LimeTabularExplainer(DIABETES.data, mode="regression", random_state=0)
        explainer.explain_instance(DIABETES.data[0], one, num_samples=S)
    ours, theirs = (one.calls[0] for one in asked)
    assert np.array_equal(np.delete(ours, 1, 1), np.delete(theirs, 1, 1))
    sex = np.unique(DIABETES.data[:, 1])
    assert np.abs(ours[:, 1, None] - sex).min(1).max() < 1e-9
    assert (theirs[:, 1] == 0).mean() > 0.3


def test_missing_values():
    data = IRIS.data.copy()
    data[::5, 2] = np.nan
    data = np.column_stack([data, np.where(np.arange(150) % 7 == 0, np.nan, np.arange(150) % 3)])

    def predict(rows):
        p = 0.1 + 0.8 * np.isnan(rows[:, 2])
        return np.stack([1 - p, p], 1)

    explainer = lime_tabular.LimeTabularExplainer(data, feature_names=list("abcde"), categorical_features=[4], random_state=0)
    explained = explainer.explain_instance(data[0], predict, num_samples=1000)
    assert explained.as_list()[0][0] == "c is missing"
    assert explained.as_list()[0][1] > 0.7
    assert explained.domain_mapper.discretized_feature_names[4] == "e=missing"
    plain = lime_tabular.LimeTabularExplainer(IRIS.data, discretize_continuous=False)
    with pytest.raises(GpulimeError, match="missing values only with discretize_continuous=True"):
        plain.explain_instance(data[0, :4], predict)


def test_a_category_that_training_lacks(models):
    explainer = lime_tabular.LimeTabularExplainer(
        MIXED, categorical_features=[3, 4], categorical_names={3: ["r", "g", "b"]}, feature_names=list("abcde"), random_state=0
    )
    row = MIXED[0].copy()
    row[3] = 9
    explained = explainer.explain_instance(row, models["mixed"], num_samples=S)
    assert "d=9" in dict(explained.as_list())


def test_frames(models):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(IRIS.data, columns=IRIS.feature_names)
    model = LogisticRegression(max_iter=1000).fit(frame, IRIS.target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer = lime_tabular.LimeTabularExplainer(frame, random_state=0)
        ours = explainer.explain_instance(frame.iloc[70], model.predict_proba, num_samples=S)
        explainer.explain_instances(frame[:2], model.predict_proba, num_samples=S)
    explainer = lime_tabular.LimeTabularExplainer(IRIS.data, feature_names=IRIS.feature_names, random_state=0)
    expected = explainer.explain_instance(
        IRIS.data[70], lambda rows: model.predict_proba(pandas.DataFrame(rows, columns=IRIS.feature_names)), num_samples=S
    )
    assert_same(ours, expected, near=1e-12)
    with pytest.raises(
        GpulimeError, match=r"training_data must be numbers; gpulime\.TableExplainer takes DataFrames with text"
    ):
        lime_tabular.LimeTabularExplainer(frame.assign(colour="red"))


@pytest.mark.parametrize("wanted", [["pw", "sl"], [3, 0], [-1, 0]])
def test_categorical_columns_have_names_or_numbers(wanted, models):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(IRIS.data.round(), columns=["sl", "sw", "pl", "pw"])
    explainer = lime_tabular.LimeTabularExplainer(frame, categorical_features=wanted, discretizer="decile", random_state=0)
    found = explainer.explain_instance(frame.iloc[70], lambda rows: models["iris"](rows.to_numpy()), num_samples=S)
    names = [name for name, _ in found.as_list()]
    assert {"pw=2", "sl=6"} <= set(names)
    assert not any(name in names for name in ("pl=5", "sw=3"))


@pytest.mark.parametrize("selection", ["auto", "highest_weights", "none", "forward_selection"])
@pytest.mark.parametrize("bins", [True, False])
def test_a_regressor_that_gives_zeros_has_limes_order(selection, bins, limes, models):
    call = {"model_regressor": Lasso(alpha=0.05), "num_features": 10, "labels": (0, 1, 2)}
    settings = {"feature_selection": selection, "discretize_continuous": bins}
    (ours, _, _), (expected, _, _) = both(limes, MIXED, MIXED[70], models["mixed"], explain=call, **settings)
    for label in range(3):
        weights = expected[0].as_list(label)
        assert [name for name, _ in ours[0].as_list(label)] == [name for name, _ in weights]
        assert sum(weight == 0 for _, weight in weights) > 1


@pytest.mark.parametrize("discretizer", ["quartile", "entropy"])
def test_a_column_of_missing_values(discretizer, models):
    data, row = IRIS.data.copy(), IRIS.data[70]
    data[:, 1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings = {"discretizer": discretizer, "training_labels": IRIS.target, "random_state": 0}
        explainer = lime_tabular.LimeTabularExplainer(data, **settings)
        found = explainer.explain_instance(row, lambda rows: models["iris"](np.nan_to_num(rows)), num_samples=S)
    assert "1 is not missing" in dict(found.as_list())


def test_an_option_that_has_no_effect_is_said():
    with pytest.warns(UserWarning, match="sample_around_instance=True has no effect with discretize_continuous=True"):
        lime_tabular.LimeTabularExplainer(IRIS.data, sample_around_instance=True)


BAD = [
    (
        {"discretizer": "quart"},
        {},
        "Discretizer must be 'quartile', 'decile', 'entropy' or a BaseDiscretizer instance; got 'quart'",
    ),
    ({"discretizer": "entropy"}, {}, "Labels must be not None when using EntropyDiscretizer"),
    (
        {"discretizer": "entropy", "training_labels": IRIS.target[:5]},
        {},
        r"discretizer='entropy' needs training_labels, a class for each of 150 rows; got \(5,\)",
    ),
    ({"feature_names": ["a"]}, {}, "feature_names must name 4 columns; got 1 name$"),
    ({"categorical_features": [9]}, {}, "categorical_features must be below the 4 columns; got 9"),
    (
        {"categorical_features": ["pww"], "feature_names": ["sl", "sw", "pl", "pw"]},
        {},
        "categorical_features must be columns; got 'pww' .did you mean 'pw'",
    ),
    ({"categorical_features": np.array([True, False])}, {}, "categorical_features must be numbers or names of columns; got"),
    ({"categorical_features": "pw"}, {}, "categorical_features must be numbers or names of columns; got 'pw'"),
    ({"categorical_features": 3}, {}, "categorical_features must be numbers or names of columns; got 3"),
    ({"mode": "regress"}, {}, "mode must be one of"),
    ({"feature_selection": "best"}, {}, "feature_selection must be one of"),
    ({}, {"labels": (5,)}, r"labels must be below the number of classes, 3; got \[5\]"),
    ({}, {"labels": ("a",)}, "labels must be class numbers"),
    ({}, {"num_features": "10"}, "num_features must be a whole number, at least 1, or None for all; got '10'"),
    ({"categorical_names": ["a"]}, {}, "categorical_names must be a mapping of columns; got list"),
    ({"kernel_width": "wide"}, {}, "kernel_width must be a number above 0, or None; got 'wide'"),
    ({}, {"data_row": IRIS.data[:2]}, r"a row must have 4 values, .*; got \(2, 4\): explain_instances takes several rows"),
    ({}, {"num_samples": 1}, "num_samples must be at least 2"),
]


@pytest.mark.parametrize(("settings", "call", "message"), BAD)
def test_bad_arguments(settings, call, message, models):
    with pytest.raises(GpulimeError, match=message):
        lime_tabular.LimeTabularExplainer(IRIS.data, **settings).explain_instance(
            **{"data_row": IRIS.data[0], "predict_fn": models["iris"], "num_samples": 50} | call
        )


@pytest.mark.parametrize("selection", ["auto", "forward_selection", "highest_weights", "none"])
def test_no_number_of_features_is_all(selection, models):
    explainer = lime_tabular.LimeTabularExplainer(IRIS.data, feature_selection=selection, random_state=0)
    assert len(explainer.explain_instance(IRIS.data[0], models["iris"], num_features=None, num_samples=50).as_list()) == 4


def test_a_model_without_probabilities(models):
    explainer = lime_tabular.LimeTabularExplainer(IRIS.data)
    with pytest.raises(NotImplementedError, match="LIME does not currently support classifier models without probability"):
        explainer.explain_instance(IRIS.data[0], lambda rows: models["iris"](rows).argmax(1))
    with pytest.raises(ValueError, match=r"for 50 rows and must return probabilities \(50, classes\); got \(50, 3, 1\)"):
        explainer.explain_instance(IRIS.data[0], lambda rows: models["iris"](rows)[..., None], num_samples=50)
    with pytest.warns(UserWarning, match="Prediction probabilities do not sum to 1"):
        explainer.explain_instance(IRIS.data[0], lambda rows: 3 * models["iris"](rows), num_samples=50)
    found = explainer.explain_instance(IRIS.data[0], lambda rows: models["iris"](rows)[:, 0], num_samples=50)
    assert len(found.predict_proba) == 2
    regression = lime_tabular.LimeTabularExplainer(IRIS.data, mode="regression")
    with pytest.raises(ValueError, match=r"for 50 rows and must return a number for each, \(50,\); got \(50, 3\)"):
        regression.explain_instance(IRIS.data[0], models["iris"], num_samples=50)


def test_verbose_prints_as_lime(capsys, models):
    lime_tabular.LimeTabularExplainer(IRIS.data, verbose=True).explain_instance(IRIS.data[0], models["iris"], num_samples=50)
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["Intercept", "Prediction_local", "Right:"]


def test_explainers_pickle(models):
    explainer = lime_tabular.LimeTabularExplainer(IRIS.data, random_state=np.random.RandomState(0))
    again = pickle.loads(pickle.dumps(explainer))
    assert_same(*(one.explain_instance(IRIS.data[0], models["iris"], num_samples=50) for one in (explainer, again)))


# lime's own tests of its tabular explainer, as assertions of ours.
@pytest.fixture(scope="module")
def forest():
    return RandomForestClassifier(100, random_state=10).fit(IRIS.data, IRIS.target)


@pytest.mark.parametrize(
    ("settings", "call"),
    [
        ({"discretize_continuous": True}, {}),
        ({"discretize_continuous": False}, {}),
        ({"discretize_continuous": True, "discretizer": "decile"}, {}),
        ({"discretize_continuous": True, "discretizer": "entropy", "training_labels": IRIS.target}, {}),
        ({"discretize_continuous": False, "sample_around_instance": True}, {}),
        ({"discretize_continuous": True}, {"model_regressor": LinearRegression()}),
        ({"discretize_continuous": False, "kernel": lambda d, kernel_width: np.exp(-d / kernel_width)}, {}),
    ],
)
def test_the_petals_explain_iris(settings, call, forest):
    explainer = lime_tabular.LimeTabularExplainer(
        IRIS.data, feature_names=IRIS.feature_names, class_names=IRIS.target_names, random_state=10, **settings
    )
    explained = explainer.explain_instance(
        IRIS.data[118], forest.predict_proba, num_features=2, num_samples=1000, labels=(0, 2), **call
    )
    for label in (0, 2):
        parts = {part for part, _ in explained.local_exp[label]}
        assert parts == {2, 3}
        assert len(explained.as_list(label)) == 2
    assert explained.class_names == list(IRIS.target_names)


def test_the_same_seed_gives_the_same_explanation(forest):
    def explained(seed):
        explainer = lime_tabular.LimeTabularExplainer(IRIS.data, random_state=seed)
        return explainer.explain_instance(IRIS.data[118], forest.predict_proba, num_samples=300).as_map()

    assert explained(1) == explained(1)
    assert explained(1) != explained(2)


def test_a_regression_finds_the_largest_coefficients():
    model = LinearRegression().fit(DIABETES.data, DIABETES.target)
    explainer = lime_tabular.LimeTabularExplainer(
        DIABETES.data, feature_names=DIABETES.feature_names, mode="regression", discretize_continuous=False, random_state=0
    )
    explained = explainer.explain_instance(DIABETES.data[0], model.predict, num_features=4, num_samples=2000)
    names = {name for name, _ in explained.as_list()}
    strongest = {DIABETES.feature_names[j] for j in np.argsort(-np.abs(model.coef_))[:4]}
    assert len(names & strongest) >= 3
    with pytest.raises(NotImplementedError):
        explained.available_labels()


def test_names_of_categories_go_by_the_name_of_their_column():
    data = np.column_stack([np.random.RandomState(0).randint(0, 2, 60), np.random.RandomState(1).rand(60)])
    settings = {"feature_names": ["sex", "age"], "categorical_features": ["sex"], "random_state": 0}
    predict = lambda rows: np.stack([rows[:, 0], 1 - rows[:, 0]], 1)  # noqa: E731
    by_name, by_number = (
        lime_tabular.LimeTabularExplainer(data, categorical_names={key: ["F", "M"]}, **settings)
        .explain_instance(data[0], predict)
        .as_list()
        for key in ("sex", 0)
    )
    assert by_name == by_number
    assert any(name in ("sex=F", "sex=M") for name, _ in by_name)
    with pytest.raises(GpulimeError, match=r"categorical_names must be of columns \['sex', 'age'\]; got \['sx'\]"):
        lime_tabular.LimeTabularExplainer(data, categorical_names={"sx": ["F", "M"]}, **settings)
