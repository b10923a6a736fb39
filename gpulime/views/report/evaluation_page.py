"""The page of an evaluation: methods in a table, their mean curves, and their maps side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor

from gpulime.explanations import shades
from gpulime.runs.evaluation import rows
from gpulime.runs.evaluation.rows import GAP
from gpulime.runs.evaluation.settings import FIRST, LIME
from gpulime.runs.reading.pixels import Shown
from gpulime.runs.store import store
from gpulime.views.report import overlay, plot
from gpulime.views.report.card import top_label
from gpulime.views.report.judged import number, said
from gpulime.views.report.measured import GRID, WORDS, Measured
from gpulime.views.report.template import template

PAGE = "evaluation.html"
MOST_CARDS = 48
MOST_COLUMNS = 8  # of a card's maps
# Of the curves of other methods: apart from LIME's blue, and visible on either theme.
COLOURS = (
    "#d1495b",
    "#2a9d8f",
    "#8e6bbf",
    "#b5761a",
    "#4f9a3c",
    "#c2569b",
    "#6f8ea5",
    "#a8604a",
    "#8a963c",
    "#00a0b8",
    "#7a5c3e",
)


def write(
    run: Path,
    measured: Measured,
    shown: Sequence[dict[str, Any]],
    picture: Callable[[dict[str, Any]], Shown | None],
    named: Callable[[int], str],
    style: str,
) -> Path:
    """Write ``evaluation.html`` of a run: one self-contained file without a script.

    Parameters
    ----------
    shown : rows of the run, whose maps are drawn
    picture : the model's input of a row as a picture, or None
    named : class -> its name
    style : of all pages
    """
    ids = [row["image_id"] for row in shown]
    means = measured.means()
    methods = list(dict.fromkeys(score.method for score in measured.summary.scores))
    drawn, values = measured.drawn(ids), measured.values(ids)
    grid = np.linspace(0, 1, GRID)
    cards = [_card(row, (row["image_id"], row["labels"][top_label(row)]), drawn, values, picture, named) for row in shown]
    html = template("evaluation.html.j2").render(
        title=run.resolve().name,
        summary=measured.summary,
        tables=_tables(measured),
        words=WORDS,
        plot=plot.plot({metric: {name: (grid, one) for name, one in of.items()} for metric, of in means.items()}),
        colours={name: colour(name, methods) for name in methods},
        unit=measured.unit,
        fill=measured.fill,
        cards=[card for card in cards if card["maps"]],
        more=measured.summary.inputs - len(ids),
        style=style,
    )
    store.publish(run, PAGE, html.encode("utf-8", "backslashreplace"))
    return run / PAGE


def colour(method: str, methods: Sequence[str]) -> str:
    """The colour of a method's curve: LIME's blue, gray for random and centre, others in turn."""
    if method in FIRST:
        return shades.FOR if method == LIME else "var(--quiet)"
    others = [name for name in methods if name not in FIRST]
    return COLOURS[others.index(method) % len(COLOURS)]


def _tables(measured: Measured) -> list[dict[str, Any]]:
    """The tables of the summary; the best of each column is marked."""
    found = []
    for title, metrics, lines in measured.summary.tables:
        best = []
        for at, metric in enumerate(metrics):
            known = [cells[at].mean for _, cells in lines if cells[at] is not None and cells[at].mean is not None]  # type: ignore[union-attr]
            best.append((max if rows.HIGHER[metric] else min)(known, default=None))  # type: ignore[type-var]
        found.append(
            {
                "title": title,
                "columns": [(WORDS[metric], "higher" if rows.HIGHER[metric] else "lower") for metric in metrics],
                "lines": [
                    (
                        name,
                        max((one.inputs for one in cells if one is not None), default=0),
                        [
                            {
                                "mean": number(None if one is None else one.mean),
                                "error": "" if one is None or one.standard_error is None else number(one.standard_error),
                                "of": f"{one.inputs:,}" if one is not None and measured.summary.is_partial(one) else "",
                                "is_best": one is not None and one.mean is not None and one.mean == top,
                            }
                            for one, top in zip(cells, best, strict=True)
                        ],
                    )
                    for name, cells in lines
                ],
            }
        )
    return found


def _card(
    row: dict[str, Any],
    key: tuple[str, int],
    drawn: Mapping[Any, Mapping[str, Any]],
    values: Mapping[Any, Mapping[str, Any]],
    picture: Callable[[dict[str, Any]], Shown | None],
    named: Callable[[int], str],
) -> dict[str, Any]:
    """One image with the map of each method."""
    found = drawn.get(key, {})
    maps = [
        {"method": name, "map": map_uri(one.map), "gap": said(values.get(key, {}).get(name, {}).get(GAP))}
        for name, one in found.items()
        if one.map is not None
    ]
    shown = picture(row) if maps else None
    return {
        "name": row["image_id"],
        "label": named(key[1]),
        "probability": row["pred_probs"][top_label(row)],
        "h": row["h"],
        "w": row["w"],
        "picture": None if shown is None else overlay.picture_uri(shown.pixels),
        "maps": maps,
        "columns": even_columns(len(maps) + (shown is not None)),
    }


def even_columns(tiles: int) -> int:
    """Columns of rows that are as full as each other, so that no tile stands alone; at most `MOST_COLUMNS`."""
    lines = max(1, math.ceil(tiles / MOST_COLUMNS))
    return max(1, math.ceil(tiles / lines))


def map_uri(map_: npt.NDArray[np.int8]) -> str:
    """A stored map as a picture: blue for the label, orange against it, with the opacity of its size."""
    rgba = np.zeros((*map_.shape, 4), np.uint8)
    rgba[..., :3] = np.where(map_[..., None] > 0, ImageColor.getrgb(shades.FOR), ImageColor.getrgb(shades.AGAINST))
    rgba[..., 3] = 2 * np.abs(map_.astype(np.int16)).clip(max=127)
    return shades.uri(Image.fromarray(rgba), "PNG")
