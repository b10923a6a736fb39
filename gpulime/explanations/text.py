"""Names of the words of one text, and the places where they occur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpulime.errors import check
from gpulime.explanations.explanation import DomainMapper, Weights

Spans = Sequence[Sequence[tuple[int, int]]]


class TextDomainMapper(DomainMapper):
    """Names the words of a text.

    Parameters
    ----------
    words : sequence of k str
        The name of each part.
    text : str
        The text as it was given.
    spans : sequence of k lists of (start, stop)
        Where each part occurs in ``text``, in code points; an empty list for a part that does not.

    Raises
    ------
    GpulimeError
        If there are not as many spans as words.
    """

    def __init__(self, words: Sequence[str], text: str, spans: Spans) -> None:
        check(len(words) == len(spans), f"there must be spans for each of {len(words)} words; got {len(spans)}")
        self.words, self.text = list(words), text
        self.spans = [[(int(start), int(stop)) for start, stop in places] for places in spans]

    def map_exp_ids(self, exp: Weights, positions: bool = False, **kwargs: Any) -> list[tuple[str, float]]:
        """Replace the part's number by its word in each pair (part, weight).

        Parameters
        ----------
        exp : sequence of (part, weight)
        positions : bool
            If True, a word is followed by the places where it begins, in code points: ``bad_3-12``.

        Returns
        -------
        list of (word, weight), in the same order
        """
        return [(self._name(part, positions), weight) for part, weight in exp]

    def _name(self, part: int, positions: bool) -> str:
        starts = "-".join(str(start) for start, _ in self.spans[part])
        return f"{self.words[part]}_{starts}" if positions else self.words[part]
