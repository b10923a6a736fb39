"""Explanations of a batch of texts: the tensors of every kind, with texts and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor

from gpulime.errors import check
from gpulime.explanations import batch
from gpulime.explanations.explanation import BatchExplanation
from gpulime.explanations.shown import ShownList
from gpulime.explanations.text import TextDomainMapper


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ExplainedTexts(ShownList, batch.Explanations):
    """The explanations of n texts: the attributes of `gpulime.Explanations`, and these.

    Attributes
    ----------
    texts : list of n str
    words : list of n lists of str, the word of each part
    spans : list of n lists, for each part its occurrences in the text as (start, stop), in code points
    unseen : (n, k) bool, True for a word that the model never sees, such as one beyond its longest input; False beyond an
        input's count. The coefficient of such a word is noise around 0
    """

    texts: list[str]
    words: list[list[str]]
    spans: list[list[list[tuple[int, int]]]]
    unseen: Tensor

    PADDED: ClassVar[dict[str, float]] = batch.Explanations.PADDED | {"unseen": False}
    WHOLE: ClassVar[tuple[str, ...]] = (*batch.Explanations.WHOLE, "unseen")

    @overload
    def __getitem__(self, index: int) -> BatchExplanation: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> BatchExplanation | Self:
        """One text's explanation with lime's methods, or those of several."""
        if isinstance(index, slice):
            return self.part(index)
        check(-len(self) <= index < len(self), f"index must be in [{-len(self)}, {len(self)}); got {index}")
        i = index % len(self)
        unseen = self.unseen[i].nonzero().flatten().tolist()
        mapper = TextDomainMapper(self.words[i], self.texts[i], self.spans[i], unseen)
        return BatchExplanation.of(self, i, mapper)

    def __iter__(self) -> Iterator[BatchExplanation]:
        here = self.cpu()
        return (here[i] for i in range(len(self)))

    def __repr__(self) -> str:
        n, l, k = self.coefficients.shape
        return f"ExplainedTexts({n} texts, {l} labels, up to {k} words, on {self.labels.device})"

    def ordered(self, order: Sequence[int]) -> Self:
        """The explanations of texts in another order."""
        where = torch.tensor(order, device=self.labels.device)
        tensors = {name: tensor[where] for name, tensor in self._tensors().items()}
        return self._with(tensors | {name: [values[i] for i in order] for name, values in self._lists().items()})

    def _names(self) -> list[list[str]]:
        return self.words

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return super()._shapes() | {"unseen": (len(self), self.coefficients.shape[2])}

    def _sound(self) -> bool:
        each = zip(self.texts, self.words, self.spans, self.counts.tolist(), strict=True)
        return super()._sound() and all(
            isinstance(text, str)
            and len(words) == len(spans) == count
            and all(isinstance(word, str) for word in words)
            and all(0 <= start <= stop <= len(text) for places in spans for start, stop in places)
            for text, words, spans, count in each
        )

    @classmethod
    def _of_json(cls, values: dict[str, Any]) -> dict[str, Any]:
        spans = [[[(int(start), int(stop)) for start, stop in places] for places in text] for text in values["spans"]]
        return values | {"spans": spans}
