"""The drop-in for lime's text explainer, compared with lime itself."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from gpulime import lime_text
from gpulime.errors import GpulimeError
from tests.texts.tiny import TEXTS

theirs = pytest.importorskip("lime.lime_text")

S = 300
TEXTS = [*TEXTS[:4], "Noise; the NOISE of naïve cafés 😀 and games\n"]
CLASSES = ["car", "game", "other"]


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(TEXTS, [0, 1, 0, 1, 2])


def assert_equal(ours, expected):
    """All fields that users of lime read."""
    assert list(ours.local_exp) == list(expected.local_exp)
    for label, weights in expected.local_exp.items():
        assert [part for part, _ in ours.local_exp[label]] == [part for part, _ in weights]
        np.testing.assert_allclose([w for _, w in ours.local_exp[label]], [w for _, w in weights], rtol=0, atol=1e-9)
        np.testing.assert_allclose(ours.intercept[label], expected.intercept[label], rtol=0, atol=1e-9)
        assert [name for name, _ in ours.as_list(label)] == [name for name, _ in expected.as_list(label)]
        positions = [name for name, _ in expected.as_list(label, positions=True)]
        assert [name for name, _ in ours.as_list(label, positions=True)] == positions
    np.testing.assert_allclose(ours.score, expected.score, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.local_pred, expected.local_pred, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.predict_proba, expected.predict_proba, rtol=0, atol=1e-9)
    assert ours.top_labels == expected.top_labels
    assert ours.class_names == expected.class_names
    assert ours.available_labels() == expected.available_labels()


def both(settings, classifier, text=TEXTS[0], **arguments):
    arguments = {"num_samples": S, "num_features": 4} | arguments
    return [
        made.LimeTextExplainer(random_state=3, **settings).explain_instance(text, classifier, **arguments)
        for made in (lime_text, theirs)
    ]


DIVIDED = {
    "bow": {},
    "positions": {"bow": False},
    "mask": {"bow": False, "mask_string": "engine"},
    "callable": {"split_expression": re.compile(r"\w+|[^\w\s]").findall},
    "spaces": {"split_expression": " ", "bow": False},
    "characters": {"char_level": True},
    "character positions": {"char_level": True, "bow": False},
}


@pytest.mark.parametrize("selection", ["auto", "none", "forward_selection", "highest_weights", "lasso_path"])
@pytest.mark.parametrize("settings", DIVIDED.values(), ids=DIVIDED)
def test_explanations_equal_limes(pipeline, settings, selection):
    settings = settings | {"feature_selection": selection}
    for i in (0, 4):
        assert_equal(*both(settings, pipeline.predict_proba, TEXTS[i]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"top_labels": 2},
        {"labels": (0, 2)},
        {"labels": [1, -1]},
        {"num_features": 30},
        {"distance_metric": "euclidean"},
        {"distance_metric": "l1"},
        {"model_regressor": LinearRegression()},
        {"model_regressor": Lasso(alpha=0.001), "num_features": 7},
        {"num_samples": 20},
    ],
    ids=str,
)
def test_arguments_mean_what_they_mean_in_lime(pipeline, arguments):
    settings = {"class_names": CLASSES}
    assert_equal(*both(settings, pipeline.predict_proba, **arguments))


def test_kernels(pipeline):
    def kernel(d, kernel_width):
        return 1 / (1 + d / kernel_width)

    assert_equal(*both({"kernel": kernel, "kernel_width": 40}, pipeline.predict_proba))
    assert_equal(*both({"kernel_width": 3}, pipeline.predict_proba))


def test_other_classifiers(pipeline):
    forest = make_pipeline(CountVectorizer(ngram_range=(1, 2)), RandomForestClassifier(10, random_state=0)).fit(
        TEXTS, [0, 1, 0, 1, 1]
    )
    assert_equal(*both({}, forest.predict_proba))

    def function(strings):
        return np.array([[len(string), string.count("e")] for string in strings], dtype=np.float64)

    assert_equal(*both({"bow": False}, function))


@pytest.mark.parametrize("settings", DIVIDED.values(), ids=DIVIDED)
def test_the_strings_equal_limes_in_their_order(settings):
    """One by one, since equal strings are passed once and sorted."""

    def asked(made):
        seen = []

        def function(strings):
            seen.extend(strings)
            return np.array([[len(string), string.count("e")] for string in strings], dtype=np.float64)

        made.LimeTextExplainer(random_state=1, **settings).explain_instance(TEXTS[4], function, num_samples=50)
        return seen

    assert sorted(set(asked(theirs))) == sorted(asked(lime_text))


def test_the_stream_goes_on_as_limes(pipeline):
    state = np.random.RandomState(7)
    expected = [
        theirs.LimeTextExplainer(random_state=state).explain_instance(text, pipeline.predict_proba, num_samples=S)
        for text in TEXTS
    ]
    ours = np.random.RandomState(7)
    explainer = lime_text.LimeTextExplainer(random_state=ours)
    first = [explainer.explain_instance(text, pipeline.predict_proba, num_samples=S) for text in TEXTS[:2]]
    rest = explainer.explain_instances(TEXTS[2:], pipeline.predict_proba, num_samples=S)
    for one, other in zip([*first, *rest], expected, strict=True):
        assert_equal(one, other)
    assert ours.randint(2**31) == state.randint(2**31)
    np.random.seed(5)
    expected = theirs.LimeTextExplainer().explain_instance(TEXTS[0], pipeline.predict_proba, num_samples=S)
    np.random.seed(5)
    assert_equal(lime_text.LimeTextExplainer().explain_instance(TEXTS[0], pipeline.predict_proba, num_samples=S), expected)


def test_looking_at_an_explanation_draws_nothing(pipeline):
    explainer = lime_text.LimeTextExplainer(random_state=0)
    explanation = explainer.explain_instance(TEXTS[0], pipeline.predict_proba, num_samples=S)
    before = explainer.random_state.get_state()[1:3]
    explanation.as_list()
    repr(explanation)
    after = explainer.random_state.get_state()[1:3]
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]


def test_indexed_strings_have_limes_fields():
    for made in (lime_text, theirs):
        for bow in (True, False):
            for one in (made.IndexedString("a b, a", bow=bow), made.IndexedCharacters("aba", bow=bow)):
                assert made.TextDomainMapper(one).indexed_string is one
    pairs = [(lime_text.IndexedString(TEXTS[1], bow=bow), theirs.IndexedString(TEXTS[1], bow=bow)) for bow in (True, False)] + [
        (lime_text.IndexedCharacters(TEXTS[1], bow=bow), theirs.IndexedCharacters(TEXTS[1], bow=bow)) for bow in (True, False)
    ]
    for ours, other in pairs:
        for name in ("raw", "as_list", "inverse_vocab", "bow", "mask_string"):
            assert getattr(ours, name) == getattr(other, name)
        assert ours.as_np.tolist() == other.as_np.tolist()
        assert ours.string_start.tolist() == other.string_start.tolist()
        assert list(ours.positions) == list(other.positions)
        assert ours.raw_string() == other.raw_string()
        assert ours.num_words() == other.num_words()
        assert ours.word(2) == other.word(2)
        assert ours.string_position(1).tolist() == other.string_position(1).ravel().tolist()
        assert ours.inverse_removing([0, 2]) == other.inverse_removing([0, 2])


def test_the_classifier_never_sees_more_than_a_batch():
    calls = []

    def function(strings):
        calls.append(len(strings))
        return [[0.25, 0.75]] * len(strings)

    lime_text.LimeTextExplainer(random_state=0).explain_instances(TEXTS, function, num_samples=S, batch_size=32)
    assert max(calls) == 32
    assert len([call for call in calls if call < 32]) <= 1


def test_one_probability_is_that_of_label_1(pipeline):
    two = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(TEXTS, [0, 1, 0, 1, 1])
    ours = lime_text.LimeTextExplainer(random_state=3).explain_instance(
        TEXTS[0], lambda strings: two.predict_proba(strings)[:, 1], num_samples=S, num_features=4
    )
    assert_equal(ours, both({}, two.predict_proba)[1])


def test_a_failing_text_fails_alone(pipeline):
    texts = [TEXTS[0], "", TEXTS[1], "?!", None]
    with pytest.raises(lime_text.UnexplainedError) as caught:
        lime_text.LimeTextExplainer(random_state=3).explain_instances(texts, pipeline.predict_proba, num_samples=S)
    assert str(caught.value).startswith("text 1: a text must have a word that can be hidden; got an empty one; 2 more failed")
    assert sorted(caught.value.failures) == [1, 3, 4]
    assert str(caught.value.failures[4]) == "a text must be a string; got NoneType None"
    state = np.random.RandomState(3)
    for i in (0, 2):
        expected = theirs.LimeTextExplainer(random_state=state).explain_instance(
            texts[i], pipeline.predict_proba, num_samples=S
        )
        assert_equal(caught.value.explanations[i], expected)


def test_a_text_whose_prediction_fails_fails_alone(pipeline):
    def function(strings):
        if any("goalkeeper" in string for string in strings):
            raise OSError("no goalkeepers")
        return pipeline.predict_proba(strings)

    with pytest.raises(lime_text.UnexplainedError, match="text 1: OSError: no goalkeepers; 4 of 5 were explained") as caught:
        lime_text.LimeTextExplainer(random_state=3).explain_instances(TEXTS, function, num_samples=S)
    assert sorted(caught.value.explanations) == [0, 2, 3, 4]
    with pytest.raises(OSError, match="no goalkeepers"):
        lime_text.LimeTextExplainer(random_state=3).explain_instance(TEXTS[1], function, num_samples=S)


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        ({"feature_selection": "best"}, {}, "feature_selection must be one of 'none', 'auto'"),
        ({"split_expression": "("}, {}, "split_expression must be a regular expression"),
        ({"kernel_width": 0}, {}, "kernel_width must be a number above 0; got 0"),
        ({}, {"labels": ["spam"]}, "labels must be class numbers if top_labels is None or 0; got .'spam'."),
        ({}, {"labels": (5,)}, "labels must be below the number of classes, 3; got .5."),
        ({}, {"num_samples": 1}, "num_samples must be at least 2"),
        ({}, {"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"kernel": lambda d, kernel_width: 0 * d}, {}, "kernel must return finite weights of 0 or more, not all 0"),
        ({"split_expression": lambda text: ["dog"]}, {}, "'dog' is not in"),
    ],
    ids=str,
)
def test_other_arguments_are_refused(pipeline, settings, arguments, said):
    with pytest.raises(GpulimeError, match=said):
        lime_text.LimeTextExplainer(**settings).explain_instance(TEXTS[0], pipeline.predict_proba, **arguments)


def test_class_labels_are_no_probabilities(pipeline):
    with pytest.raises(
        GpulimeError, match=r"the classifier_fn was asked for \d+ rows and must return probabilities .*; got labels"
    ):
        lime_text.LimeTextExplainer().explain_instance(TEXTS[0], pipeline.predict, num_samples=S)


def test_a_mask_string_without_effect_is_told():
    with pytest.warns(UserWarning, match="mask_string has no effect with bow=True") as caught:
        lime_text.LimeTextExplainer(mask_string="X")
    assert caught[0].filename == __file__


def test_verbose_prints_what_lime_prints(pipeline, capsys):
    ours, expected = [], []
    for made, lines in ((lime_text, ours), (theirs, expected)):
        made.LimeTextExplainer(random_state=3, verbose=True).explain_instance(TEXTS[0], pipeline.predict_proba, num_samples=S)
        lines += capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in ours] == [line.split()[0] for line in expected]


def test_explainers_and_explanations_pickle(pipeline):
    explainer = lime_text.LimeTextExplainer(random_state=3)
    explanation = explainer.explain_instance(TEXTS[0], pipeline.predict_proba, num_samples=S)
    again = pickle.loads(pickle.dumps(explanation))
    assert again.as_list() == explanation.as_list()
    pickle.loads(pickle.dumps(explainer)).explain_instance(TEXTS[0], pipeline.predict_proba, num_samples=S)
