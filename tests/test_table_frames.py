"""DataFrames: categorical columns by dtype, the model gets the same columns and dtypes, values that training lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime import GpulimeError, TableExplainer
from gpulime.tables.columns import Columns

pandas = pytest.importorskip("pandas")
S = 200


@pytest.fixture
def frame():
    random = np.random.RandomState(0)
    n = 120
    return pandas.DataFrame(
        {
            "age": random.randint(18, 80, n),
            "income": random.gamma(2.0, 1000.0, n),
            "colour": random.choice(["red", "green", "blue"], n),
            "size": pandas.Categorical(random.choice(["S", "M", "L"], n), categories=["S", "M", "L"], ordered=True),
            "member": random.rand(n) < 0.3,
            "visits": pandas.array(random.randint(0, 4, n), dtype="Int64"),
        }
    )


class Model:
    """Gives the second class to red members."""

    def __init__(self):
        self.frames = []

    def __call__(self, frame):
        self.frames.append(frame)
        return 0.1 + 0.4 * (frame["colour"] == "red").to_numpy() + 0.4 * frame["member"].fillna(False).to_numpy(dtype=float)


def test_the_model_gets_what_it_was_trained_on(frame):
    model = Model()
    explainer = TableExplainer(model, frame, n_samples=S)
    explained = explainer.explain(frame[:5], labels=1)
    [given] = model.frames
    pandas.testing.assert_series_equal(given.dtypes, frame.dtypes)
    pandas.testing.assert_frame_equal(given[:5].reset_index(drop=True), frame[:5].reset_index(drop=True))
    for column in ("colour", "size", "member", "visits", "age"):
        assert (
            given[column].between(frame[column].min(), frame[column].max()).all()
            if column == "age"
            else set(given[column]) <= set(frame[column])
        )
    assert explained.names[0][2] == f"colour={frame['colour'][0]}"
    assert explained.names[0][4] == f"member={frame['member'][0]}"
    assert "age" in explained.names[0][0]
    assert explained.values[0][0] == str(frame["age"][0])
    for i in range(5):
        red, member = frame["colour"][i] == "red", frame["member"][i]
        colour = float(explained.coefficients[i, 0, 2])
        assert colour > 0.3 if red else -0.3 < colour < -0.1
        assert (float(explained.coefficients[i, 0, 4]) > 0.3) == bool(member)


def test_integer_columns_are_sampled_as_integers_of_their_bins(frame):
    model = Model()
    explainer = TableExplainer(model, frame, n_samples=S)
    explainer.explain(frame[:1], labels=1)
    table, given = explainer.table, model.frames[0]["age"].to_numpy()
    drawn = np.random.RandomState()
    drawn.set_state(table.state)
    cells = table.draw(drawn, S).cells[1:, 0]
    assert np.array_equal(np.searchsorted(table.edges[0], given[1:]), cells)


def test_values_that_training_lacks(frame):
    rows = frame[:3].copy()
    rows["colour"] = ["purple", "red", None]
    rows["size"] = pandas.Categorical(["XL", "S", None])
    model = Model()
    explained = TableExplainer(model, frame, n_samples=S).explain(rows, labels=1)
    assert explained.names[0][2:4] == ["colour=purple (not in training)", "size=XL (not in training)"]
    assert explained.names[2][2:4] == ["colour is missing", "size is missing"]
    assert model.frames[0]["colour"][0] == "purple"
    assert model.frames[0]["size"][0] == "XL"
    assert model.frames[0]["colour"].isna().tolist()[:3] == [False, False, True]
    assert explained.coefficients.isfinite().all()
    assert float(explained.coefficients[1, 0, 2]) > 0.3


def test_missing_categories_and_numbers(frame):
    frame = frame.copy()
    frame.loc[::4, "colour"] = None
    frame.loc[1::4, "income"] = np.nan
    frame.loc[2::4, "visits"] = pandas.NA
    model = Model()
    explained = TableExplainer(model, frame, n_samples=S).explain(frame[:4], labels=1)
    assert explained.names[0][2] == "colour is missing"
    assert explained.names[1][1] == "income is missing"
    assert explained.names[2][5] == "visits is missing"
    given = model.frames[0]
    for column in ("colour", "income", "visits"):
        assert 0.1 < given[column][4:].isna().mean() < 0.4
    pandas.testing.assert_series_equal(given.dtypes, frame.dtypes)


def test_a_pipeline_of_scikit_learn_with_text_columns(frame):
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["colour", "size"]), (StandardScaler(), ["age", "income"])
    )
    target = np.where(frame["colour"] == "red", "yes", "no")
    pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, target)
    explainer = TableExplainer(pipeline, frame, n_samples=S)
    assert explainer.class_names == ["no", "yes"]
    explained = explainer.explain(frame[:10], labels="yes")
    strongest = explained.coefficients[:, 0].abs().argmax(-1)
    assert (strongest == 2).all()
    assert explained[0].as_list()[0][0] == explained.names[0][2]


def test_an_estimator_trained_on_a_frame_gets_frames_for_arrays(recwarn):
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    iris = load_iris(as_frame=True)
    model = LogisticRegression(max_iter=1000).fit(iris.data, iris.target)
    explainer = TableExplainer(model, iris.data.to_numpy(), n_samples=S)
    explained = explainer.explain(iris.data.to_numpy()[:3], labels=1)
    assert explainer.feature_names == list(iris.data.columns)
    expected = TableExplainer(model, iris.data, n_samples=S).explain(iris.data[:3], labels=1)
    assert torch.equal(explained.coefficients, expected.coefficients)
    assert not [warning for warning in recwarn if "feature names" in str(warning.message)]


def test_bad_frames(frame):
    explainer = TableExplainer(Model(), frame, n_samples=S)
    with pytest.raises(
        GpulimeError, match=r"inputs must be a DataFrame with the 6 columns .*age, income, colour, \.\.\.\); got ndarray"
    ):
        explainer.explain(frame.to_numpy())
    with pytest.raises(GpulimeError, match=r"got Series \(6,\): pass frame.iloc\[\[i\]\] for one row"):
        explainer.explain(frame.iloc[0])
    with pytest.raises(GpulimeError, match=r"lacks \['colour'\] .did you mean 'color'"):
        explainer.explain(frame.rename(columns={"colour": "color"}))
    with pytest.raises(GpulimeError, match="column 'age' of inputs must be numbers, as in training"):
        explainer.explain(frame.assign(age="old"))
    with pytest.raises(GpulimeError, match=r"\['day'\] are dates: convert them to numbers"):
        TableExplainer(Model(), frame.assign(day=pandas.Timestamp("2024-01-01")))


@pytest.mark.parametrize("wants", [lambda x: x.loc[:, "a"], lambda x: x["a"]])
def test_a_function_that_takes_a_frame_gets_an_array(wants):
    explainer = TableExplainer(wants, np.random.RandomState(0).normal(size=(50, 2)), n_samples=S)
    with pytest.raises(
        GpulimeError, match=r"the model failed for a float64 array \(200, 2\) .*of training_data: pass the DataFrame, tensor"
    ):
        explainer.explain(np.zeros((1, 2)))


def test_columns_may_be_in_another_order(frame):
    explainer = TableExplainer(Model(), frame, n_samples=S)
    expected = explainer.explain(frame[:3]).coefficients
    assert torch.equal(explainer.explain(frame[:3][frame.columns[::-1]]).coefficients, expected)


def test_values_of_earlier_calls_are_forgotten():
    frame = pandas.DataFrame({"c": pandas.Categorical(["a", "b"] * 20), "x": range(40)})
    zz, yy = (pandas.DataFrame({"c": pandas.Categorical([value]), "x": [1]}) for value in ("zz", "yy"))
    seen = []

    def model(rows):
        seen.append(list(rows["c"].cat.categories))
        return np.clip(0.2 * rows["c"].cat.codes.to_numpy(), 0, 1)

    explainer = TableExplainer(model, frame, n_samples=S)
    found = [explainer.explain(rows) for rows in (yy, zz, yy)]
    assert seen == [["a", "b", "yy"], ["a", "b", "zz"], ["a", "b", "yy"]]
    assert torch.equal(found[0].coefficients, found[2].coefficients)
    assert explainer.columns.categories[0].values == ["a", "b", "yy"]
    explainer.explain(pandas.concat([zz.astype(object), yy.astype(object)]))
    assert seen[-1] == ["a", "b", "zz", "yy"]


def test_values_that_training_lacks_in_other_batches():
    columns = Columns.of(pandas.DataFrame({"c": pandas.Categorical(["a", "b"])}), None, None)
    rows = pandas.DataFrame({"c": ["zz", "yy", "a", None, "zz"]})
    encoded = columns.encode(rows)
    assert columns.decode(encoded)["c"].tolist()[:3] == ["zz", "yy", "a"]
    later = columns.decode(encoded[1:])["c"]
    assert list(later.cat.categories) == ["a", "b", "yy", "zz"]
    assert (later[:2].tolist(), later.isna().tolist(), later[3]) == (["yy", "a"], [False, False, True, False], "zz")


def test_two_columns_of_one_name(frame):
    twice = pandas.concat([frame, frame[["age"]]], axis=1)
    with pytest.raises(GpulimeError, match=r"training_data must have one column of each name; got several \['age'\]"):
        TableExplainer(Model(), twice)
    with pytest.raises(GpulimeError, match=r"inputs must have one column of each name; got several \['age'\]"):
        TableExplainer(Model(), frame, n_samples=S).explain(twice[:2])
    further = pandas.concat([frame, frame[["age"]].set_axis(["z"], axis=1), frame[["age"]].set_axis(["z"], axis=1)], axis=1)
    TableExplainer(Model(), frame, n_samples=S).explain(further[:2])
