"""Pipelines by counts, compared with the pipelines themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from gpulime.texts.counts import Counts, _Table, has_counts
from gpulime.texts.packed import number, pack, width
from gpulime.texts.strings import Strings
from gpulime.texts.words import split

TEXTS = [
    "The engine of this car makes a loud noise, a LOUD noise: at every start!",
    "the goalkeeper saved the last shot of the game; naïve shots of a café",
    "my car needs a new engine and new tyres, don't you think so?",
    "a game without a shot is no game",
]
LABELS = [0, 1, 0, 1]


def fitted(vectoriser, *rest):
    rest = rest or (LogisticRegression(C=100),)
    return make_pipeline(vectoriser, *rest).fit(TEXTS, LABELS)


def both(pipeline, split_expression=r"\W+", bow=True, replace=None):
    """Outputs by counts and by strings for masks of all texts, and the adapter."""
    words = [split(text, split_expression, bow) for text in TEXTS]
    k = max(map(len, words))
    masks = torch.rand(30, k, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[0], masks[1] = True, False
    rows = pack(torch.tensor([number(one) for one in words]).repeat_interleave(30), masks.repeat(len(words), 1), width(k))
    counts = Counts(pipeline, 16, replace)
    return counts(rows), Strings(pipeline.predict_proba, 16, replace)(rows), [counts.table(one) for one in words]


@pytest.mark.parametrize(
    "vectoriser",
    [
        CountVectorizer(),
        CountVectorizer(binary=True, dtype=np.float32),
        CountVectorizer(lowercase=False, stop_words=["the"], max_features=12),
        CountVectorizer(strip_accents="unicode", token_pattern=r"\w"),
        TfidfVectorizer(),
        TfidfVectorizer(sublinear_tf=True, norm="l1", use_idf=False, min_df=2),
    ],
    ids=str,
)
@pytest.mark.parametrize(("bow", "replace"), [(True, None), (False, "UNKWORDZ"), (False, "engine"), (True, str.upper)])
def test_counts_equal_strings(vectoriser, bow, replace):
    by_counts, by_strings, tables = both(fitted(vectoriser), bow=bow, replace=replace)
    assert None not in tables
    torch.testing.assert_close(by_counts, by_strings, rtol=0, atol=1e-14)
    assert by_strings.std() > 1e-3


@pytest.mark.parametrize(
    "rest",
    [
        (TfidfTransformer(), RandomForestClassifier(5, random_state=0)),
        (TruncatedSVD(2, random_state=0), LogisticRegression()),
        ("passthrough", LogisticRegression()),
    ],
    ids=["forest", "svd", "passthrough"],
)
def test_all_steps_of_a_pipeline_run(rest):
    by_counts, by_strings, tables = both(fitted(CountVectorizer(), *rest))
    assert None not in tables
    torch.testing.assert_close(by_counts, by_strings, rtol=0, atol=1e-14)


def test_strings_are_predicted_if_words_do_not_add_up():
    """The vectoriser joins what the regular expression divides."""
    pipeline = fitted(CountVectorizer(token_pattern=r"[\w']+"))
    by_counts, by_strings, tables = both(pipeline)
    assert [table is None for table in tables] == [False, False, True, False]  # "don't"
    assert torch.equal(by_counts, by_strings)


def test_a_wrong_table_is_found(monkeypatch):
    right = _Table.counts
    monkeypatch.setattr(_Table, "counts", lambda table, masks: right(table, masks) * (1 + masks.all(1, keepdims=True)))
    _, _, tables = both(fitted(CountVectorizer()))
    assert tables == [None] * len(TEXTS)


@pytest.mark.parametrize(
    "vectoriser",
    [
        CountVectorizer(ngram_range=(1, 2)),
        TfidfVectorizer(analyzer="char", ngram_range=(1, 1)),
        CountVectorizer(analyzer=str.split),
        CountVectorizer(tokenizer=str.split, token_pattern=None),
        CountVectorizer(preprocessor=str.strip),
        HashingVectorizer(n_features=32),
    ],
    ids=str,
)
def test_other_vectorisers_get_strings(vectoriser):
    assert not has_counts(fitted(vectoriser))


def test_pipelines_without_counts_get_strings():
    assert has_counts(fitted(CountVectorizer()))
    assert not has_counts(LogisticRegression())
    assert not has_counts(make_pipeline(CountVectorizer(), LogisticRegression()))
