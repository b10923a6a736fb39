"""Batch of texts as users pass it, checked and divided into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpulime import arrays
from gpulime import labels as classes
from gpulime.classes import Names
from gpulime.engine.masked import Wanted
from gpulime.errors import GpulimeError, about, check, stage
from gpulime.texts.words import Split, Words, check_words, split

MOST_NAMED = 5  # columns in a message


@dataclass(frozen=True)
class Batch:
    """Texts to explain together.

    Attributes
    ----------
    texts : sequence of n str
    labels : as for `gpulime.labels.of_batch`, optional
        Classes to explain; by default the ones with the highest output.
    keys : (n,) int64, optional
        ``gpulime.key(text_id)`` of each text; 0 by default.
    top : bool
        If True, the classes with the highest output are explained too, before ``labels``.
    """

    texts: Any
    labels: Any = None
    keys: Any = None
    top: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    @stage("text")
    def divided(self, split_expression: Split, bow: bool, char_level: bool, names: Names | None = None) -> Divided:
        """Divide the texts into words and check labels, which may be ``names`` of classes, and keys.

        Raises
        ------
        GpulimeError
            Unless there are texts, each a string with a word, and labels and keys are valid.
        """
        texts = listed(self.texts)
        n = len(texts)
        words = []
        for i, text in enumerate(texts):
            with about(f"text {i}"):
                words.append(split(text, split_expression, bow, char_level))
                check_words(words[-1])
        labels = None if self.labels is None else classes.of_batch(self.labels, n, names, "text")
        keys = torch.zeros(n, dtype=torch.int64) if self.keys is None else arrays.keys(self.keys, n)
        return Divided(words, keys.cpu(), self._wanted(labels))

    def _wanted(self, labels: Tensor | None) -> Wanted:
        if labels is None:
            return Wanted()
        low, first = int(labels.min()), int(labels[:, 0].min())
        check(low >= classes.NONE and (self.top or first >= 0), f"labels must not be negative; got {low}")
        place = int(labels.argmax())
        return Wanted(labels.cpu(), self.top, (place // labels.shape[1], int(labels.max())))


@dataclass(frozen=True)
class Divided:
    """Texts divided into words, with the keys (n,) int64 of their masks and the labels to explain."""

    words: list[Words]
    keys: Tensor
    wanted: Wanted

    def __len__(self) -> int:
        return len(self.words)

    def part(self, where: slice) -> Divided:
        """Select texts by a slice."""
        return Divided(self.words[where], self.keys[where], self.wanted.part(where))

    def ordered(self, order: Sequence[int]) -> Divided:
        """The same texts in another order."""
        labels, where = self.wanted.labels, torch.tensor(order)
        wanted = replace(self.wanted, labels=None if labels is None else labels[where])
        return Divided([self.words[i] for i in order], self.keys[where], wanted)


def listed(texts: Any) -> list[Any]:
    """Texts as a list; refuses a single string, and a table of which only the names of columns would be seen.

    Raises
    ------
    GpulimeError
        If there are none, or the argument is no iterable of them.
    """
    is_frame = hasattr(texts, "columns")
    if is_frame or isinstance(texts, Mapping):
        names = list(getattr(texts, "column_names", None) or texts.columns) if is_frame else list(texts)
        kind, what = ("frame", "columns") if is_frame else ("dict", "keys")
        hint = next((f", such as {kind}[{name!r}]" for name in names if _holds_texts(texts[name])), "")
        got = f"{type(texts).__name__} with {what} {names[:MOST_NAMED]}"
        raise GpulimeError(f"texts must be a sequence of strings; got a {got}: pass the texts alone{hint}")
    one = isinstance(texts, str | bytes) or not isinstance(texts, Iterable)
    check(not one, lambda: f"texts must be a sequence of strings; got {type(texts).__name__}: pass [text] for one text")
    found = list(texts)
    check(bool(found), "texts must be a sequence of strings; got none")
    return found


def _holds_texts(column: Any) -> bool:
    return isinstance(column, Iterable) and not isinstance(column, str) and isinstance(next(iter(column), None), str)
