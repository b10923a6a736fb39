"""Curves and held-out masks of texts and of table rows, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_diabetes, load_iris
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from gpulime import GpulimeError, TableExplainer, TextExplainer
from gpulime.evaluate import curves, held_out
from gpulime.texts.words import split
from tests.texts import tiny

IRIS, DIABETES = load_iris(), load_diabetes()
ROWS = IRIS.data[[3, 70, 140]]
CLASSES = [0, 1, 0, 1, 2]


@pytest.fixture(scope="module")
def texts():
    """An explainer of texts, which has no counts of words, and its explanations."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(tiny.TEXTS, CLASSES)
    explainer = TextExplainer(lambda strings: model.predict_proba(strings), n_samples=200, top_labels=2)
    return model.predict_proba, explainer, explainer.explain(tiny.TEXTS)


@pytest.fixture(scope="module")
def rows():
    """An explainer of rows and its explanations."""
    model = LogisticRegression(max_iter=1000).fit(IRIS.data, IRIS.target)
    explainer = TableExplainer(model, IRIS.data, n_samples=300)
    return model.predict_proba, explainer, explainer.explain(ROWS)


def assert_curves(found, explained, outputs):
    """Compare with ``outputs(i, shown (k,) bool) -> (classes,)``."""
    n, l, _ = explained.coefficients.shape
    for i, j in np.ndindex(n, l):
        k, label = int(explained.counts[i]), int(explained.labels[i, j])
        ranks = np.argsort(np.argsort(-explained.coefficients[i, j, :k].numpy(), kind="stable"))
        deletion = [outputs(i, ranks >= step)[label] for step in range(k + 1)]
        insertion = [outputs(i, ranks < step)[label] for step in range(k + 1)]
        np.testing.assert_allclose(found.deletion[i, j, : k + 1], deletion, atol=1e-5)
        np.testing.assert_allclose(found.insertion[i, j, : k + 1], insertion, atol=1e-5)
        np.testing.assert_allclose(found.area[i, j, : k + 1], np.arange(k + 1) / k)
        np.testing.assert_allclose(
            found.gap[i, j], np.trapezoid(insertion, dx=1 / k) - np.trapezoid(deletion, dx=1 / k), atol=1e-5
        )


def test_curves_of_texts(texts):
    predict, explainer, explained = texts
    found = curves(explainer, tiny.TEXTS, explained)
    words = [split(text) for text in tiny.TEXTS]
    assert_curves(found, explained, lambda i, shown: predict(list(words[i].strings(shown[None])))[0])
    assert found.reasons == {}
    with pytest.raises(GpulimeError, match="explanations must be of these texts, in this order"):
        curves(explainer, tiny.TEXTS[::-1], explained)
    with pytest.raises(GpulimeError, match="words are hidden as the explainer's hide says; leave fill out"):
        curves(explainer, tiny.TEXTS, explained, fill="mean")
    with pytest.raises(GpulimeError, match="explained must be explanations of texts; got Tensor"):
        curves(explainer, tiny.TEXTS, torch.rand(5, 3))
    with pytest.raises(GpulimeError, match="unit='pixels' is for images; got a TextExplainer"):
        curves(explainer, tiny.TEXTS, explained, "pixels")


@pytest.mark.parametrize("fill", [None, ROWS[:1] + 1])
def test_curves_of_rows(rows, fill):
    predict, explainer, explained = rows
    typical = IRIS.data.mean(0) if fill is None else fill[0]
    found = curves(explainer, ROWS, explained, fill=fill)
    assert_curves(found, explained, lambda i, shown: predict(np.where(shown, ROWS[i], typical)[None])[0])


def test_hidden_columns_of_a_frame_show_means_and_frequent_categories():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"size": [1, 2, 6, 4], "weight": [0.5, np.nan, 1.5, 2.5], "colour": ["red", "blue", "red", "green"]}
    )
    seen = []

    def model(some):
        seen.append(some)
        return np.stack([some["size"] / 10, 1 - some["size"] / 10], 1)

    explainer = TableExplainer(model, frame, n_samples=50)
    given = frame.iloc[[1, 3]]
    explained = explainer.explain(given, labels=0)
    seen.clear()
    curves(explainer, given, explained)
    empty = pandas.concat(seen)[2:].query("size == 3 and weight == 1.5 and colour == 'red'")
    assert len(empty) == 2  # one for each row


def test_hidden_entries_of_sparse_rows_are_0():
    data = sparse.random_array((40, 8), density=0.5, rng=np.random.default_rng(0)).tocsr()
    model = LogisticRegression().fit(data.toarray(), (data.sum(1) > 2).astype(int))
    explainer = TableExplainer(lambda some: model.predict_proba(some.toarray()), data, n_samples=50)
    given = data[:3]
    explained = explainer.explain(given)
    found = curves(explainer, given, explained)
    dense = given.toarray()

    def outputs(i, shown):
        row = dense[i].copy()
        row[explained.columns[i, : len(shown)].numpy()[~shown]] = 0
        return model.predict_proba(row[None])[0]

    assert_curves(found, explained, outputs)


def assert_held_out(found, explained, masks, outputs, weigh):
    """Compare with the definition on masks (s, k) and outputs (1 + s, classes) of each input; ``weigh`` weighs masks (s, k)."""
    n, l, _ = explained.coefficients.shape
    for i, j in np.ndindex(n, l):
        k, label = int(explained.counts[i]), int(explained.labels[i, j])
        if k == 1:
            assert found.r2[i, j].isnan()
            assert found.reason("r2", i, j) == "there is one part only, which any importance predicts"
            continue
        shown, y = masks[i].astype(float), outputs[i][:, label]
        coefficients = explained.coefficients[i, j, :k].numpy()
        predicted = explained.intercepts[i, j].item() + shown @ coefficients
        weights = weigh(shown)
        mean = np.average(y[1:], weights=weights)
        expected = 1 - (weights * (y[1:] - predicted) ** 2).sum() / (weights * (y[1:] - mean) ** 2).sum()
        np.testing.assert_allclose(found.r2[i, j], expected, atol=1e-5)
        hidden, fall = (1 - shown) @ coefficients, y[0] - y[1:]
        beta = (hidden * fall).mean() / (hidden**2).mean()
        np.testing.assert_allclose(found.infidelity[i, j], ((beta * hidden - fall) ** 2).mean(), atol=1e-6)
        np.testing.assert_allclose(found.infidelity_unscaled[i, j], ((hidden - fall) ** 2).mean(), atol=1e-6)


def test_held_out_masks_of_texts(texts):
    predict, explainer, explained = texts
    found = held_out(explainer, tiny.TEXTS, explained, n_samples=30, seed=7)
    words = [split(text) for text in tiny.TEXTS]
    other = TextExplainer(predict, n_samples=31, seed=7)
    drawn = [other.sampler(torch.tensor(0), torch.arange(31), torch.tensor(len(one)), len(one)).numpy() for one in words]
    outputs = [predict(list(one.strings(masks))) for one, masks in zip(words, drawn, strict=True)]
    weigh = lambda shown: np.exp(-((1 - np.sqrt(shown.mean(1))) ** 2) / (2 * 0.25**2))  # noqa: E731
    assert_held_out(found, explained, [masks[1:] for masks in drawn], outputs, weigh)


@pytest.mark.parametrize("keys", [None, [4, 5, 6]])
def test_held_out_samples_of_rows(rows, keys):
    predict, explainer, explained = rows
    found = held_out(explainer, ROWS, explained, n_samples=40, seed=7, keys=keys)
    other = TableExplainer(lambda some: some, IRIS.data, n_samples=41, class_names=list("abcd"))
    again = held_out(explainer.redrawn(3), ROWS, explained, n_samples=40, seed=7, keys=keys)
    torch.testing.assert_close(again.r2, found.r2)  # it depends on its own seed alone
    (inputs,) = other.redrawn(7, 41).masker.masked(other.batch(ROWS, None, keys))
    index, samples = torch.arange(3)[:, None], torch.arange(41)
    values, masks = inputs.values(index, samples), inputs.draw(None, index, samples)
    outputs = [predict(some.numpy()) for some in values]
    weigh = lambda shown: np.exp(-(4 - shown.sum(1)) / (2 * (0.75 * 2) ** 2))  # noqa: E731
    assert_held_out(found, explained, masks[:, 1:].numpy(), outputs, weigh)


def test_a_linear_model_of_values_is_predicted_exactly():
    model = Ridge().fit(DIABETES.data, DIABETES.target)
    explainer = TableExplainer(model, DIABETES.data, n_samples=300, discretizer=None, alpha=1e-9)
    explained = explainer.explain(DIABETES.data[:3])
    found = held_out(explainer, DIABETES.data[:3], explained)
    torch.testing.assert_close(found.r2, torch.ones(3, 1, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (found.infidelity < 1e-6 * DIABETES.target.var()).all()
    assert found.infidelity_unscaled.max() < 1e-6 * DIABETES.target.var()
    with pytest.raises(GpulimeError, match="labels are for a classification; this is a regression"):
        held_out(explainer, DIABETES.data[:3], explained, labels=0)
    with pytest.raises(GpulimeError, match="explanations must be of these rows; got 2 rows and 3 explanations"):
        held_out(explainer, DIABETES.data[:2], explained)


def test_counted_words_have_curves_too():
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(tiny.TEXTS, CLASSES)
    explainer = TextExplainer(model, n_samples=100)
    explained = explainer.explain(tiny.TEXTS, labels=1)
    found = curves(explainer, tiny.TEXTS, explained)
    words = [split(text) for text in tiny.TEXTS]
    assert_curves(found, explained, lambda i, shown: model.predict_proba(list(words[i].strings(shown[None])))[0])
