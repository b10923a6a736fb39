"""TableExplainer: equal to lime where lime is right, and what lime cannot do."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from torch import nn

import gpulime
from gpulime import GpulimeError, TableExplainer, key

IRIS, DIABETES = load_iris(), load_diabetes()
S = 300
ROWS = IRIS.data[[3, 70, 140]]


@pytest.fixture(scope="module")
def logistic():
    return LogisticRegression(max_iter=1000).fit(IRIS.data, IRIS.target)


class Counting:
    """A model that counts its rows."""

    def __init__(self, function):
        self.function, self.rows, self.calls = function, 0, []

    def __call__(self, rows):
        self.rows += len(rows)
        self.calls.append(rows)
        return self.function(rows)


def limes(data, row, predict, label, **settings):
    lime_tabular = pytest.importorskip("lime.lime_tabular")
    call = {name: settings.pop(name) for name in ("num_features",) if name in settings}
    explainer = lime_tabular.LimeTabularExplainer(data, random_state=0, **settings)
    return explainer.explain_instance(row, predict, labels=(label,), num_samples=S, **{"num_features": 100} | call)


SETTINGS = [
    ({}, {}),
    ({"discretizer": "decile"}, {"discretizer": "decile"}),
    (
        {"discretizer": "entropy", "training_labels": IRIS.target},
        {"discretizer": "entropy", "training_labels": IRIS.target},
    ),
    ({"discretizer": None}, {"discretize_continuous": False}),
    ({"discretizer": None, "sample_around": True}, {"discretize_continuous": False, "sample_around_instance": True}),
    ({"num_features": 2}, {"num_features": 2}),
    ({"discretizer": None, "num_features": 3, "feature_selection": "highest_weights"}, None),
    ({"kernel_width": 1.5}, {"kernel_width": 1.5}),
]


@pytest.mark.parametrize(("ours", "limes_"), SETTINGS)
def test_equal_to_a_new_lime_explainer_for_each_row(ours, limes_, logistic):
    if limes_ is None:
        limes_ = {"discretize_continuous": False, "num_features": 3, "feature_selection": "highest_weights"}
    explained = TableExplainer(logistic, IRIS.data, n_samples=S, **ours).explain(ROWS, labels=[[1], [1], [2]])
    for i, label in enumerate((1, 1, 2)):
        expected = limes(IRIS.data, ROWS[i], logistic.predict_proba, label, **limes_)
        coefficients = dict(expected.local_exp[label])
        for j in range(4):
            assert abs(float(explained.coefficients[i, 0, j]) - coefficients.get(j, 0.0)) < 1e-9
        assert abs(float(explained.intercepts[i, 0]) - expected.intercept[label]) < 1e-9
        assert abs(float(explained.scores[i, 0]) - expected.score) < 1e-9
        assert abs(float(explained.local_predictions[i, 0]) - expected.local_pred[0]) < 1e-9


def test_categorical_columns_of_an_array(logistic):
    data = np.column_stack([IRIS.data[:, :2], np.arange(150) % 3, np.arange(150) % 2])
    model = LogisticRegression(max_iter=1000).fit(data, IRIS.target)
    for ours, limes_ in (({}, {}), ({"discretizer": None}, {"discretize_continuous": False})):
        explainer = TableExplainer(model, data, n_samples=S, categorical_features=[2, "3"], **ours)
        explained = explainer.explain(data[:2], labels=1)
        expected = limes(data, data[1], model.predict_proba, 1, categorical_features=[2, 3], **limes_)
        for j, weight in expected.local_exp[1]:
            assert abs(float(explained.coefficients[1, 0, j]) - weight) < 1e-9
        assert explained.names[1][2:] == ["2=1", "3=1"]


def test_a_shared_neighbourhood_asks_the_model_once_and_keys_ask_it_for_each_row(logistic):
    model = Counting(logistic.predict_proba)
    explainer = TableExplainer(model, IRIS.data, n_samples=S)
    explainer.explain(IRIS.data[:40])
    assert model.rows == 40 + S - 1
    model.rows = 0
    explainer.explain(IRIS.data[:5], keys=[key(i) for i in range(5)])
    assert model.rows == 5 * S


@pytest.mark.parametrize("settings", [{}, {"discretizer": None}, {"discretizer": None, "sample_around": True}])
def test_rows_with_keys_are_a_function_of_seed_and_key(settings, logistic):
    def coefficients(rows, keys, seed=0):
        explainer = TableExplainer(logistic, IRIS.data, n_samples=S, seed=seed, **settings)
        return explainer.explain(rows, labels=1, keys=keys).coefficients

    keys = torch.tensor([key("a"), key("b"), key("c")])
    together = coefficients(ROWS, keys)
    for i in range(3):
        alone = coefficients(ROWS[i : i + 1], keys[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-12)
    torch.testing.assert_close(coefficients(ROWS[::-1].copy(), keys.flip(0)).flip(0), together, rtol=0, atol=1e-12)
    assert not torch.allclose(coefficients(ROWS, keys, seed=1), together)
    assert not torch.allclose(coefficients(ROWS[[0, 0]], keys[:2])[0], together[1])


def test_batches_of_any_size_change_nothing(logistic):
    def explained(**settings):
        return TableExplainer(logistic, IRIS.data, n_samples=S, **settings).explain(ROWS).coefficients

    torch.testing.assert_close(explained(batch_size=7), explained(), rtol=0, atol=1e-12)


def test_neighbourhoods_drawn_a_few_rows_at_a_time_change_nothing(logistic, monkeypatch):
    explainer = TableExplainer(logistic, IRIS.data, n_samples=S)
    expected = explainer.explain(ROWS, keys=[1, 2, 3])
    monkeypatch.setattr("gpulime.tables.batch.AHEAD", 1)
    actual = explainer.explain(ROWS, keys=[1, 2, 3])
    torch.testing.assert_close(actual.coefficients, expected.coefficients, rtol=0, atol=1e-12)
    assert actual.names == expected.names


def test_explanations_have_names_values_and_limes_methods(logistic):
    explainer = TableExplainer(
        logistic, IRIS.data, n_samples=S, feature_names=IRIS.feature_names, class_names=IRIS.target_names
    )
    explained = explainer.explain(ROWS, labels=["setosa"] * 3)
    assert repr(explained) == "ExplainedRows(3 rows, 1 labels, up to 4 columns, on cpu)"
    one = explained[1]
    named = dict(one.as_list())
    assert set(named) == set(explained.names[1])
    assert "5.80 < sepal length (cm) <= 6.40" in named or any("sepal length (cm)" in name for name in named)
    assert explained.values[1] == ["5.90", "3.20", "4.80", "1.80"]
    frame = explained.to_frame()
    assert list(frame["name"][:4]) == explained.names[0]
    assert set(frame["class_name"]) == {"setosa"}
    assert len(list(explained)) == 3
    assert explained[1:].names == explained.names[1:]
    assert (explained.standard_errors > 0).all()
    assert "sepal length (cm)" in explained._repr_html_()
    assert "sepal length (cm)" in one._repr_html_()
    again = gpulime.ExplainedRows.cat([explained[:1], explained[1:]])
    assert again.values == explained.values
    assert torch.equal(again.columns, explained.columns)


def test_bins_that_are_close_have_names_that_differ():
    data = np.column_stack([np.linspace(0, 0.004, 100), np.linspace(0, 1, 100)])
    explainer = TableExplainer(lambda rows: rows[:, 1], data, n_samples=S, feature_names=["a", "b"])
    assert explainer.explain(data[[0, 50, 99]]).names == [
        ["a <= 0.001", "b <= 0.25"],
        ["0.002 < a <= 0.003", "0.50 < b <= 0.75"],
        ["a > 0.003", "b > 0.75"],
    ]


def test_a_users_edges(logistic):
    explainer = TableExplainer(
        logistic, IRIS.data, n_samples=S, feature_names=["a", "b", "c", "d"], discretizer={"a": [5, 6], 3: [1.0]}
    )
    assert explainer.explain(ROWS).names[1] == ["5.00 < a <= 6.00", "3.00 < b <= 3.30", "4.35 < c <= 5.10", "d > 1.00"]
    with pytest.raises(GpulimeError, match=r"an edge or more for each column; got none for \['a'\]"):
        TableExplainer(logistic, IRIS.data, feature_names=["a", "b", "c", "d"], discretizer={"a": []})
    with pytest.raises(GpulimeError, match="discretizer names a column that training_data lacks: 'e'"):
        TableExplainer(logistic, IRIS.data, feature_names=["a", "b", "c", "d"], discretizer={"e": [1]})


def test_regression():
    model = LinearRegression().fit(DIABETES.data, DIABETES.target)
    explainer = TableExplainer(model, DIABETES.data, n_samples=S, feature_names=DIABETES.feature_names)
    assert explainer.mode == "regression"
    explained = explainer.explain(DIABETES.data[:3])
    assert explained.labels.tolist() == [[0]] * 3
    one = explained[0]
    assert one.min_value < one.predicted_value < one.max_value
    assert abs(one.predicted_value - model.predict(DIABETES.data[:1])[0]) < 1e-9
    names = [name for name, _ in one.as_list()]
    assert any(name.startswith("bmi") or "< bmi <=" in name for name in names)
    keyed = explainer.explain(DIABETES.data[:3], keys=[1, 2, 3])
    assert (keyed.bounds[:, 0] < keyed.predictions[:, 0]).all()
    with pytest.raises(GpulimeError, match="labels are for a classification; this is a regression"):
        explainer.explain(DIABETES.data[:3], labels=1)


def test_a_value_that_a_binary_column_has_is_sampled_as_it_is():
    asked = Counting(lambda rows: rows[:, 0])
    TableExplainer(asked, DIABETES.data, mode="regression", n_samples=S).explain(DIABETES.data[:1])
    sampled = np.concatenate(asked.calls)[:, 1]
    assert np.abs(sampled[:, None] - np.unique(DIABETES.data[:, 1])).min(1).max() < 1e-9


def test_missing_values_have_a_bin_of_their_own():
    data = IRIS.data.copy()
    data[::5, 2] = np.nan

    def model(rows):
        return np.isnan(rows[:, 2]).astype(float) * 0.8 + 0.1

    asked = Counting(model)
    explainer = TableExplainer(asked, data, n_samples=1000, feature_names=["a", "b", "c", "d"])
    explained = explainer.explain(data[:2], labels=1)
    assert explained.names[0][2] == "c is missing"
    assert explained.values[0][2] == "missing"
    assert float(explained.coefficients[0, 0, 2]) > 0.7
    assert float(explained.coefficients[1, 0, 2]) < -0.1
    share = np.isnan(np.concatenate(asked.calls)[2:, 2]).mean()
    assert 0.15 < share < 0.25
    for settings, why in (({"missing": "error"}, "missing='error'"), ({"discretizer": None}, "no bin for missing values")):
        with pytest.raises(GpulimeError, match=f"training_data: row 0 has no value for 'c', and .*{why}"):
            TableExplainer(model, data, feature_names=["a", "b", "c", "d"], **settings)
    explainer = TableExplainer(model, IRIS.data, missing="error", n_samples=S)
    with pytest.raises(GpulimeError, match="inputs: row 0 has no value for '2'"):
        explainer.explain(data)


@pytest.mark.parametrize("discretizer", ["quartile", "entropy"])
def test_a_column_of_missing_values(discretizer):
    data = IRIS.data.copy()
    data[:, 1] = np.nan
    rows = np.array([data[70], IRIS.data[70]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = {"training_labels": IRIS.target}
        explainer = TableExplainer(lambda rows: rows[:, 0] / 10, data, discretizer=discretizer, n_samples=S, **labels)
        explained = explainer.explain(rows)
    assert [names[1] for names in explained.names] == ["1 is missing", "1 is not missing"]
    assert explained.coefficients.isfinite().all()


def test_a_missing_value_that_training_lacks(logistic):
    rows = ROWS.copy()
    rows[0, 1] = np.nan
    explained = TableExplainer(lambda rows: logistic.predict_proba(np.nan_to_num(rows)), IRIS.data, n_samples=S).explain(rows)
    assert explained.names[0][1] == "1 is missing"
    assert explained.coefficients.isfinite().all()


def test_modules_get_tensors_on_their_device_and_in_their_dtype():
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    explained = TableExplainer(module, torch.from_numpy(IRIS.data), n_samples=S).explain(torch.from_numpy(ROWS), labels=2)

    def predict(rows):
        with torch.no_grad():
            return module.eval()(torch.from_numpy(rows).float()).softmax(-1).numpy()

    expected = TableExplainer(predict, IRIS.data, n_samples=S).explain(ROWS, labels=2)
    assert module.training is False
    torch.testing.assert_close(explained.coefficients, expected.coefficients, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("training", "kind"),
    [
        (torch.tensor(IRIS.data, dtype=torch.float32), torch.float32),
        (torch.tensor(IRIS.data), torch.float64),
        (torch.tensor(IRIS.data).round().long(), torch.float32),
        (IRIS.data.astype(np.float32), np.float32),
        (IRIS.data.astype(">f4"), np.float32),
        (IRIS.data.round().astype(int), np.float64),
        (IRIS.data.tolist(), np.float64),
    ],
    ids=["float32", "float64", "int64", "array", "big-endian", "whole", "list"],
)
def test_a_function_gets_rows_of_the_kind_of_the_training_data(training, kind, logistic):
    seen = []

    def function(rows):
        seen.append(rows)
        return torch.as_tensor(rows).float().matmul(weights).softmax(-1)

    weights = torch.tensor(logistic.coef_.T, dtype=torch.float32)
    explained = TableExplainer(function, training, n_samples=S).explain(ROWS)
    assert {type(rows) for rows in seen} == {torch.Tensor if isinstance(kind, torch.dtype) else np.ndarray}
    assert all(rows.dtype == kind and rows.shape[1] == 4 for rows in seen)
    plain = TableExplainer(lambda rows: function(rows).numpy(), np.asarray(training, dtype=np.float64), n_samples=S)
    torch.testing.assert_close(explained.coefficients, plain.explain(ROWS).coefficients, rtol=0, atol=1e-6)


def test_a_network_in_a_function_and_series_of_tensors():
    torch.manual_seed(0)
    net, training = nn.Linear(4, 3), torch.tensor(IRIS.data, dtype=torch.float32)
    explained = TableExplainer(lambda rows: net(rows).softmax(-1), training, n_samples=S).explain(training[:3])
    expected = TableExplainer(net, training, n_samples=S).explain(training[:3])
    torch.testing.assert_close(explained.coefficients, expected.coefficients, rtol=0, atol=1e-6)
    series, shapes = training.reshape(-1, 2, 2), []

    def function(rows):
        shapes.append(tuple(rows.shape[1:]))
        return net(rows.flatten(1)).softmax(-1)

    again = TableExplainer(function, series, n_samples=S).explain(series[:1])
    assert set(shapes) == {(2, 2)}
    assert again.coefficients.shape == (1, 3, 4)


@pytest.mark.parametrize("training", [torch.tensor(IRIS.data, dtype=torch.float32), IRIS.data.astype(np.float32)])
def test_an_estimator_gets_arrays_in_float64_whatever_the_training_data_is(training, logistic):
    seen = []

    class Watched(LogisticRegression):
        def predict_proba(self, rows):
            seen.append(rows)
            return super().predict_proba(rows)

    model = Watched(max_iter=1000).fit(IRIS.data, IRIS.target)
    for called in (model, model.predict_proba):
        TableExplainer(called, training, n_samples=S).explain(ROWS)
    assert all(type(rows) is np.ndarray and rows.dtype == np.float64 for rows in seen)


@pytest.mark.parametrize(
    ("function", "training", "message"),
    [
        (
            lambda rows: nn.Linear(4, 3)(rows),
            IRIS.data,
            r"a float64 array \(\d+, 4\) \(TypeError: linear\(\): argument 'input'",
        ),
        (
            lambda rows: nn.Linear(4, 3)(rows),
            torch.tensor(IRIS.data),
            r"a torch.float64 tensor \(\d+, 4\) \(RuntimeError: mat1",
        ),
        (lambda rows: rows.astype(float), torch.tensor(IRIS.data), r"a torch.float64 tensor .*AttributeError: 'Tensor' object"),
    ],
    ids=["array", "dtype", "tensor"],
)
def test_a_function_that_refuses_its_rows_is_told_what_it_got(function, training, message):
    with pytest.raises(GpulimeError, match=f"the model failed for {message}.*: a function gets rows of the kind and dtype"):
        TableExplainer(function, training, n_samples=S).explain(ROWS)


def test_other_errors_of_a_function_are_left_as_they_are():
    with pytest.raises(KeyError, match="mine"):
        TableExplainer(lambda rows: {}["mine"], IRIS.data, n_samples=S).explain(ROWS)


@pytest.mark.parametrize("shape", [(150,), (150, 1)])
def test_a_single_probability_is_that_of_the_second_class(shape):
    def model(rows):
        return 1 / (1 + np.exp(-rows[:, 2] + 4)).reshape(len(rows), *shape[1:])

    explained = TableExplainer(model, IRIS.data, n_samples=S).explain(ROWS, labels=[[0, 1]] * 3)
    torch.testing.assert_close(explained.coefficients[:, 0], -explained.coefficients[:, 1], rtol=0, atol=1e-12)
    assert explained.predictions.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_rounding_and_nan_in_a_single_probability():
    def model(rows):
        found = 1 / (1 + np.exp(-rows[:, 2] + 4))
        found[0] = 1 + 1e-7
        found[(rows == ROWS[1]).all(1)] = np.nan
        return found

    with pytest.warns(UserWarning, match="row 1: the model's output was NaN or infinite for 1 of 300 samples"):
        explained = TableExplainer(model, IRIS.data, n_samples=S).explain(ROWS, labels=1)
    assert explained.coefficients[[0, 2]].isfinite().all()
    with pytest.raises(GpulimeError, match=r"in \[0, 1\]; got 4.6$"):
        TableExplainer(lambda rows: rows[:, 0], IRIS.data, n_samples=S).explain(ROWS[:1])


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]])
def test_a_wrong_number_of_class_names_is_told(logistic, names):
    with pytest.raises(GpulimeError, match=f"class_names must name each column .*; got {len(names)} names, 3 columns"):
        TableExplainer(logistic, IRIS.data, class_names=names, n_samples=S).explain(ROWS)


def test_series():
    random = np.random.RandomState(0)
    data = random.normal(size=(80, 5, 2))
    asked = Counting(lambda rows: 1 / (1 + np.exp(-rows[:, 3, 1])))
    explainer = TableExplainer(asked, data, n_samples=1000, feature_names=["u", "v"])
    explained = explainer.explain(data[:3], labels=1)
    assert all(rows.shape[1:] == (5, 2) for rows in asked.calls)
    assert np.array_equal(asked.calls[0][:3], data[:3])
    assert explainer.feature_names[:6] == ["u_t-4", "u_t-3", "u_t-2", "u_t-1", "u_t-0", "v_t-4"]
    strongest = explained.coefficients[:, 0].abs().argmax(-1).tolist()
    assert [explainer.feature_names[j] for j in strongest] == ["v_t-1"] * 3

    class Last(nn.Module):
        def forward(self, series):
            return torch.stack([series[:, 3, 1], -series[:, 3, 1]], 1)

    explained = TableExplainer(Last(), data, n_samples=1000, feature_names=["u", "v"]).explain(data[:3], labels=1)
    assert explained.coefficients[:, 0].abs().argmax(-1).tolist() == strongest


def test_explainers_pickle(logistic):
    explainer = TableExplainer(logistic, IRIS.data, n_samples=S)
    expected = explainer.explain(ROWS)
    actual = pickle.loads(pickle.dumps(explainer)).explain(ROWS)
    assert torch.equal(actual.coefficients, expected.coefficients)
    assert pickle.loads(pickle.dumps(actual)).names == expected.names


def test_the_users_random_state_is_left_alone(logistic):
    np.random.seed(0)
    explainer = TableExplainer(logistic, IRIS.data, n_samples=S)
    explainer.explain(ROWS, keys=[1, 2, 3])
    drawn = np.random.random_sample()
    np.random.seed(0)
    assert drawn == np.random.random_sample()


BAD = [
    ({"inputs": IRIS.data[:, :3]}, r"inputs must be \(n, 4\), as the training data; got \(150, 3\)"),
    ({"inputs": IRIS.data[0]}, r"inputs must be \(n, 4\), as the training data; got \(4,\): pass \[row\] for one row"),
    ({"inputs": None}, "inputs must be rows as in training_data; got NoneType"),
    ({"inputs": sparse.csr_matrix(ROWS)}, r"inputs must be dense, .*; got csr_matrix \(3, 4\): pass rows.toarray\(\)"),
    ({"labels": [0, 1]}, r"labels must be integers, \(3,\) or \(3, l\), or 3 lists, one for each row; got \[0, 1\]"),
    ({"inputs": [["a", "b", "c", "d"]]}, "inputs must be numbers; got list .*: pass text and categories in a DataFrame"),
    ({"inputs": [[1, 2, 3, 4], [1, 2]]}, "inputs must be numbers; got list .*rows of one width"),
    ({"inputs": IRIS.data[:0]}, "inputs must have a row or more; got none"),
    ({"labels": 3}, "labels must be below the model's 3 classes; row 0 has 3"),
    ({"labels": "setosa"}, "must be one of 3 class names; got 'setosa'"),
    ({"keys": [1, 2]}, r"keys must be 3 whole numbers, one for each input, such as gpulime.key\(id\); got \(2,\)"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_bad_inputs(given, message, logistic):
    with pytest.raises(GpulimeError, match=message):
        TableExplainer(logistic, IRIS.data, n_samples=S).explain(**{"inputs": ROWS} | given)


BAD_SETTINGS = [
    ({"training_data": IRIS.data[0]}, "training_data must be a DataFrame, an array"),
    ({"training_data": [["a"], ["b"]]}, "training_data must be numbers; got list .*: pass text and categories in a DataFrame"),
    (
        {"training_data": np.array([[0, 1], [2, np.inf]]), "feature_names": ["a", "b"]},
        "training_data must be finite, or missing; row 1 has inf in 'b'",
    ),
    ({"training_data": sparse.csr_matrix([[0, np.inf], [1, 2]])}, "training_data must be finite; it is not in column '1'"),
    ({"feature_names": ["a"]}, "feature_names must name 4 columns; got 1 name$"),
    ({"categorical_features": [4]}, "categorical_features must be below the 4 columns; got 4"),
    ({"categorical_features": [0.5]}, "categorical_features must be numbers or names of columns; got 0.5"),
    ({"discretizer": "quartiles"}, "discretizer must be one of .*; got 'quartiles' .did you mean 'quartile'"),
    ({"discretizer": "entropy"}, "discretizer='entropy' needs training_labels, a class for each of 150 rows; got None"),
    ({"discretizer": {9: [1]}}, "discretizer must be a mapping of columns, by name or number below 4; got 9"),
    ({"discretizer": {0: "few"}}, "discretizer must give numbers as the edges of '0'; got 'few'"),
    ({"categorical_names": ["a"]}, "categorical_names must be a mapping of columns, by name or number; got list"),
    ({"feature_names": "abcd"}, "feature_names must be a list of 4 names; got 'abcd'"),
    ({"missing": "bins"}, "missing must be one of 'bin', 'error'; got 'bins'"),
    ({"sample_around": True}, "sample_around=True needs discretizer=None"),
    ({"mode": "regress"}, "mode must be one of 'classification', 'regression'; got 'regress'"),
    ({"n_samples": 1}, "n_samples must be at least 2, the row and one sample; got 1"),
    ({"model": 3}, "model must be an estimator with predict_proba or predict, a function of rows, or an nn.Module; got int"),
]


@pytest.mark.parametrize(("given", "message"), BAD_SETTINGS)
def test_bad_settings(given, message, logistic):
    with pytest.raises(GpulimeError, match=message):
        TableExplainer(**{"model": logistic, "training_data": IRIS.data} | given)


def test_a_model_without_probabilities(logistic):
    limes_own = "LIME does not currently support classifier models without probability scores"
    words = np.array(["setosa", "other"])
    for model in (logistic.predict, lambda rows: words[(rows[:, 0] > 5).astype(int)], lambda rows: rows[:, 0]):
        with pytest.raises(NotImplementedError, match=limes_own):
            TableExplainer(model, IRIS.data, n_samples=S).explain(ROWS)
    with pytest.raises(GpulimeError, match=f"{limes_own}; LinearSVC has no predict_proba"):
        TableExplainer(LinearSVC().fit(IRIS.data, IRIS.target), IRIS.data)
    with pytest.raises(GpulimeError, match=r"for 302 rows and must return a number for each, \(302,\); got \(302, 3\)"):
        TableExplainer(logistic.predict_proba, IRIS.data, mode="regression", n_samples=S).explain(ROWS)
    with pytest.raises(GpulimeError, match=r"for 302 rows and must return probabilities \(302, classes\); got NoneType"):
        TableExplainer(lambda rows: None, IRIS.data, n_samples=S).explain(ROWS)
    with pytest.raises(GpulimeError, match=r"for 302 rows and must return probabilities \(302, classes\); got \(2, 3\)"):
        TableExplainer(lambda rows: np.ones((2, 3)), IRIS.data, n_samples=S).explain(ROWS)


def test_probabilities_that_do_not_sum_to_1_are_told_once(logistic):
    explainer = TableExplainer(lambda rows: 2 * logistic.predict_proba(rows), IRIS.data, n_samples=S)
    with pytest.warns(UserWarning, match=r"Prediction probabilities do not sum to 1\. Check that your classifier") as told:
        explainer.explain(ROWS)
    assert len(told) == 1
    half, module = torch.tensor(IRIS.data).half(), nn.Linear(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.explain(ROWS)
        TableExplainer(lambda rows: rows.float().softmax(1).half(), half, n_samples=S).explain(ROWS)
        TableExplainer(module, IRIS.data, activation=None, n_samples=S).explain(ROWS)
        TableExplainer(lambda rows: rows, IRIS.data, activation="softmax", n_samples=S).explain(ROWS)
        TableExplainer(lambda rows: 9 * rows[:, 0], IRIS.data, mode="regression", n_samples=S).explain(ROWS)


def test_outputs_that_are_not_finite_cost_their_row_alone(logistic):
    def model(rows):
        found = logistic.predict_proba(rows)
        found[(rows == ROWS[1]).all(1)] = np.nan
        return found

    with pytest.warns(UserWarning, match="row 1: the model's output was NaN or infinite for 1 of 300 samples"):
        explained = TableExplainer(model, IRIS.data, n_samples=S).explain(ROWS, labels=1)
    assert explained.coefficients[1].isnan().all()
    assert explained.coefficients[[0, 2]].isfinite().all()


def test_a_ridge_of_scikit_learn_by_hand():
    """The definition in NumPy: bins, weights and the fit of one row with a neighbourhood of its own."""
    model = Ridge().fit(IRIS.data, IRIS.target)
    asked = Counting(model.predict)
    explainer = TableExplainer(asked, IRIS.data, n_samples=S, mode="regression")
    explained = explainer.explain(ROWS[1:2], keys=[7])
    samples = np.concatenate(asked.calls)
    edges = np.percentile(IRIS.data, [25, 50, 75], axis=0).T
    bins = np.stack([np.searchsorted(edges[j], samples[:, j]) for j in range(4)], 1)
    masks = (bins == bins[0]).astype(float)
    weights = np.exp(-(4 - masks.sum(1)) / (1.125 * 4))
    fitted = Ridge(alpha=1).fit(masks, model.predict(samples), sample_weight=weights)
    np.testing.assert_allclose(explained.coefficients[0, 0], fitted.coef_, rtol=0, atol=1e-9)
    assert len(samples) == S


@pytest.mark.parametrize("settings", [{}, {"num_features": 2}, {"kernel_width": 0.5}])
def test_samples_in_the_same_bins_may_be_fitted_as_one(settings, logistic, monkeypatch):
    def explained():
        return TableExplainer(logistic, IRIS.data, n_samples=2000, **settings).explain(ROWS, labels=[[0, 1], [1, 1], [2, 0]])

    grouped = explained()
    monkeypatch.setattr("gpulime.tables.masked_tables.LEAST_REPEATS", 2000)
    alone = explained()
    for name in ("coefficients", "standard_errors", "intercepts", "scores", "scores_loo", "spreads", "local_predictions"):
        torch.testing.assert_close(getattr(grouped, name), getattr(alone, name), rtol=0, atol=1e-9, msg=name)
    monkeypatch.setattr("gpulime.engine.fit.MASK_ENTRIES", {"cpu": 1})
    pieces = explained()
    for name in ("coefficients", "standard_errors", "scores_loo"):
        torch.testing.assert_close(getattr(alone, name), getattr(pieces, name), rtol=0, atol=1e-9, msg=name)


def sparse_table():
    random = np.random.RandomState(0)
    data = sparse.csr_matrix(random.normal(size=(80, 12)) * (random.rand(80, 12) < 0.4) * np.arange(1, 13))
    return data, LogisticRegression().fit(data, np.asarray(data.sum(1)).ravel() > 0)


def test_sparse_rows_equal_the_drop_in():
    data, model = sparse_table()
    explainer = TableExplainer(model, data, n_samples=S)
    explained = explainer.explain(data[:5], labels=1)
    for i in range(5):
        drop_in = gpulime.lime_tabular.LimeTabularExplainer(data, random_state=0, feature_selection="none")
        expected = dict(drop_in.explain_instance(data[i], model.predict_proba, num_samples=S).local_exp[1])
        count = int(explained.counts[i])
        assert explained.columns[i, :count].tolist() == data[i].indices.tolist()
        for j in range(count):
            assert abs(float(explained.coefficients[i, 0, j]) - expected[int(explained.columns[i, j])]) < 1e-9
        assert explained.names[i] == [str(j) for j in data[i].indices]
        assert len(explained[i].as_list()) == count
    assert set(explained.to_frame()["part"]) <= set(range(12))


@pytest.mark.parametrize("settings", [{}, {"sample_around": True}, {"num_features": 2}])
def test_sparse_rows_with_keys(settings, monkeypatch):
    data, model = sparse_table()
    explainer = TableExplainer(model, data, n_samples=S, **settings)
    together = explainer.explain(data[:6], labels=1, keys=range(6))
    for i in range(6):
        alone = explainer.explain(data[[i]], labels=1, keys=[i]).coefficients[0]
        torch.testing.assert_close(together.coefficients[i, :, : alone.shape[1]], alone, rtol=0, atol=1e-12)
    monkeypatch.setattr("gpulime.tables.sparse_batch.AHEAD", 1)
    pieces = explainer.explain(data[:6], labels=1, keys=range(6))
    torch.testing.assert_close(pieces.coefficients, together.coefficients, rtol=0, atol=1e-12)
    assert pieces.names == together.names


def test_bad_sparse_rows():
    data, model = sparse_table()
    explainer = TableExplainer(model, data, n_samples=S)
    with pytest.raises(
        GpulimeError, match=r"inputs must be a sparse matrix \(n, 12\), as the training data; got ndarray \(80, 12\)"
    ):
        explainer.explain(data.toarray())
    with pytest.raises(GpulimeError, match="row 1: a sparse row must have an entry that is not 0"):
        explainer.explain(sparse.vstack([data[:1], 0 * data[:1]]))
    with pytest.raises(GpulimeError, match="sparse rows have no bins: leave discretizer as it is; got 'decile'"):
        TableExplainer(model, data, discretizer="decile")
