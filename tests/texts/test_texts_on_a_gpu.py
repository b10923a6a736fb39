"""Texts on a GPU: token ids are masked there, equal to those on a CPU; strings stay on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from gpulime import TextExplainer
from tests.texts import tiny

S = 60
TEXTS = tiny.TEXTS[:3]


@pytest.fixture(scope="module")
def bert():
    tokenizer = tiny.tokenizer()
    return tiny.bert(tokenizer), tokenizer


class Watched(torch.nn.Module):
    """A model that keeps the devices of its input."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config, self.devices = model, model.config, set()

    def forward(self, **given):
        self.devices.update(tensor.device.type for tensor in given.values())
        return self.model(**given)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [{}, {"hide": "mask"}, {"hide": "attention"}, {"hide": lambda ids: ids.flip(0)}, {"num_features": 2, "batch_size": 7}],
    ids=["drop", "mask", "attention", "callable", "selection"],
)
def test_masked_token_ids_equal_those_of_the_cpu(settings, bert, device):
    model, tokenizer = bert
    expected = TextExplainer(model, tokenizer, n_samples=S, **settings).explain(TEXTS, keys=[1, 2, 3])
    watched = Watched(copy.deepcopy(model)).to(device)
    found = TextExplainer(watched, tokenizer, n_samples=S, **settings).explain(TEXTS, keys=[1, 2, 3])
    assert watched.devices == {torch.device(device).type} == {found.coefficients.device.type}
    here = found.cpu()
    assert torch.equal(here.labels, expected.labels)
    torch.testing.assert_close(here.coefficients, expected.coefficients, rtol=0, atol=1e-5)
    assert found[0].as_list()


@pytest.mark.gpu
def test_words_beyond_the_models_input(bert, device):
    model, tokenizer = bert
    explainers = [TextExplainer(one, tokenizer, n_samples=S, max_length=8) for one in (model, copy.deepcopy(model).to(device))]
    with pytest.warns(UserWarning, match="have no token in the model's input"):
        expected, found = (explainer.explain(TEXTS) for explainer in explainers)
    assert torch.equal(found.cpu().unseen, expected.unseen)
    torch.testing.assert_close(found.cpu().coefficients, expected.coefficients, rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_strings_and_counts_stay_on_the_cpu(bert, device):
    model, tokenizer = bert
    moved = copy.deepcopy(model).to(device).eval()
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(tiny.TEXTS, [0, 1, 0, 1, 1])

    def function(strings):
        with torch.no_grad():
            given = tokenizer(list(strings), padding=True, return_tensors="pt").to(device)
            return moved(**given).logits.softmax(-1)

    for given, expected in ((pipeline, pipeline.predict_proba(TEXTS)), (function, function(TEXTS))):
        found = TextExplainer(given, n_samples=S).explain(TEXTS)
        assert found.coefficients.device.type == "cpu"
        best = torch.as_tensor(expected).cpu().argmax(1)
        assert torch.equal(found.predicted, best)
