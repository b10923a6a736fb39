"""Names of the words of one text, and the places where they occur."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gpulime.errors import check
from gpulime.explanations import markup, shades
from gpulime.explanations.explanation import DomainMapper, Weights

SHOWN = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;margin:4px 0 0;max-width:48em;line-height:1.7"
FAINTEST = 0.02  # of the strongest weight; weaker words are not marked
MOST_MARKED = 40  # words

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
    unseen : sequence of int
        Parts that the model never sees, such as words beyond its longest input.

    Raises
    ------
    GpulimeError
        If there are not as many spans as words.
    """

    def __init__(self, words: Sequence[str], text: str, spans: Spans, unseen: Sequence[int] = ()) -> None:
        check(len(words) == len(spans), f"there must be spans for each of {len(words)} words; got {len(spans)}")
        self.words, self.text, self.unseen = list(words), text, [int(part) for part in unseen]
        self.spans = [[(int(start), int(stop)) for start, stop in places] for places in spans]

    def map_exp_ids(self, exp: Weights, positions: bool = False) -> list[tuple[str, float]]:
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

    def instance_html(
        self,
        exp: Weights,
        label: int,
        unsure: Sequence[int] = (),
        heading: str = "",
        text: bool = True,
        opacity: bool = True,
    ) -> str:
        """HTML of the text with its weighted words: a solid line below words for the label, a dashed one against it.

        Parameters
        ----------
        exp : sequence of (part, weight)
        label : int
            The label that the weights belong to.
        unsure : sequence of int
            Parts whose sign is not certain; their ground is faded.
        heading : str
            HTML that names the label.
        text : bool
            If False, show nothing.
        opacity : bool
            If True, stronger words have a deeper ground; otherwise all have the same.
        """
        if not text:
            return ""
        largest = shades.scale(exp)
        kept = [pair for pair in shades.strongest(exp, MOST_MARKED) if abs(pair[1]) >= FAINTEST * largest]
        marks = {part: self._mark(weight, largest, part in unsure, opacity) for part, weight in kept}
        pieces, end = [], 0
        for start, stop, part in sorted((*span, j) for j in marks for span in self.spans[j]):
            if start >= end:  # overlapping words are marked once
                pieces += [escape(self.text[end:start]), f"{marks[part]}{escape(self.text[start:stop])}</mark>"]
                end = stop
        pieces.append(escape(self.text[end:]))
        few = f" of its {MOST_MARKED} strongest words" * (len(exp) > MOST_MARKED)
        title = f"Text; solid lines{few} are for {heading or 'a higher value'}, dashed lines are against it"
        shown = f'<p style="margin:14px 0 0">{title}</p><div dir="auto" style="{SHOWN}">{"".join(pieces)}</div>'
        return shown + self._unseen()

    def _unseen(self) -> str:
        """A line about the words that the model never sees, if there are any."""
        if not self.unseen:
            return ""
        count, first = len(self.unseen), markup.name(self.words[min(self.unseen)], markup.ANYWHERE)
        said = f"The model does not see {count:,} of {len(self.words):,} words, such as {first}; their weights are noise"
        return f'<p style="{markup.QUIET};margin:6px 0 0">{said}, and not shown.</p>'

    def _mark(self, weight: float, largest: float, faded: bool, opacity: bool) -> str:
        ground = markup.tint(weight if opacity else largest * (1 if weight > 0 else -1), largest, faded)
        line = f"solid {shades.FOR}" if weight > 0 else f"dashed {shades.AGAINST}"
        style = f"color:inherit;background:{ground};border-bottom:2px {line}"
        return f'<mark style="{style}" title="{shades.signed(weight, largest)}">'

    def _name(self, part: int, positions: bool) -> str:
        starts = "-".join(str(start) for start, _ in self.spans[part])
        return f"{self.words[part]}_{starts}" if positions else self.words[part]
