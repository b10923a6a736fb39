"""lime's views of a divided text: IndexedString and IndexedCharacters, with its fields and methods."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from gpulime.texts.words import Array, Split, Words, split


class _Indexed:
    """A text and its parts, by lime's names.

    Attributes
    ----------
    raw : str, the text
    as_list, as_np : its pieces, words and what stands between them
    string_start : (pieces,) int64, the offset of each piece, in code points
    inverse_vocab : list of str, the word of each part
    positions : the pieces of each part: a list of lists with ``bow``, else an array of ints
    bow : bool
    mask_string : str, in place of a hidden word without ``bow``
    words : Words
    """

    def __init__(self, words: Words, bow: bool, mask_string: str) -> None:
        self.words, self.bow, self.mask_string = words, bow, mask_string
        self.raw, self.as_list, self.inverse_vocab = words.text, words.pieces, words.names
        self.string_start = words.starts

    @cached_property
    def as_np(self) -> Array:
        """The pieces as an array."""
        return np.array(self.as_list)

    @cached_property
    def positions(self) -> list[list[int]] | Array:
        """The numbers of each part's pieces."""
        places = self.words.places
        return places if self.bow else np.array([first for (first,) in places], dtype=np.int64)

    def raw_string(self) -> str:
        """The text."""
        return self.raw

    def num_words(self) -> int:
        """The number of parts."""
        return len(self.words)

    def word(self, id_: int) -> str:
        """The word of a part."""
        return self.inverse_vocab[id_]

    def string_position(self, id_: int) -> Array:
        """Offsets (m,) of a part's occurrences, in code points."""
        found: Array = self.string_start[self.words.places[id_]]
        return found

    def inverse_removing(self, words_to_remove: Iterable[int]) -> str:
        """The text without some parts; without ``bow`` they are replaced by ``mask_string``."""
        shown = np.ones((1, len(self.words)), bool)
        shown[0, list(words_to_remove)] = False
        return next(self.words.strings(shown, self.replacements()))

    def replacements(self) -> list[str] | None:
        """Strings in place of the parts; None if they are removed."""
        return None if self.bow else [self.mask_string] * len(self.words)


class IndexedString(_Indexed):
    """A text with words as its parts; the arguments are those of `gpulime.lime_text.LimeTextExplainer`."""

    def __init__(
        self, raw_string: str, split_expression: Split = r"\W+", bow: bool = True, mask_string: str | None = None
    ) -> None:
        super().__init__(split(raw_string, split_expression, bow), bow, "UNKWORDZ" if mask_string is None else mask_string)


class IndexedCharacters(_Indexed):
    """A text with characters as its parts; the arguments are those of `gpulime.lime_text.LimeTextExplainer`."""

    def __init__(self, raw_string: str, bow: bool = True, mask_string: str | None = None) -> None:
        super().__init__(split(raw_string, bow=bow, char_level=True), bow, chr(0) if mask_string is None else mask_string)
