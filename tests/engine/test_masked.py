"""Masked inputs of other kinds: texts and table rows, with one small class each, equal to scikit-learn's Ridge."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from gpulime import Explanations, key
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.engine import Engine
from gpulime.engine.masked import Masked, Wanted
from gpulime.engine.masks import resolve
from gpulime.engine.model import Predictor
from gpulime.engine.settings import Settings
from gpulime.errors import GpulimeError

S, MOST_WORDS = 60, 12


class Texts(Masked):
    """Texts with words as parts; a row is the text's number and its mask, which `model` turns into a string."""

    def __init__(self, texts, numbers=None):
        self.texts, self.numbers = texts, torch.arange(len(texts)) if numbers is None else numbers
        self.words = [text.split() for text in texts]
        self.counts = torch.tensor([len(words) for words in self.words])
        self.k, self.most = MOST_WORDS, int(self.counts.max())
        self.kind = (MOST_WORDS + 1,), torch.float32, torch.device("cpu")
        self.keys, self.wanted = torch.tensor([key(text) for text in texts]), Wanted()

    def rows(self, index, samples, masks):
        return torch.cat([self.numbers[index][:, None], masks], 1).float()

    def part(self, where):
        return Texts(self.texts[where], self.numbers[where])

    def model(self, rows):
        strings = [" ".join(w for w, shown in zip(self.words[int(row[0])], row[1:], strict=False) if shown) for row in rows]
        return torch.from_numpy(self.pipeline.predict_proba(strings))


class Rows(Masked):
    """Table rows; the neighbourhood (n or 1, s, columns) is drawn first, and the regressors follow from it."""

    def __init__(self, neighbourhood, rows, binned=None, scale=None):
        self.around, self.given, self.binned, self.scale = neighbourhood, rows, binned, scale
        self.shared = neighbourhood.shape[0] == 1 < len(rows)
        self.counts = torch.full((len(rows),), rows.shape[1])
        self.k = self.most = rows.shape[1]
        self.kind = (self.k,), torch.float64, torch.device("cpu")
        self.keys, self.wanted = torch.zeros(len(rows), dtype=torch.int64), Wanted()
        self.origin = None if binned is not None else self._scaled(rows)

    def _scaled(self, values):
        return (values - self.scale[0]) / self.scale[1]

    def _values(self, index, samples):
        """Rows of the table (..., k) of input and sample; sample 0 is the input itself."""
        drawn = self.around[0 if self.shared else index, samples]
        return torch.where((samples == 0)[..., None], self.given[index], drawn)

    def draw(self, sampler, index, samples):
        index, samples = torch.broadcast_tensors(index, samples)
        if self.binned is None:
            return torch.ones(*index.shape, self.k, dtype=torch.bool)
        return self.binned(self._values(index, samples)) == self.binned(self.given[index])

    def rows(self, index, samples, masks):
        return self._values(index, samples)

    def regressors(self, index, samples, masks):
        if self.binned is not None:
            return masks
        return self._scaled(self._values(*torch.broadcast_tensors(index, samples)))

    def part(self, where):
        around = self.around if len(self.around) == 1 else self.around[where]
        return Rows(around, self.given[where], self.binned, self.scale)


class Given:
    """A masker for inputs that are already masked."""

    def masked(self, batch):
        yield batch


def engine(model, batch_size=16, n_samples=S, **settings):
    settings = Settings(distance="euclidean", kernel_width=2.0, feature_selection="none", **settings)
    predictor = Predictor(model, None, "float32", None)
    return Engine(predictor, BatchSize(batch_size), Given(), resolve("bernoulli", 0, n_samples), n_samples, 2, settings)


def assert_is_ridge(explained, inputs, i, predict_proba, rows, regressors):
    """Compare one input with scikit-learn's Ridge on regressors (s, count), weighted by the distance to sample 0."""
    distances = np.linalg.norm(regressors - regressors[0], axis=1)
    weights = np.exp(-(distances**2) / (2 * 2.0**2))
    probabilities = predict_proba(rows)
    for j, label in enumerate(explained.labels[i].tolist()):
        fitted = Ridge(alpha=1.0).fit(regressors, probabilities[:, label], sample_weight=weights)
        count = int(inputs.counts[i])
        np.testing.assert_allclose(explained.coefficients[i, j, :count], fitted.coef_, rtol=0, atol=1e-12)
        np.testing.assert_allclose(explained.intercepts[i, j], fitted.intercept_, rtol=0, atol=1e-12)
        assert abs(float(explained.scores[i, j]) - fitted.score(regressors, probabilities[:, label], weights)) < 1e-9


TEXTS = [
    "the engine of this car makes a loud noise at every start",
    "the goalkeeper saved the last shot of the game",
    "my car needs a new engine and new tyres",
    "a game without a shot is no game",
]


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline(CountVectorizer(), LogisticRegression()).fit(TEXTS, [0, 1, 0, 1])


def test_texts(pipeline):
    inputs = Texts(TEXTS[:2])
    inputs.pipeline = pipeline
    [explained] = engine(inputs.model).explained(inputs)
    assert type(explained) is Explanations
    for i, words in enumerate(inputs.words):
        index, samples = torch.full((S,), i), torch.arange(S)
        masks = inputs.draw(resolve("bernoulli", 0, S), index, samples)[:, : len(words)].numpy()
        assert masks[0].all()
        assert not masks.all()
        strings = [" ".join(w for w, shown in zip(words, mask, strict=True) if shown) for mask in masks]
        assert_is_ridge(explained, inputs, i, pipeline.predict_proba, strings, masks.astype(float))
    strongest = int(explained.coefficients[0, 0].abs().argmax())
    assert inputs.words[0][strongest] in {"car", "engine"}


def test_texts_of_several_flights_keep_their_words(pipeline, monkeypatch):
    def explained(texts):
        inputs = Texts(texts)
        inputs.pipeline = pipeline
        return Explanations.cat(list(engine(inputs.model).explained(inputs)))

    expected = explained(TEXTS)
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": S})
    torch.testing.assert_close(explained(TEXTS).coefficients, expected.coefficients, rtol=0, atol=1e-12)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExplainedTexts(Explanations):
    """Explanations with the words of each text."""

    words: list


def test_a_kind_may_add_lists_to_its_explanations(pipeline):
    inputs = Texts(TEXTS)
    inputs.pipeline = pipeline
    inputs.explained = lambda found: ExplainedTexts(**found, words=inputs.words, class_names=["car", "game"])
    [explained] = engine(inputs.model).explained(inputs)
    again = ExplainedTexts.cat([explained.part(slice(0, 1)).cpu(), explained.part(slice(1, 4)).to("cpu")])
    assert again.words == inputs.words
    assert again.class_names == ["car", "game"]
    assert torch.equal(again.coefficients, explained.coefficients)


@pytest.fixture(scope="module")
def iris():
    data = load_iris()
    forest = RandomForestClassifier(20, random_state=0).fit(data.data, data.target)
    return torch.from_numpy(data.data), forest


def neighbourhood(values, n):
    random = torch.Generator().manual_seed(0)
    return torch.randn(n, S, values.shape[1], generator=random, dtype=torch.float64) * values.std(0) + values.mean(0)


def tabular(iris, n_around, binned):
    values, forest = iris
    edges = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0).T.contiguous()
    bins = (lambda rows: (rows[..., None] > edges).sum(-1)) if binned else None
    rows = values[[3, 70, 140]]
    inputs = Rows(neighbourhood(values, n_around), rows, bins, (values.mean(0), values.std(0)))
    asked = []

    def model(batch):
        asked.append(len(batch))
        return torch.from_numpy(forest.predict_proba(batch.numpy()))

    [explained] = engine(model).explained(inputs)
    return explained, inputs, forest, sum(asked)


@pytest.mark.parametrize("n_around", [3, 1], ids=["a neighbourhood each", "one for all"])
@pytest.mark.parametrize("binned", [True, False], ids=["binned", "standardised"])
def test_table_rows(iris, n_around, binned):
    explained, inputs, forest, _ = tabular(iris, n_around, binned)
    samples = torch.arange(S)
    for i in range(3):
        index = torch.full((S,), i)
        masks = inputs.draw(None, index, samples)
        rows = inputs.rows(index, samples, masks)
        assert torch.equal(rows[0], inputs.given[i])
        regressors = inputs.regressors(index, samples, masks).double().numpy()
        assert_is_ridge(explained, inputs, i, forest.predict_proba, rows.numpy(), regressors)
    assert explained.coefficients.abs().amax(-1).gt(1e-3).all()


def test_a_shared_neighbourhood_is_predicted_once(iris):
    looks = 2 * 2  # the first batch's ends, twice, to see if the model is steady
    assert tabular(iris, 3, True)[3] == 3 * S + looks
    assert tabular(iris, 1, True)[3] == 3 + S - 1 + looks


def test_pieces_of_a_shared_neighbourhood_change_nothing(iris, monkeypatch):
    expected = tabular(iris, 1, False)[0]
    monkeypatch.setattr("gpulime.engine.fit.MASK_ENTRIES", {"cpu": 50})
    monkeypatch.setattr("gpulime.engine.fit.FIT_ENTRIES", 1)  # one input at a time
    actual = tabular(iris, 1, False)[0]
    torch.testing.assert_close(actual.coefficients, expected.coefficients, rtol=0, atol=1e-12)


def test_a_shared_neighbourhood_is_kept_once(iris):
    values, _ = iris
    inputs = Rows(neighbourhood(values, 1), values[:20], None, (values.mean(0), values.std(0)))
    made = engine(lambda rows: rows.float())
    [flight] = made.prepare(inputs)
    list(made.queue().put(flight, is_last=True))
    assert flight.rest.shape == (S - 1, values.shape[1])
    assert flight.outputs(slice(3, 5)).shape == (2, S, 2)


def test_a_distance_of_masks_alone_is_refused_for_numbers(iris):
    values, _ = iris
    inputs = Rows(neighbourhood(values, 1), values[:2], None, (values.mean(0), values.std(0)))
    made = engine(lambda rows: rows.float())
    made.settings = Settings(distance="jaccard", feature_selection="none")
    with pytest.raises(GpulimeError, match="distance of numbers must be one of"):
        list(made.explained(inputs))
    made.settings = Settings(distance=lambda rows: rows.sum(-1), feature_selection="none")
    with pytest.raises(GpulimeError, match="distance must be a name for inputs that are numbers"):
        list(made.explained(inputs))


def test_no_inputs_have_no_explanations():
    made = engine(lambda rows: rows)
    made.masker = SimpleNamespace(masked=lambda batch: iter(()))
    assert list(made.explained([])) == []
