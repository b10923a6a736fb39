"""HTML of explanations of texts and rows: probabilities, bars for each label, the input; no script, no style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from gpulime.classes import called
from gpulime.explanations import markup, shades
from gpulime.explanations.explanation import Explanation
from gpulime.explanations.markup import LEFT, QUIET, RIGHT

MOST_CLASSES = 5  # with a probability of their own; of more, the first four and the sum of the others, as in lime
MOST_BARS = 20  # of all labels together, but LEAST_BARS for each
LEAST_BARS = 5
FEW_PARTS = 10  # a page of its own shows all if no label has more
MOST_INPUTS = 12
STRONGEST = 5  # parts of an input in the table of several
SIZE = 14_750  # bytes of a fragment, beside a text: bars have the room that the rest leaves
BLOCK = '<div style="max-width:100%;overflow-x:auto">{}</div>'
WIDTH, HEIGHT, GAP = 160, 11, 10  # of the drawing of bars, and to its right, in pixels
BODY = "margin:2rem auto;max-width:64rem;padding:0 1rem;font:15px/1.5 system-ui,sans-serif"


def page(fragment: str) -> str:
    """A document of its own around a fragment; it follows the reader's theme.

    Pasted into another page, it changes nothing there: only the attributes of ``html`` and ``body`` have styles.
    """
    return (
        '<!DOCTYPE html><html lang="en" style="color-scheme:light dark"><head><meta charset="utf-8">'
        f'<title>Explanation</title></head><body style="{BODY}">{fragment}</body></html>\n'
    )


def one(
    explanation: Explanation,
    labels: Any = None,
    predict_proba: bool = True,
    show_predicted_value: bool = True,
    most: int | None = None,
    few: int = FEW_PARTS,
    **kwargs: Any,
) -> str:
    """One explanation as a fragment; parameters and errors are those of `Explanation.as_html`.

    Each label has ``most`` bars at most; by default as many as it has parts if no label has more than ``few``,
    else the labels share `MOST_BARS`, with `LEAST_BARS` for each. There are fewer if they would take more than `SIZE`.
    """
    shown = _labels(explanation, labels)
    if not shown:
        return "<p>an explanation without labels</p>"
    weights = {label: _weights(explanation, label) for label in shown}
    largest = max(map(shades.scale, weights.values()))
    regression = explanation.mode == "regression"
    if regression:
        blocks = [_value(explanation)] if show_predicted_value else []
    else:
        blocks = [_probabilities(explanation)] if predict_proba else []
    parts = max(map(len, weights.values()))
    most = most or (few if parts <= few else max(LEAST_BARS, MOST_BARS // len(shown)))
    unsure = {label: shades.unsure(weights[label], shades.errors(explanation, label)) for label in shown}
    first = shown[0]
    heading = "" if regression else _called(explanation, first, markup.ANYWHERE)
    instance = explanation.domain_mapper.instance_html(weights[first], first, unsure=unsure[first], heading=heading, **kwargs)
    legend = (
        f'<p style="{QUIET};margin:10px 0 0">{markup.square(1)} for, {markup.square(-1)} against'
        f"{'; faded: the sign is not certain at 95 %' * any(unsure.values())}.</p>"
    )
    frame = _framed([*filter(None, blocks), *("" for _ in shown)], legend)
    room = SIZE - markup.size(frame) - min(markup.size(instance), markup.ROOM)
    blocks = [*filter(None, blocks), *(_bars(explanation, label, largest, most, room // len(shown)) for label in shown)]
    return _framed(blocks, instance + legend)


def _framed(blocks: Sequence[str], below: str) -> str:
    """Blocks side by side, as far as there is room."""
    beside = "".join(map(BLOCK.format, blocks))
    return f'<div><div style="display:flex;flex-wrap:wrap;gap:16px 40px;align-items:flex-start">{beside}</div>{below}</div>'


def many(title: str, explanations: Sequence[Explanation], left_out: int) -> str:
    """Several explanations as a table with the strongest parts of each; ``left_out`` more are only counted."""
    head = markup.row((("input", LEFT), ("label", LEFT), ("prediction", RIGHT), ("strongest parts", LEFT)), "th")
    rows = [_summary(i, explanation) for i, explanation in enumerate(explanations)]
    return f"<div>{markup.table(escape(title), rows, head)}{markup.more(left_out, 'input')}</div>"


def _labels(explanation: Explanation, labels: Any) -> list[int]:
    if explanation.mode == "regression":
        return [explanation.dummy_label]
    if labels is None:
        return [label for label in explanation.available_labels() if label in explanation.local_exp]
    given = labels if isinstance(labels, list | tuple | set | range | np.ndarray) else [labels]
    return [explanation._chosen(label) for label in given]


def _weights(explanation: Explanation, label: int) -> list[tuple[int, float]]:
    """The weights of a label, without words that the model never sees: theirs are noise."""
    unseen = {*getattr(explanation.domain_mapper, "unseen", ())}
    return [pair for pair in explanation.local_exp[label] if pair[0] not in unseen]


def _called(explanation: Explanation, label: int, style: str = markup.WRAPPED) -> str:
    return markup.name(called(label, explanation.class_names), style)


def _probabilities(explanation: Explanation) -> str:
    """A table of the most probable classes; of the explained ones if the others are not known."""
    if explanation.predict_proba is None:
        found = sorted(explanation.predictions.items(), key=lambda pair: -pair[1])
        if not found:
            return ""
        kept, others = found[:MOST_CLASSES], 0.0
    else:
        values = np.asarray(explanation.predict_proba, dtype=float).ravel()
        order = np.argsort(-values, kind="stable")
        few = len(order) if len(order) <= MOST_CLASSES else MOST_CLASSES - 1
        kept, others = [(int(label), float(values[label])) for label in order[:few]], float(values[order[few:]].sum())
    named = [(_called(explanation, label), value) for label, value in kept]
    named += [("Other", others)] * (explanation.predict_proba is not None and len(values) > MOST_CLASSES)
    likely = all(0 <= value <= 1 for _, value in named)  # else outputs are no probabilities, and have no bar
    rows = [
        markup.row([(name, LEFT), (_share(value) if likely else "", ""), (markup.number(value, 3), RIGHT)])
        for name, value in named
    ]
    return markup.table("Prediction probabilities" if likely else "Predictions", rows)


def _value(explanation: Explanation) -> str:
    """The predicted value of a regression, and its place between the least and the largest of the samples."""
    value = explanation.predicted_value
    low, high = explanation.min_value, explanation.max_value
    if value is None:
        return ""
    figures = markup.figures(value, ".4g")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return markup.table("Predicted value", [markup.row([(figures, LEFT)])])
    x = WIDTH * min(max((value - low) / (high - low), 0), 1)
    mark = f'<path d="M0 5.5H{WIDTH}M{x:.1f} 0v11" stroke="currentColor"/>'
    mark += f'<circle cx="{x:.1f}" cy="5.5" r="4" fill="{shades.FOR}"/>'
    ends = [markup.figures(end, ".4g") for end in (low, high)]
    cells = [(f"{ends[0]}&nbsp; {_drawing(mark)} {ends[1]}", LEFT)]
    return markup.table(f"Predicted value: <b>{figures}</b>, between the samples' least and largest", [markup.row(cells)])


def _bars(explanation: Explanation, label: int, largest: float, most: int, room: int) -> str:
    """A table of the ``most`` strongest parts of a label that fit into ``room`` bytes: a signed bar and its 95 % interval."""
    weights, known = _weights(explanation, label), shades.errors(explanation, label)
    names = [name for name, _ in explanation.domain_mapper.map_exp_ids(weights)]
    half = {part: shades.INTERVAL * error for part, error in known.items()}
    unsure, decimals = shades.unsure(weights, known), shades.decimals(largest)
    finite = [w for _, w in weights if math.isfinite(w)]
    ends = [0.0, *finite, *(w + side * half.get(part, 0.0) for part, w in weights for side in (-1, 1) if math.isfinite(w))]
    low, high = (np.clip(end, -2 * largest, 2 * largest) for end in (min(ends), max(ends)))  # wide intervals are cut
    rows = []
    for (part, weight), name in zip(weights[:most], names[:most], strict=True):
        interval = f"\N{NO-BREAK SPACE}<small>±{half[part]:.{decimals}f}</small>" if part in half else ""
        drawn = _bar(float(weight), half.get(part, 0.0), float(low), float(high), part in unsure)
        number = shades.signed(weight, largest) if math.isfinite(weight) else "\N{EN DASH}"
        cells = ((markup.name(name), LEFT), (drawn, ""), (f"{number}{interval}", RIGHT))
        rows.append(markup.row(cells))
    name = "Weights" if explanation.mode == "regression" else _called(explanation, label, markup.ANYWHERE)
    facts = _facts(explanation, label)
    caption = f"<b>{name}</b>" + f' <br><small style="white-space:nowrap">{facts}</small>' * bool(facts)
    rows = markup.fitting(rows, room - markup.size(markup.table(caption, [])))
    return markup.table(caption, rows) + markup.more(len(weights) - len(rows), "part")


def _facts(explanation: Explanation, label: int) -> str:
    """The linear model's R2, intercept and prediction, if known."""
    facts = [shades.score(explanation, label)]
    for name, values in (("intercept", explanation.intercept), ("local prediction", explanation.local_preds)):
        value = np.ravel(np.asarray(values.get(label, math.nan), dtype=float))[0]
        facts += [f"{name} {markup.figures(value, '.3g')}"] * bool(np.isfinite(value))
    return " · ".join(filter(None, facts))


def _bar(weight: float, half: float, low: float, high: float, unsure: bool) -> str:
    """A bar from 0 to the weight on a scale [low, high], with its interval; faded and dashed if its sign is not certain."""
    if not math.isfinite(weight) or low >= high:
        return ""
    zero, tip, left, right = (
        (min(max(x, low), high) - low) / (high - low) * (WIDTH - 2) + 1 for x in (0.0, weight, weight - half, weight + half)
    )
    colour = shades.FOR if weight > 0 else shades.AGAINST
    faded = f' fill-opacity=".4" stroke="{colour}" stroke-dasharray="3 2"' if unsure else ""
    width = abs(tip - zero)
    drawn = f'<rect x="{min(zero, tip):.1f}" y="1" width="{width:.1f}" height="9" fill="{colour}"{faded}/>' if width else ""
    lines = f"M{zero:.1f} 0v11" + f"M{left:.0f} 3v5m0-2.5H{right:.0f}m0-2.5v5" * (half > 0)
    return _drawing(f'{drawn}<path d="{lines}" stroke="currentColor"/>')


def _share(value: float) -> str:
    return _drawing(f'<rect y="1" width="{WIDTH * value:.1f}" height="9" fill="currentColor" fill-opacity=".5"/>')


def _drawing(content: str) -> str:
    return f'<svg width="{WIDTH + GAP}" height="{HEIGHT}">{content}</svg>'


def _summary(i: int, explanation: Explanation) -> str:
    regression = explanation.mode == "regression"
    if not explanation.local_exp:
        return markup.row([(str(i), LEFT), ("none", LEFT), ("", RIGHT), ("", LEFT)])
    label = explanation._chosen(None)
    picked = shades.strongest(_weights(explanation, label), STRONGEST)
    largest = shades.scale(picked)
    named = explanation.domain_mapper.map_exp_ids(picked)
    parts = " ".join(markup.weighted(markup.name(name, markup.ANYWHERE), weight, largest) for name, weight in named)
    predicted = explanation.predicted_value if regression else explanation.predictions.get(label)
    name = "value" if regression else _called(explanation, label)
    return markup.row([(str(i), LEFT), (name, LEFT), (markup.number(predicted, 3), RIGHT), (parts or "none", LEFT)])
