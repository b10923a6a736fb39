"""Words of a text: its division into parts that can be hidden, as lime divides it, and the strings that remain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np

from gpulime.errors import GpulimeError, check

Array = np.ndarray[Any, np.dtype[Any]]
Split = str | Callable[[str], Sequence[str]]  # a regular expression of separators, or text -> words
SHOWN = 60  # characters of a text in a message


class Words:
    """A text, divided into words and what stands between them.

    Attributes
    ----------
    text : str
    pieces : list of str, words and separators in order; joined, they are the text
    part_of : (len(pieces),) int64, the part that a piece belongs to; -1 for a separator, which is never hidden
    names : list of str, the word of each part
    """

    def __init__(self, text: str, pieces: Sequence[str], words: Sequence[bool], bow: bool) -> None:
        """Number the parts in the order of their first word.

        ``words`` tells which of the pieces are words. With ``bow`` equal words are one part, else each word is its own.
        """
        self.text, self.pieces = text, list(pieces)
        self.names: list[str] = []
        numbers: dict[str, int] = {}
        part_of = np.full(len(self.pieces), -1)
        for place in np.flatnonzero(words).tolist():
            word = self.pieces[place]
            part = numbers.get(word) if bow else None
            if part is None:
                part = numbers[word] = len(self.names)
                self.names.append(word)
            part_of[place] = part
        self.part_of = part_of

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def starts(self) -> Array:
        """The offset (len(pieces),) of each piece in the text, in code points."""
        return np.concatenate([[0], np.cumsum([len(piece) for piece in self.pieces], dtype=np.int64)])[: len(self.pieces)]

    @cached_property
    def places(self) -> list[list[int]]:
        """For each part the numbers of its pieces."""
        places: list[list[int]] = [[] for _ in self.names]
        for place in np.flatnonzero(self.part_of >= 0).tolist():
            places[self.part_of[place]].append(place)
        return places

    @cached_property
    def spans(self) -> list[list[tuple[int, int]]]:
        """For each part its occurrences as (start, stop), in code points."""
        starts = self.starts.tolist()
        return [[(starts[i], starts[i] + len(self.pieces[i])) for i in places] for places in self.places]

    @cached_property
    def part_at(self) -> Array:
        """The part (len(text),) of each character; -1 in a separator."""
        return np.repeat(self.part_of, [len(piece) for piece in self.pieces])

    def strings(self, masks: Array, replacements: Sequence[str] | None = None) -> Iterator[str]:
        """The text with its hidden words removed or replaced.

        Parameters
        ----------
        masks : (b, k) bool, True if a part is shown; columns beyond the text's parts have no meaning
        replacements : list of str, optional
            One for each part, in place of its words; by default they are removed.
        """
        shown = np.concatenate([masks[:, : len(self)], np.ones((len(masks), 1), bool)], 1)[:, self.part_of]
        pieces = self.pieces
        if replacements is not None:
            others = [replacements[part] if part >= 0 else "" for part in self.part_of.tolist()]
            pieces = [either for pair in zip(pieces, others, strict=True) for either in pair]
            shown = np.stack([shown, ~shown], 2).reshape(len(masks), -1)
        width, flags = len(pieces), shown.tobytes()
        return ("".join(compress(pieces, flags[i * width : (i + 1) * width])) for i in range(len(masks)))


def split(text: Any, split_expression: Split = r"\W+", bow: bool = True, char_level: bool = False) -> Words:
    r"""Divide a text into words.

    Parameters
    ----------
    text : str
    split_expression : str or callable
        A regular expression of what separates words; groups in it change nothing. Or a callable text -> words, in their order
        in the text.
    bow : bool
        True: a word is one part wherever it occurs. False: each occurrence is a part.
    char_level : bool
        True: characters are the parts, in place of words.

    Raises
    ------
    GpulimeError
        If the text is no string, or the callable returns a word that the text lacks.
    """
    check(isinstance(text, str), f"a text must be a string; got {type(text).__name__} {text!r:.{SHOWN}}")
    if char_level:
        return Words(text, text, [True] * len(text), bow)
    pieces, words = _around(text, split_expression) if callable(split_expression) else _between(text, split_expression)
    return Words(text, pieces, words, bow)


def compiled(separators: str) -> re.Pattern[str]:
    """The regular expression of what separates words, or the end of the text.

    Raises
    ------
    GpulimeError
        If it is none.
    """
    right = "split_expression must be a regular expression, or a callable text -> words"
    check(isinstance(separators, str), lambda: f"{right}; got {separators!r:.{SHOWN}}")
    try:
        return re.compile(f"(?:{separators})|$")
    except re.error as error:
        raise GpulimeError(f"{right}; got {separators!r:.{SHOWN}}: {error}") from error


def check_split(split_expression: Split) -> None:
    """Raise `GpulimeError` unless texts can be divided by it."""
    if not callable(split_expression):
        compiled(split_expression)


def _between(text: str, separators: str) -> tuple[list[str], list[bool]]:
    """Pieces of the text, and for each if it is a word: what stands between matches.

    A last line break is a separator, too, since lime also splits at ``$``.
    """
    pieces: list[str] = []
    words: list[bool] = []
    end = 0
    for match in compiled(separators).finditer(text):
        between, separator = text[end : match.start()], match[0]
        if between:
            pieces.append(between)
            words.append(between != "\n")
        if separator:
            pieces.append(separator)
            words.append(False)
        end = match.end()
    return pieces, words


def _around(text: str, tokenise: Callable[[str], Sequence[str]]) -> tuple[list[str], list[bool]]:
    """Pieces of the text, and for each if it is a word: the tokens and what stands around them."""
    tokens = [str(token) for token in tokenise(text) if len(token)]
    pieces: list[str] = []
    end = 0
    for token in tokens:
        start = text.find(token, end)
        if start < 0:
            raise GpulimeError(
                f"split_expression must return words of the text in their order; {token!r:.{SHOWN}} is not in "
                f"{text[end:]!r:.{SHOWN}}, the rest of the text"
            )
        pieces += [text[end:start], token]
        end = start + len(token)
    pieces = [piece for piece in [*pieces, text[end:]] if piece]
    known = set(tokens)
    return pieces, [piece in known for piece in pieces]


def check_words(words: Words, one: str = "a text") -> None:
    """Raise `GpulimeError` if there is no word to hide."""
    if not len(words):
        given = f"{words.text!r:.{SHOWN}}" if words.text else "an empty one"
        raise GpulimeError(f"{one} must have a word that can be hidden; got {given}")
