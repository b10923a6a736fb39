"""HTML of an explanation for notebooks: pictures embedded, for light and dark themes.

It needs no matplotlib and contains no script and no style sheet, which could affect the rest of the notebook. Text keeps
the notebook's colour, and all text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gpulime.classes import called, name_of
from gpulime.explanations import markup, shades
from gpulime.explanations.image import ImageExplanation
from gpulime.explanations.markup import CELL, NUMBER, QUIET, more, number, square
from gpulime.explanations.window import MOST_PLAIN

SIDES = (160, 256)  # of a picture, in pixels
SMALL_SIDES = (112, 160)
STRONGEST = 5
MOST_IMAGES = 12
MOST_LABELS = 10


def one(explanation: ImageExplanation) -> str:
    """One image: the picture, the overlay of its first label, and a table of its labels with their strongest segments."""
    labels = shades.labels_of(explanation)
    if not labels:
        return "<p>an explanation without labels</p>"
    name = escape(called(labels[0], explanation.class_names))
    picture, overlay = _pictures(explanation, labels[0], SIDES, STRONGEST)
    shown = "".join(_row(explanation, label) for label in labels[:MOST_LABELS])
    headings = (
        ("label", CELL),
        ("prediction", NUMBER),
        ("R² left out", NUMBER),
        ("R² fitted", NUMBER),
        ("strongest segments" + ", ± 95 % interval" * any(shades.errors(explanation, label) for label in labels), CELL),
    )
    head = markup.row(headings, "th")
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start">'
        f"{_img(picture, 'the image')}{_img(overlay, f'segments for and against {name}')}"
        f'<div><table style="{markup.TABLE}">'
        f"<thead>{head}</thead><tbody>{shown}</tbody></table>"
        f"{more(len(labels) - MOST_LABELS, 'label')}"
        f'<p style="{QUIET};margin:6px 0 0">Shown is {name}, with ids: {square(1)} for it, {square(-1)} against it.'
        f"{f' {_upper(shades.HATCHED)}.' * bool(_hatched(explanation, labels[0]))}{_bands(explanation)}</p>"
        "</div></div>"
    )


def many(title: str, explanations: Sequence[ImageExplanation], left_out: int) -> str:
    """Several images, each with the overlay of its first label; ``left_out`` more are only counted."""
    figures = "".join(_figure(i, explanation) for i, explanation in enumerate(explanations))
    any_hatched = any(_hatched(one, label) for one in explanations for label in shades.labels_of(one)[:1])
    hatched = f'<p style="{QUIET};margin:6px 0 0">{_upper(shades.HATCHED)}.</p>' if any_hatched else ""
    return (
        f'<div><p style="margin:0 0 8px">{escape(title)}</p>'
        f'<div style="display:flex;flex-wrap:wrap;gap:12px">{figures}</div>{hatched}{more(left_out, "image")}</div>'
    )


def _figure(i: int, explanation: ImageExplanation) -> str:
    labels = shades.labels_of(explanation)
    if not labels:
        return ""
    label = labels[0]
    _, overlay = _pictures(explanation, label, SMALL_SIDES, 0)
    name = escape(called(label, explanation.class_names))
    facts = [name, number(explanation.predictions.get(label), 3), shades.score(explanation, label)]
    said = " · ".join(filter(None, facts))
    return (
        f'<figure style="margin:0">{_img(overlay, f"image {i}, segments for and against {name}")}'
        f'<figcaption style="font-size:90%">{i}<br><span style="{QUIET}">{said}</span></figcaption></figure>'
    )


def _pictures(explanation: ImageExplanation, label: int, sides: tuple[int, int], numbered: int) -> tuple[str, str]:
    """The image and its overlay as addresses of JPEGs; the strongest ``numbered`` segments bear their ids."""
    weights = explanation.local_exp[label]
    heat = shades.heat(explanation.segments, weights)
    picture, segments, heat = shades.resized([shades.rgb(explanation.image), explanation.segments, heat], *sides)
    overlay = shades.blend(picture, segments, heat, shades.scale(weights), _hatched(explanation, label))
    ids = [segment for segment, _ in shades.strongest(weights, numbered)]
    return shades.uri(picture), shades.uri(shades.numbered(overlay, segments, ids))


def _row(explanation: ImageExplanation, label: int) -> str:
    picked = shades.strongest(explanation.local_exp[label], STRONGEST)
    largest, known = shades.scale(picked), shades.errors(explanation, label)
    decimals = shades.decimals(largest)
    half = {s: f'&nbsp;<span style="{QUIET}">±{shades.INTERVAL * error:.{decimals}f}</span>' for s, error in known.items()}
    segments = " ".join(markup.weighted(str(segment), w, largest, half.get(segment, "")) for segment, w in picked)
    cells = (
        (markup.name(name_of(label, explanation.class_names) or label), CELL),
        (number(explanation.predictions.get(label), 3), NUMBER),
        (number(explanation.scores_loo.get(label), 2), NUMBER),
        (number(explanation.scores.get(label), 2), NUMBER),
        (segments or "none", CELL),
    )
    return markup.row(cells)


def _hatched(explanation: ImageExplanation, label: int) -> list[int]:
    return shades.unsure(explanation.local_exp[label], shades.errors(explanation, label))


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _bands(explanation: ImageExplanation) -> str:
    """The channels in the picture, if not all."""
    c = explanation.image.shape[-1] if explanation.image.ndim == 3 else 1
    return f" The picture shows bands 1, 2, 3 of {c}, each from its 2nd to its 98th percentile." if c > MOST_PLAIN else ""


def _img(uri: str, text: str) -> str:
    """A picture; ``text`` is escaped already."""
    return f'<img src="{uri}" alt="{text}" style="display:block;margin:0;border-radius:4px;max-width:100%">'
