"""Explanations of texts and rows: lime's constructor, fields and methods, with the same answers as lime's own class."""

from __future__ import annotations

import inspect
import math
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpulime import Explanations
from gpulime.errors import GpulimeError
from gpulime.explanations.explanation import BatchExplanation, DomainMapper, Explanation, ExplanationList
from gpulime.explanations.table import TableDomainMapper
from gpulime.explanations.text import TextDomainMapper

WEIGHTS = {2: [(1, 0.5), (0, -0.25)], 1: [(0, 0.125), (2, -0.0625)]}
TEXT = "good \N{PARTY POPPER} bad, not good"
WORDS, SPANS = ["good", "bad", "not"], [[(0, 4), (16, 20)], [(7, 10)], [(12, 15)]]
NAMES = ["negative", "neutral", "positive"]


def text_mapper():
    return TextDomainMapper(WORDS, TEXT, SPANS)


def classification(mapper=None, weights=WEIGHTS, kind=Explanation):
    one = kind(mapper or text_mapper(), class_names=NAMES)
    one.local_exp = {label: list(pairs) for label, pairs in weights.items()}
    one.standard_errors = {label: {part: abs(w) / 10 for part, w in pairs} for label, pairs in weights.items()}
    one.top_labels, one.predict_proba = [2, 1], np.array([0.125, 0.25, 0.625])
    one.predictions, one.scores, one.scores_loo = {2: 0.625, 1: 0.25}, {2: 0.9, 1: 0.8}, {2: 0.7, 1: 0.6}
    one.intercept, one.local_preds = {2: 0.2, 1: 0.1}, {2: 0.6, 1: 0.3}
    return one


def regression(mapper=None, kind=Explanation):
    one = kind(mapper or DomainMapper(), mode="regression")
    one.local_exp = {1: [(1, 30.0), (0, -20.0)], 0: [(1, -30.0), (0, 20.0)]}
    one.standard_errors = {label: {0: 15.0, 1: 1.0} for label in (0, 1)}
    one.predicted_value, one.min_value, one.max_value = 150.0, 25.0, 346.0
    one.predictions, one.scores = {1: 150.0}, {1: 0.5}
    return one


def batch(n=2, l=2, k=3):
    """Input 0 has one part less than the others, and part 1 of input 1 was not selected."""
    coefficients = torch.arange(1.0, n * l * k + 1, dtype=torch.float64).view(n, l, k)
    coefficients[0, :, k - 1] = 0
    coefficients[1, :, 1] = 0
    numbers = {
        name: torch.arange(n * l, dtype=torch.float64).view(n, l) + i
        for i, name in enumerate(("local_predictions", "intercepts", "scores", "scores_loo", "spreads"))
    }
    return Explanations(
        coefficients=coefficients,
        standard_errors=coefficients / 10,
        labels=torch.tensor([[0, 2], [2, 0]])[:n, :l],
        predictions=torch.tensor([[0.25, 0.75], [0.875, 0.125]])[:n, :l],
        predicted=torch.full((n,), 2),
        predicted_probs=torch.full((n,), 0.75),
        counts=torch.tensor([k - 1] + [k] * (n - 1)),
        samples=torch.full((n,), 100),
        exhaustive=torch.zeros(n, dtype=torch.bool),
        non_finite=torch.zeros(n, dtype=torch.int64),
        class_names=NAMES,
        **numbers,
    )


def test_constructor_and_methods_have_limes_parameters_in_limes_order():
    theirs = pytest.importorskip("lime.explanation").Explanation
    for name in ("__init__", "available_labels", "as_list", "as_map", "as_pyplot_figure"):
        expected = [(p.name, p.default) for p in inspect.signature(getattr(theirs, name)).parameters.values()]
        ours = [(p.name, p.default) for p in inspect.signature(getattr(Explanation, name)).parameters.values()]
        assert [one for one in ours if one[0] != "errors"] == expected


@pytest.mark.parametrize("mode", ["classification", "regression"])
def test_fields_and_answers_are_limes(mode):
    lime = pytest.importorskip("lime.explanation")
    theirs = lime.Explanation(lime.DomainMapper(), mode=mode, class_names=NAMES)
    ours = Explanation(DomainMapper(), mode=mode, class_names=NAMES)
    assert set(vars(theirs)) <= set(vars(ours))
    missing = {"domain_mapper"}
    assert {name: vars(ours)[name] for name in set(vars(theirs)) - missing} == {
        name: value for name, value in vars(theirs).items() if name not in missing
    }
    for one in (theirs, ours):
        one.local_exp = {label: [(part, np.float32(w)) for part, w in pairs] for label, pairs in WEIGHTS.items()}
    assert ours.as_list() == theirs.as_list()
    assert all(type(w) is float for _, w in ours.as_list())
    assert ours.as_list(label=2) == theirs.as_list(label=2)
    assert ours.as_map() is ours.local_exp
    if mode == "regression":
        for one in (theirs, ours):
            with pytest.raises(NotImplementedError, match="Not supported for regression"):
                one.available_labels()
        return
    assert ours.available_labels() == theirs.available_labels() == [2, 1]
    ours.top_labels = theirs.top_labels = [1]
    assert ours.available_labels() == theirs.available_labels() == [1]


@pytest.mark.parametrize("bow", [True, False])
def test_words_and_positions_are_limes_in_code_points(bow):
    lime_text = pytest.importorskip("lime.lime_text")
    string = lime_text.IndexedString(TEXT, bow=bow)
    theirs = lime_text.TextDomainMapper(string)
    k = string.num_words()
    spans = [[(int(i), int(i) + len(string.word(j))) for i in string.string_position(j)] for j in range(k)]
    ours = TextDomainMapper([string.word(j) for j in range(k)], TEXT, spans)
    pairs = [(j, 1.0 / (j + 1)) for j in range(k)]
    assert ours.map_exp_ids(pairs) == theirs.map_exp_ids(pairs)
    assert ours.map_exp_ids(pairs, positions=True) == theirs.map_exp_ids(pairs, positions=True)
    assert ours.map_exp_ids(pairs)[0] == ("good", 1.0)
    assert ours.map_exp_ids(pairs, positions=True)[0] == ("good_0-16" if bow else "good_0", 1.0)
    assert all(TEXT[start:stop] == word for word, places in zip(ours.words, ours.spans, strict=True) for start, stop in places)


def test_columns_have_the_name_of_their_bin_or_their_own():
    mapper = TableDomainMapper(
        ["width", "colour=red", "age"], ["2.8", "True", "nan"], ["width <= 3.00", None, "age is missing"]
    )
    pairs = [(2, 0.5), (1, 0.25), (0, -0.125)]
    assert mapper.map_exp_ids(pairs) == [("age is missing", 0.5), ("colour=red", 0.25), ("width <= 3.00", -0.125)]
    assert TableDomainMapper(["a", "b"], ["1", "2"]).map_exp_ids([(1, 1.0)]) == [("b", 1.0)]
    assert TableDomainMapper(list("abcd"), ["1"], feature_indexes=np.array([2])).feature_indexes == [2]


def test_names_and_values_that_do_not_fit_are_refused():
    with pytest.raises(GpulimeError, match="spans for each of 3 words; got 1"):
        TextDomainMapper(WORDS, TEXT, SPANS[:1])
    with pytest.raises(GpulimeError, match="must have 2 values for 2 columns; got 1"):
        TableDomainMapper(["a", "b"], ["1"])
    with pytest.raises(GpulimeError, match="must have 1 values for 2 columns; got 2"):
        TableDomainMapper(["a", "b"], ["1", "2"], feature_indexes=[0])
    with pytest.raises(GpulimeError, match="a name for each of 2 columns; got 1"):
        TableDomainMapper(["a", "b"], ["1", "2"], ["a < 1"])
    with pytest.raises(GpulimeError, match="mode must be one of 'classification', 'regression'; got 'rank'"):
        Explanation(DomainMapper(), mode="rank")


def test_standard_errors_stand_beside_names():
    one = classification()
    assert one.as_list(2, errors=True) == [("bad", 0.5, 0.05), ("good", -0.25, 0.025)]
    assert one.as_list(2, errors=True, positions=True)[1] == ("good_0-16", -0.25, 0.025)
    one.standard_errors = {2: {1: 0.05}}
    assert math.isnan(one.as_list(2, errors=True)[1][2])


def test_a_label_is_a_number_or_a_name_and_a_missing_one_names_the_explained_ones():
    one = classification()
    assert one.as_list(None) == one.as_list(2) == one.as_list("positive") == one.as_list(np.int64(2))
    assert one.as_list() == one.as_list(1) == [("good", 0.125), ("not", -0.0625)]
    for label in (0, "negative", "none", [1, 2]):
        with pytest.raises(GpulimeError, match=r"explained, 2 \(positive\), 1 \(neutral\); got"):
            one.as_list(label)
    with pytest.raises(GpulimeError, match="holds no label"):
        Explanation(DomainMapper()).as_list()
    assert classification(kind=BatchExplanation).as_list() == one.as_list(2)  # the default is the most probable


def test_one_input_of_a_batch_has_its_parts_and_its_most_probable_label_first():
    one = BatchExplanation.of(batch(), 0, text_mapper())
    assert one.available_labels() == [0, 2]
    assert one.as_list() == one.as_list(2) == [("bad", 5.0), ("good", 4.0)]
    assert one.as_list(0, errors=True) == [("bad", 2.0, 0.2), ("good", 1.0, 0.1)]
    assert (one.intercept, one.scores, one.scores_loo) == ({0: 1.0, 2: 2.0}, {0: 2.0, 2: 3.0}, {0: 3.0, 2: 4.0})
    assert (one.score, one.local_pred, one.predictions) == (2.0, 0.0, {0: 0.25, 2: 0.75})
    second = BatchExplanation.of(batch(), 1, text_mapper())
    assert second.as_list() == [("not", 9.0), ("good", 7.0)]
    assert second.class_names == NAMES


def test_a_regression_of_a_batch_has_limes_two_labels():
    values = replace(batch(l=1), labels=torch.zeros(2, 1, dtype=torch.int64))
    one = BatchExplanation.of(values, 1, text_mapper(), mode="regression", bounds=(-1, 2))
    assert one.local_exp == {1: [(2, 6.0), (0, 4.0)], 0: [(2, -6.0), (0, -4.0)]}
    assert one.as_list() == one.as_list(0) == one.as_list(7) == [("not", 6.0), ("good", 4.0)]
    assert one.as_list(errors=True)[0] == ("not", 6.0, 0.6)
    assert (one.predicted_value, one.min_value, one.max_value) == (0.875, -1.0, 2.0)
    assert one.intercept == {0: 2.0, 1: 2.0}


def test_explanations_pickle_and_say_what_they_are():
    one = classification()
    again = pickle.loads(pickle.dumps(one))
    assert again.as_list(2, errors=True) == one.as_list(2, errors=True)
    assert repr(again) == "Explanation(positive 0.625, neutral 0.250; 2 parts, R2 left out 0.70)"
    assert repr(regression()) == "Explanation(value 150.000; 2 parts, R2 fitted 0.50)"
    assert repr(Explanation(DomainMapper())) == "Explanation(no label; 0 parts)"


def test_a_slice_of_a_list_is_a_list():
    several = ExplanationList([classification(), regression()])
    assert isinstance(several[:1], ExplanationList)
    assert isinstance(several[0], Explanation)
    assert repr(several) == "ExplanationList(2 explanations)"


def test_bars_have_names_signs_and_intervals():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    one = classification()
    one.standard_errors[2][0] = 0.2
    figure = one.as_pyplot_figure(label=2, positions=True)
    assert figure.number in pyplot.get_fignums()  # so that plt.show() shows it, as in lime
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["bad_7", "good_0-16"]
    assert [bar.get_width() for bar in ax.patches] == [0.5, -0.25]
    assert [bar.get_hatch() for bar in ax.patches] == [None, "////"]
    assert ax.get_title() == "Local explanation for class positive"
    assert ax.get_xlabel().startswith("coefficient, and its 95 % interval")
    pyplot.close(figure)
    figure = regression(TableDomainMapper(["$a_1^$", "b"], ["1", "2"])).as_pyplot_figure()
    figure.canvas.draw()  # a name is no formula
    assert figure.axes[0].get_title() == "Local explanation"
    pyplot.close(figure)


def test_a_figure_without_matplotlib_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(GpulimeError, match=r'as_pyplot_figure needs matplotlib: pip install "gpulime\[plots\]"'):
        classification().as_pyplot_figure()
