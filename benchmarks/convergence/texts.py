"""Texts: a logistic regression on words tells which of scikit-learn's data sets a description is about; words are hidden.

The descriptions come with scikit-learn. Weights are those for images, as in the other cases.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from importlib import import_module

import numpy as np

from benchmarks.convergence.games import Array, Case, Game

ABOUT = ("iris", "wine", "diabetes", "breast_cancer", "digits", "linnerud")
WORDS = (20, 30, 40, 60)  # of the texts, in turn


def passages() -> tuple[list[str], list[int]]:
    """Texts of 20 to 60 words, and the number of the data set that each describes."""
    datasets = import_module("sklearn.datasets")
    texts, labels = [], []
    for label, name in enumerate(ABOUT):
        words = [word for word in getattr(datasets, f"load_{name}")().DESCR.split() if word.isalpha()]
        while len(words) > WORDS[0]:
            length = WORDS[len(texts) % len(WORDS)]
            texts.append(" ".join(words[:length]))
            labels.append(label)
            words = words[length:]
    return texts, labels


def predict(masks: Array, words: list[str], pipeline) -> Array:
    """Probabilities (s, classes) of a text with some of its words."""
    return pipeline.predict_proba([" ".join(np.array(words)[mask]) for mask in masks])


def games() -> Iterator[Game]:
    """One game for each text, of its class with the highest output."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = passages()
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=30)).fit(texts, labels)
    parts = zlib.crc32("\n".join(texts).encode())  # the classifier depends on all of them
    for i, text in enumerate(texts):
        words = text.split()
        best = int(pipeline.predict_proba([text])[0].argmax())
        yield Game(f"{i:03}", len(words), best, partial(predict, words=words, pipeline=pipeline), parts)


CASE = Case("texts", games, n_masks=20_000, repeats=4)
