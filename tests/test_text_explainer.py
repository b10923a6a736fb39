"""TextExplainer: coefficients equal scikit-learn's Ridge on the strings, whichever way texts reach the model."""

from __future__ import annotations

import pickle
import re
import warnings

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

import gpulime
from gpulime.engine.masks import resolve
from gpulime.errors import GpulimeError
from gpulime.lime_text import LimeTextExplainer
from gpulime.texts.counts import Counts
from gpulime.texts.words import split
from tests.texts import tiny

S = 200
TEXTS = tiny.TEXTS
CLASSES = ["car", "game", "other"]
LABELS = [CLASSES[i] for i in (0, 1, 0, 1, 2)]


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def explained(pipeline):
    return gpulime.TextExplainer(pipeline, n_samples=S).explain(TEXTS)


def assert_same(actual, expected, atol=1e-12):
    for name, tensor in expected._tensors().items():
        if name in expected.PADDED:  # a batch of shorter texts is narrower
            assert not tensor[..., actual.coefficients.shape[2] :].any()
            tensor = tensor[..., : actual.coefficients.shape[2]]
        torch.testing.assert_close(getattr(actual, name), tensor, rtol=0, atol=atol, equal_nan=True)
    for name, values in expected._lists().items():
        assert getattr(actual, name) == values


def test_coefficients_are_those_of_a_ridge_on_the_strings(pipeline, explained):
    for i, text in enumerate(TEXTS):
        words = split(text)
        k = len(words)
        masks = resolve("bernoulli", 0, S)(torch.tensor(0), torch.arange(S), torch.tensor(k), k).numpy()
        probabilities = pipeline.predict_proba(list(words.strings(masks)))
        weights = np.exp(-((1 - np.sqrt(masks.mean(1))) ** 2) / (2 * 0.25**2))
        for j, label in enumerate(explained.labels[i].tolist()):
            fitted = Ridge(alpha=1.0).fit(masks.astype(float), probabilities[:, label], sample_weight=weights)
            np.testing.assert_allclose(explained.coefficients[i, j, :k], fitted.coef_, rtol=0, atol=1e-12)
            np.testing.assert_allclose(explained.intercepts[i, j], fitted.intercept_, rtol=0, atol=1e-12)
        assert explained.predicted[i] == probabilities[0].argmax()
    assert explained.standard_errors[0].min() > 0
    assert explained.class_names == CLASSES


def test_counts_and_strings_and_single_strings_agree(pipeline, explained):
    assert type(gpulime.TextExplainer(pipeline).predictor.model) is Counts
    function = gpulime.TextExplainer(lambda strings: pipeline.predict_proba(strings), n_samples=S, class_names=CLASSES)
    assert_same(function.explain(TEXTS), explained)
    one = gpulime.TextExplainer(lambda strings: pipeline.predict_proba(strings), n_samples=S, batch_size=1)
    assert_same(one.explain(TEXTS), explained)
    by_method = gpulime.TextExplainer(pipeline.predict_proba, n_samples=S, batch_size=7)
    assert type(by_method.predictor.model) is Counts
    assert_same(by_method.explain(TEXTS), explained)


def test_a_text_is_explained_alike_alone_and_in_any_order(pipeline, explained, monkeypatch):
    explainer = gpulime.TextExplainer(pipeline, n_samples=S)
    order = [3, 0, 4, 2, 1]
    assert_same(explainer.explain([TEXTS[i] for i in order]), explained.ordered(order))
    alone = explainer.explain([TEXTS[1]])
    assert_same(alone, explained[1:2])
    monkeypatch.setattr("gpulime.texts.preparation.WINDOW_ROWS", 50)
    monkeypatch.setattr("gpulime.texts.preparation.AT_ONCE", 2)
    assert_same(explainer.explain(TEXTS), explained)
    assert_same(type(explained).cat(list(explainer.stream([_batch(TEXTS[:2]), _batch(TEXTS[2:])]))), explained)


def _batch(texts):
    from gpulime.texts.batch import Batch

    return Batch(texts)


def test_keys_and_labels(pipeline, explained):
    explainer = gpulime.TextExplainer(pipeline, n_samples=S)
    keys = torch.tensor([gpulime.key(text) for text in TEXTS])
    other = explainer.explain(TEXTS, labels=["game", ["car", "other"], 2, 1, 0], keys=keys)
    assert other.labels.tolist() == [[1, 1], [0, 2], [2, 2], [1, 1], [0, 0]]
    assert not torch.equal(other.coefficients[0, 0], explained.coefficients[0, explained.labels[0].tolist().index(1)])
    assert_same(explainer.explain(TEXTS[3:], labels=[1, 0], keys=keys[3:]), explainer.explain(TEXTS, [1] * 4 + [0], keys)[3:])


def test_an_explanation_has_limes_methods(explained):
    one = explained[1]
    best = int(explained.predicted[1])
    assert one.as_list() == one.as_list(best) == one.as_list(CLASSES[best])
    words, weights = zip(*one.as_list(), strict=True)
    assert {"goalkeeper", "loudly", "the"} <= set(words)
    assert np.abs(weights).tolist() == sorted(np.abs(weights), reverse=True)
    positions = dict(one.as_list(positions=True))
    assert "the_0-21-38-52" in positions
    assert [exp.as_list() for exp in explained] == [explained[i].as_list() for i in range(len(TEXTS))]
    assert explained[-1].as_map() == explained[4].as_map()
    with pytest.raises(GpulimeError, match=r"index must be in \[-5, 5\); got 5"):
        explained[5]
    assert repr(explained) == "ExplainedTexts(5 texts, 3 labels, up to 12 words, on cpu)"


def test_notebooks_show_one_and_all(explained):
    assert "goalkeeper" in explained[1]._repr_html_()
    assert explained[1].as_list()[0][0] in explained._repr_html_()


def test_a_frame_has_the_words(explained):
    pytest.importorskip("pandas")
    frame = explained.to_frame()
    assert frame["name"][(frame["input"] == 3) & (frame["label"] == 1)].tolist() == explained.words[3]
    assert len(frame) == 3 * int(explained.counts.sum())


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "antithetic"},
        {"sampler": "blocks", "n_samples": 257},
        {"quality": "fast"},
        {"n_samples": "auto", "sampler": "blocks", "estimator": "gp"},
        {"kernel": "shapley", "sampler": "antithetic", "estimator": "wls"},
        {"num_features": 3},
        {"distance": "hamming", "kernel_width": None, "alpha": 0.5},
    ],
    ids=str,
)
def test_settings_mean_what_they_mean_for_images(pipeline, settings):
    texts = ["a zebra saw the last game", "a zoo is no zebra and no game"]
    found = gpulime.TextExplainer(pipeline, **{"n_samples": S} | settings).explain(texts, labels=1)
    weights = [dict(one.as_list(1)) for one in found]
    assert all(one["game"] > 4 * abs(one.get("zebra", 0)) for one in weights)
    if settings.get("num_features"):
        assert list(map(len, weights)) == [3, 3]


def test_with_all_masks_the_answer_is_exact(pipeline):
    exact = gpulime.TextExplainer(pipeline, sampler="blocks", n_samples=256).explain([TEXTS[2]], labels=0)
    assert exact.samples.tolist() == [2**8]
    assert exact.standard_errors.abs().max() == 0


@pytest.mark.parametrize(("settings", "part"), [({"bow": False}, "the"), ({"char_level": True}, "t")])
def test_other_parts(pipeline, settings, part):
    found = gpulime.TextExplainer(pipeline, n_samples=S, **settings).explain([TEXTS[1]])
    assert found.words[0].count(part) == (4 if not settings.get("bow", True) else 1)
    assert all(
        found.texts[0][a:b] == word for word, spans in zip(found.words[0], found.spans[0], strict=True) for a, b in spans
    )


def test_hidden_words_may_be_replaced():
    seen = set()

    def function(strings):
        seen.update(strings)
        return [[string.count("x"), 1.0] for string in strings]

    gpulime.TextExplainer(function, hide="XX", n_samples=20).explain(["a bc"])
    assert seen <= {"a bc", "XX bc", "a XX", "XX XX"}
    seen.clear()
    gpulime.TextExplainer(function, hide=lambda word: "*" * len(word), n_samples=20).explain(["a bc"])
    assert seen <= {"a bc", "* bc", "a **", "* **"}


def test_one_column_is_explained_as_it_is():
    found = gpulime.TextExplainer(lambda strings: [float(len(string)) for string in strings], n_samples=S).explain(
        ["a bb cccc"]
    )
    assert found.labels.tolist() == [[0]]
    assert found.predicted.tolist() == [-1]
    assert [word for word, _ in found[0].as_list()] == ["cccc", "bb", "a"]


@pytest.fixture(scope="module")
def bert():
    tokenizer = tiny.tokenizer()
    model = tiny.bert(tokenizer)
    model.config.id2label = dict(enumerate(CLASSES))
    return model, tokenizer


def strings_of(bert):
    """The same model as a function of strings, as lime's users call it."""
    model, tokenizer = bert

    def function(strings):
        with torch.no_grad():
            return model.eval()(**tokenizer(list(strings), padding=True, return_tensors="pt")).logits.softmax(-1)

    return function


@pytest.mark.parametrize("bow", [True, False])
def test_dropped_ids_of_wordpiece_equal_strings(bert, bow):
    model, tokenizer = bert
    model.train()
    found = gpulime.TextExplainer(model, tokenizer, n_samples=S, bow=bow).explain(TEXTS)
    assert model.training
    expected = gpulime.TextExplainer(strings_of(bert), n_samples=S, bow=bow, hide="drop", class_names=CLASSES)
    if bow:
        assert_same(found, expected.explain(TEXTS), atol=2e-6)
    assert found.class_names == CLASSES
    assert found.coefficients.abs().max() > 0.01
    assert not found.unseen.any()


def test_a_pipeline_of_transformers(bert):
    transformers = pytest.importorskip("transformers")
    model, tokenizer = bert
    made = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    found = gpulime.TextExplainer(made, n_samples=S, batch_size=5).explain(TEXTS)
    assert_same(found, gpulime.TextExplainer(model, tokenizer, n_samples=S).explain(TEXTS), atol=2e-6)


@pytest.mark.parametrize("hide", ["mask", "attention", "[UNK]", lambda ids: ids.flip(0)], ids=str)
def test_hidden_tokens_are_replaced_in_their_places(bert, hide):
    """Compare with a forward for each mask."""
    model, tokenizer = bert
    text = TEXTS[1]
    found = gpulime.TextExplainer(model, tokenizer, hide=hide, n_samples=S).explain([text], labels=0)
    words = split(text)
    given = tokenizer(text, return_offsets_mapping=True)
    ids, attention = torch.tensor(given["input_ids"]), torch.ones(1, len(given["input_ids"]), dtype=torch.int64)
    parts = [next((p for p in words.part_at[a:b].tolist() if p >= 0), -1) for a, b in given["offset_mapping"]]
    masks = resolve("bernoulli", 0, S)(torch.tensor(0), torch.arange(S), torch.tensor(len(words)), len(words))
    other = (
        ids.flip(0)
        if callable(hide)
        else torch.full_like(ids, tokenizer.convert_tokens_to_ids({"mask": "[MASK]"}.get(hide, hide)))
    )
    outputs = []
    for mask in masks:
        shown = torch.tensor([part < 0 or bool(mask[part]) for part in parts])
        with torch.no_grad():
            if hide == "attention":
                logits = model.eval()(ids[None], attention_mask=attention * shown).logits
            else:
                logits = model.eval()(ids.where(shown, other)[None], attention_mask=attention).logits
        outputs.append(float(logits.softmax(-1)[0, 0]))
    weights = np.exp(-((1 - np.sqrt(masks.double().mean(1).numpy())) ** 2) / (2 * 0.25**2))
    fitted = Ridge(alpha=1.0).fit(masks.double().numpy(), outputs, sample_weight=weights)
    np.testing.assert_allclose(found.coefficients[0, 0], fitted.coef_, rtol=0, atol=2e-6)


def test_words_that_the_model_never_sees_are_flagged(bert):
    model, tokenizer = bert
    explainer = gpulime.TextExplainer(model, tokenizer, max_length=8, n_samples=S)
    with pytest.warns(UserWarning, match=r"text 1: 2 of its 8 words .* takes 8 tokens, such as 'and'.*`unseen`") as caught:
        found = explainer.explain([TEXTS[4], TEXTS[2]])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [word for word, no in zip(found.words[1], found.unseen[1], strict=True) if no] == ["and", "tyres"]
    assert found.coefficients[1, :, 6:8].abs().max() < 0.2 * found.coefficients[1].abs().max()


def test_a_byte_level_tokenizer_and_empty_rows():
    """A GPT-2 without special tokens fails on an empty row; its ids belong to words with their leading spaces."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
        ),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=64,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=2,
    )
    model = transformers.GPT2ForSequenceClassification(config)
    found = gpulime.TextExplainer(model, tokenizer, n_samples=S).explain(["noise", TEXTS[3], "naïve 😀 café"])
    assert found.coefficients.isfinite().all()
    assert not found.unseen.any()
    assert found.words[2] == ["naïve", "café"]


def test_activations(bert):
    model, tokenizer = bert
    for kind, labels, expected in [
        (None, 3, "softmax"),
        ("multi_label_classification", 3, "sigmoid"),
        (None, 1, "sigmoid"),
        ("regression", 1, None),
    ]:
        made = tiny.bert(tokenizer, labels=labels, problem_type=kind)
        assert gpulime.TextExplainer(made, tokenizer).predictor.activation == expected
    assert gpulime.TextExplainer(model, tokenizer, activation=None).predictor.activation is None
    assert gpulime.TextExplainer(strings_of(bert)).predictor.activation is None


class Model(torch.nn.Module):
    def forward(self, **given):
        return given["input_ids"].float()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda p: gpulime.TextExplainer(3),
            "model must be a function of strings, such as a pipeline's predict_proba; got int",
        ),
        (
            lambda p: gpulime.TextExplainer(make_pipeline(CountVectorizer(), LinearSVC())),
            "^LIME does not currently support classifier models without probability scores; Pipeline with LinearSVC",
        ),
        (lambda p: gpulime.TextExplainer(Model()), "Model is an nn.Module and needs its tokenizer: pass tokenizer="),
        (lambda p: gpulime.TextExplainer(Model(), str.split), "a fast tokenizer of transformers.*got method_descriptor"),
        (lambda p: gpulime.TextExplainer(p, str.split), "tokenizer belongs to a model that is an nn.Module; got Pipeline"),
        (lambda p: gpulime.TextExplainer(p, hide="mask"), "hide='mask' needs a tokenizer; take 'drop'"),
        (lambda p: gpulime.TextExplainer(p, hide=3), "hide must be 'drop', a string for a hidden word or a callable; got 3"),
        (
            lambda p: gpulime.TextExplainer(p, sampler="lime"),
            "sampler='lime' draws lime's masks of images; lime's of texts: gpulime.lime_text",
        ),
        (lambda p: gpulime.TextExplainer(p, batch_size=0), "batch_size must be at least 1; got 0"),
        (lambda p: gpulime.TextExplainer(p, batch_size="all"), "batch_size must be a positive integer or 'auto'; got 'all'"),
        (lambda p: gpulime.TextExplainer(p, tolerance=0.1), "tolerance=0.1 needs n_samples='auto'; got 1000"),
        (lambda p: gpulime.TextExplainer(p, split_expression="("), r"split_expression must be a regular .*; got '\(': missing"),
        (lambda p: gpulime.TextExplainer(p, split_expression=3), "split_expression must be a regular expression, .*; got 3"),
        (lambda p: gpulime.TextExplainer(p, max_length=0), "max_length must be at least 1; got 0"),
        (lambda p: gpulime.TextExplainer(p, device="cuda"), "a function of strings is called from the CPU; got device='cuda'"),
    ],
)
def test_settings_that_cannot_be(pipeline, make, said):
    with pytest.raises(GpulimeError, match=said):
        make(pipeline)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a text",), r"texts must be a sequence of strings; got str: pass \[text\] for one text"),
        ((3,), "texts must be a sequence of strings; got int"),
        (([],), "texts must be a sequence of strings; got none"),
        (
            ({"id": [1], "text": ["a game"]},),
            r"got a dict with keys \['id', 'text'\]: pass the texts alone, such as dict\['text'\]",
        ),
        (({"a": "a game"},), r"got a dict with keys \['a'\]: pass the texts alone$"),
        ((["a game", ""],), "text 1: a text must have a word that can be hidden; got an empty one"),
        ((["a game", "?!"],), r"text 1: a text must have a word that can be hidden; got '\?!'"),
        ((["a game", None],), "text 1: a text must be a string; got NoneType None"),
        ((["a game"], "gam"), "labels: must be one of 3 class names; got 'gam' .did you mean 'game'"),
        ((["a game"], 7), "labels must be below the model's 3 classes; text 0 has 7"),
        ((["a game", "car"], [[0], [1], [2]]), r"labels must be integers, \(2,\) or \(2, l\), or 2 lists, one for each text"),
        ((["a game", "car"], [["car"], []]), "labels of text 1: there must be a class; got none"),
        ((["a game"], -2), "labels must not be negative; got -2"),
        ((["a game"], None, [1, 2]), r"keys must be 1 whole numbers, .*; got \(2,\) torch.int64"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_texts_that_cannot_be(pipeline, arguments, said):
    with pytest.raises(GpulimeError, match=said):
        gpulime.TextExplainer(pipeline, n_samples=20).explain(*arguments)


def test_texts_in_a_frame_are_a_column_of_it(pipeline, explained):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": range(len(TEXTS)), "post": TEXTS}, index=range(7, 7 + len(TEXTS)))
    explainer, drop_in = gpulime.TextExplainer(pipeline, n_samples=S), LimeTextExplainer()
    for explain in (explainer.explain, lambda texts: drop_in.explain_instances(texts, pipeline.predict_proba)):
        with pytest.raises(GpulimeError, match=r"got a DataFrame with columns \['n', 'post'\]: .*such as frame\['post'\]"):
            explain(frame)
    assert_same(explainer.explain(frame["post"]), explained)


def test_a_method_predict_that_gives_probabilities_has_two_classes(pipeline):
    class Mine:
        def predict(self, texts):
            return pipeline.predict_proba(texts)

    expected = gpulime.TextExplainer(lambda texts: pipeline.predict_proba(texts), n_samples=S).explain(TEXTS)
    assert torch.equal(gpulime.TextExplainer(Mine().predict, n_samples=S).explain(TEXTS).labels, expected.labels)


def test_keys_of_another_integer_dtype(pipeline):
    found = [
        gpulime.TextExplainer(pipeline, n_samples=20).explain(TEXTS[:2], keys=np.array([1, 2], dtype))
        for dtype in (np.int64, np.int32)
    ]
    assert_same(*found)


def test_an_explainer_in_one_line(pipeline):
    assert repr(gpulime.TextExplainer(pipeline, n_samples=20)) == (
        "TextExplainer(Pipeline, n_samples: 20, sampler: bernoulli, hide: 'drop', device: cpu)"
    )
    assert repr(gpulime.TextExplainer(len)).startswith("TextExplainer(len, n_samples: 1000")


def test_a_length_above_the_models_positions():
    tokenizer = tiny.tokenizer()
    model = tiny.bert(tokenizer, max_position_embeddings=64)
    with pytest.raises(GpulimeError, match="max_length must be at most the model's 64 positions; got 1000"):
        gpulime.TextExplainer(model, tokenizer, max_length=1000)
    assert gpulime.TextExplainer(model, tokenizer, max_length=64).preparation.tokenisation.most == 64


def test_class_labels_are_no_probabilities(pipeline):
    said = r"the model was asked for \d+ rows and must return probabilities \(\d+, classes\), as predict_proba does; got labels"
    with pytest.raises(GpulimeError, match=said):
        gpulime.TextExplainer(pipeline.predict, n_samples=20).explain(TEXTS)


def test_a_classifier_without_probabilities_is_refused_as_lime_does():
    model = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(TEXTS, LABELS)
    for made in (
        lambda: gpulime.TextExplainer(model),
        lambda: LimeTextExplainer().explain_instance(TEXTS[0], model),
        lambda: LimeTextExplainer().explain_instance(TEXTS[0], make_pipeline(TfidfVectorizer(), Ridge())),
    ):
        with pytest.raises(NotImplementedError, match=r"^LIME does not currently support .* has no predict_proba: give the"):
            made()


@pytest.mark.parametrize("scale", [1, 100])
def test_a_regressor_is_explained_as_one_output(scale):
    model = make_pipeline(TfidfVectorizer(), Ridge()).fit(TEXTS, scale * np.linspace(0.2, 0.8, len(TEXTS)))

    def twice(strings):  # two columns are not divided
        return np.column_stack([model.predict(strings)] * 2)

    expected = gpulime.TextExplainer(twice, n_samples=S).explain(TEXTS, labels=0)
    for given, by_counts in ((model, True), (model.predict, True), (make_pipeline(FunctionTransformer(list), model), False)):
        explainer = gpulime.TextExplainer(given, n_samples=S)
        assert (type(explainer.predictor.model) is Counts) == by_counts
        explained = pickle.loads(pickle.dumps(explainer)).explain(TEXTS)
        assert explained.coefficients.shape[1] == 1
        torch.testing.assert_close(explained.coefficients, expected.coefficients, rtol=0, atol=1e-9 * scale)


def test_a_function_of_one_string_is_told_that_it_gets_a_list():
    for function in (lambda text: text.lower(), lambda text: re.sub("a", "b", text)):
        with pytest.raises(
            GpulimeError, match=r"the model failed for a list of \d+ strings .*: it must take a list of strings"
        ):
            gpulime.TextExplainer(function, n_samples=S).explain(TEXTS)
    with pytest.raises(AttributeError, match="mine"):
        gpulime.TextExplainer(lambda texts: len.mine, n_samples=S).explain(TEXTS)


def test_one_probability_is_that_of_the_second_class():
    def one(strings):
        return np.array([0.9 if "good" in string else 0.2 for string in strings])

    for function in (one, lambda strings: one(strings)[:, None]):
        explainer = gpulime.TextExplainer(function, class_names=["bad", "good"], n_samples=50)
        explained = explainer.explain(["good day"], labels="good")
        assert explained.predicted.tolist() == [1]
        assert explained.coefficients[0, 0, 0] > 0.3
    scores = gpulime.TextExplainer(lambda strings: 3 * one(strings), n_samples=50).explain(["good day"])
    assert scores.labels.tolist() == [[0]]
    for names, message in ((["bad", "good"], "got 2 names, 1 column; a column"), (["a", "b", "c"], "got 3 names, 1 column; a")):
        with pytest.raises(GpulimeError, match=message):
            gpulime.TextExplainer(lambda strings: 3 * one(strings), class_names=names).explain(["good day"])


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]])
def test_a_wrong_number_of_class_names_is_told(pipeline, names):
    with pytest.raises(GpulimeError, match=f"class_names must name each column .*; got {len(names)} names, 3 columns"):
        gpulime.TextExplainer(pipeline, class_names=names, n_samples=20).explain(TEXTS)


def test_outputs_that_are_not_finite_are_counted():
    def function(strings):
        return [[float("nan") if "b" not in string else 0.5, 0.5] for string in strings]

    with pytest.warns(UserWarning, match=r"text 0: the model's output was NaN or infinite for \d+ of 50 samples"):
        found = gpulime.TextExplainer(function, n_samples=50).explain(["a b"])
    assert found.coefficients.isnan().all()


def test_an_explainer_and_its_explanations_pickle(pipeline, explained):
    explainer = gpulime.TextExplainer(pipeline, n_samples=S)
    explainer.explain(TEXTS[:1])
    assert_same(pickle.loads(pickle.dumps(explainer)).explain(TEXTS), explained)
    assert_same(pickle.loads(pickle.dumps(explained)), explained)


def test_no_warnings_of_our_own(pipeline):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpulime.TextExplainer(pipeline, n_samples=S).explain(TEXTS[:1])
