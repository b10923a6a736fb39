"""scikit-learn's pipelines as models: words are counted once per text, and rows are sums of these counts.

A vectoriser of single words sees a text as a bag of its words, so the counts of a masked text are the mask times the counts of
the words. This is compared with the vectoriser itself for some masks of each text; if they differ, its strings are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gpulime.engine.functions import read
from gpulime.texts.packed import Array
from gpulime.texts.strings import Replace, Strings
from gpulime.texts.words import Words

TRIED = 6  # masks of each text that are compared with the vectoriser


@dataclass(frozen=True)
class _Table:
    """Counts of a text's words in the columns of the vectoriser that the text has.

    Attributes
    ----------
    columns : (m,) int, in rising order
    shown, hidden, always : (k, m), (k, m) and (m,) counts of each part's words, of what replaces them, and of the separators
    """

    columns: Array
    shown: Array
    hidden: Array
    always: Array

    def counts(self, masks: Array) -> Array:
        """Counts (b, m) float64 of masked texts; masks (b, k) bool."""
        found: Array = self.always + self.hidden.sum(0) + masks @ (self.shown - self.hidden)
        return found


class Counts(Strings):
    """A pipeline as a function of packed rows, by counts where that is exact, else by strings."""

    def __init__(
        self,
        pipeline: Any,
        batch_size: int,
        replace: Replace = None,
        name: str = "model",
        method: str = "predict_proba",
    ) -> None:
        super().__init__(getattr(pipeline, method), batch_size, replace, name)
        self.pipeline, self.method = pipeline, method
        self.vectoriser, self.rest = pipeline.steps[0][1], pipeline[1:]
        self.analyse = self.vectoriser.build_analyzer()
        self.is_exact: bool | None = None  # features from counts are the vectoriser's; None until a text was tried
        self.tables: WeakKeyDictionary[Words, _Table | None] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.pipeline, self.batches.most, self.replace, self.name, self.method
        return type(self), given  # without tables, which refer to live texts

    def predicted(self, masked: list[tuple[Words, Array]]) -> Tensor:
        """Outputs (m, classes) for texts and their masks, m in all."""
        tables = [self.table(words) for words, _ in masked]
        known = [table for table in tables if table is not None]
        if len(known) < len(tables):
            return super().predicted(masked)
        blocks = [self._sparse(table, masks) for table, (_, masks) in zip(known, masked, strict=True)]
        features = self._features(sp.vstack(blocks, format="csr"))
        lengths = torch.zeros(features.shape[0], dtype=torch.int64)
        return self.batches(lambda places: self._rest(features[int(places[0]) : int(places[-1]) + 1]), lengths)

    def _rest(self, features: Any) -> Tensor:
        return read(getattr(self.rest, self.method)(features), features.shape[0], self.name)

    def table(self, words: Words) -> _Table | None:
        """The counts of a text's words; None if they are not exact."""
        if words not in self.tables:
            replacements = self.replacements(words) or [""] * len(words)
            tokens = {piece: self.analyse(piece) for piece in {*words.pieces, *replacements}}
            table = self._table(words, replacements, tokens)
            self.tables[words] = table if self._is_exact(words, replacements, tokens, table) else None
        return self.tables[words]

    def _table(self, words: Words, replacements: list[str], tokens: dict[str, list[str]]) -> _Table:
        vocabulary = self.vectoriser.vocabulary_
        found = {piece: [vocabulary[one] for one in many if one in vocabulary] for piece, many in tokens.items()}
        columns = np.array(sorted(set().union(*found.values())), dtype=np.int32)
        place = {column: i for i, column in enumerate(columns.tolist())}
        k = len(words)
        counts = np.zeros((2 * k + 1, len(columns)))
        for piece, part in zip(words.pieces, words.part_of.tolist(), strict=True):
            for column in found[piece]:
                counts[part if part >= 0 else 2 * k, place[column]] += 1
            for column in found[replacements[part]] if part >= 0 else ():
                counts[k + part, place[column]] += 1
        return _Table(columns, counts[:k], counts[k : 2 * k], counts[2 * k])

    def _sparse(self, table: _Table, masks: Array) -> Any:
        counts = sp.csr_matrix(table.counts(masks))
        shape = len(masks), len(self.vectoriser.vocabulary_)
        return sp.csr_matrix((counts.data, table.columns[counts.indices], counts.indptr), shape=shape)

    def _features(self, counts: Any) -> Any:
        """What the vectoriser would return for texts with these counts (b, columns)."""
        counts = counts.astype(self.vectoriser.dtype)
        if self.vectoriser.binary:
            counts.data.fill(1)
        transformer = getattr(self.vectoriser, "_tfidf", None)
        return counts if transformer is None else transformer.transform(counts, copy=False)

    def _is_exact(self, words: Words, replacements: list[str], tokens: dict[str, list[str]], table: _Table) -> bool:
        """Compare with the vectoriser for a few masks: its tokens, and for the first text its features, too."""
        k = len(words)
        even = np.arange(k) % 2 == 0
        random = np.random.RandomState(0).rand(TRIED - 4, k) < 0.5
        masks = np.stack([np.ones(k, bool), np.zeros(k, bool), even, ~even, *random])
        strings = list(words.strings(masks, replacements))
        apart = [tokens[piece] for piece in words.pieces]
        others = [tokens[replacements[part]] if part >= 0 else [] for part in words.part_of.tolist()]
        for mask, string in zip(masks, strings, strict=True):
            shown = np.append(mask, True)[words.part_of].tolist()
            if self.analyse(string) != list(chain.from_iterable(map(_either, shown, apart, others))):
                return False
        if self.is_exact is None:  # equal tokens have equal features: one text is enough to compare these
            features, right = self._features(self._sparse(table, masks)), self.vectoriser.transform(strings)
            self.is_exact = bool(features.dtype == right.dtype and (features != right).nnz == 0)
        return self.is_exact


def _either(shown: bool, one: list[str], other: list[str]) -> list[str]:
    return one if shown else other


def has_counts(model: Any) -> bool:
    """Tell if a model is a pipeline whose vectoriser counts single words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import Pipeline

    if not (isinstance(model, Pipeline) and len(model.steps) > 1):
        return False
    vectoriser = model.steps[0][1]
    return (
        isinstance(vectoriser, CountVectorizer)
        and hasattr(vectoriser, "vocabulary_")
        and type(vectoriser).build_analyzer is CountVectorizer.build_analyzer
        and vectoriser.analyzer == "word"
        and tuple(vectoriser.ngram_range) == (1, 1)
        and vectoriser.preprocessor is None
        and vectoriser.tokenizer is None
        and vectoriser.input == "content"
    )
