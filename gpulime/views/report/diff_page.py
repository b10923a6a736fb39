"""The page of two runs: differences, and the most changed images side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpulime.classes import called
from gpulime.explanations import shades
from gpulime.runs import from_config
from gpulime.runs.store import shards, store
from gpulime.runs.store.row_index import Places
from gpulime.views.diff import TOP, Diff, ImageDiff, quantile_names
from gpulime.views.report import head
from gpulime.views.report.card import said, standard_errors
from gpulime.views.report.template import template

PAGE = "diff.html"
MOST_CARDS = 50
SIDES = (160, 320)  # of a picture, in pixels

Row = dict[str, Any]


def write(diff: Diff, to: Path) -> Path:
    """Write ``diff.html`` into a folder, which is created if missing: one self-contained file without a script."""
    shown = diff.images[:MOST_CARDS]
    ids = [image.image_id for image in shown]
    rows = [_rows(run, ids) for run in (diff.a, diff.b)]
    pictures = [from_config.pictures(run) for run in (diff.a, diff.b)]
    cards = []
    for image in shown:
        a, b = (of_run[image.image_id] for of_run in rows)
        found = [picture(row) for picture, row in zip(pictures, (a, b), strict=True)]
        cards.append(_card(diff, image, a, b, [None if one is None else one.pixels for one in found]))
    html = template("diff.html.j2").render(
        a=str(diff.a),
        b=str(diff.b),
        settings=diff.settings,
        summary=diff.summary,
        spreads=diff.spreads,
        quantiles=quantile_names(),
        cards=cards,
        left_out=len(diff.images) - len(cards),
        colours={"for": shades.FOR, "against": shades.AGAINST},
        top=TOP,
    )
    store.publish(to, PAGE, html.encode("utf-8", "backslashreplace"))
    return to / PAGE


def _rows(run: Path, ids: Sequence[str]) -> dict[str, Row]:
    places = Places(run, shards.DECIDING, lambda rows: rows)
    numbers = pc.index_in(pa.array(ids, pa.string()), value_set=places.rows["image_id"]).to_pylist()
    return {image_id: places.row(i) for image_id, i in zip(ids, numbers, strict=True)}


def _card(diff: Diff, image: ImageDiff, a: Row, b: Row, pictures: Sequence[shades.Picture | None]) -> dict[str, Any]:
    """One image in both runs: the shared label that is most probable in A, or else each side's own."""
    lead = image.leading
    label_a, label_b = (image.top_a[0], image.top_b[0]) if lead is None else (lead.label, lead.label)
    largest = [shades.scale(_weights(row, label)) for row, label in ((a, label_a), (b, label_b))]
    if lead is not None:
        largest = [max(largest)] * 2
    picture = next((one for one in pictures if one is not None), None)
    return {
        "name": image.image_id,
        "picture": None if picture is None else shades.uri(shades.resized([picture], *SIDES)[0]),
        "a": _side(a, label_a, pictures[0], largest[0], diff.names_a),
        "b": _side(b, label_b, pictures[1], largest[1], diff.names_b),
        "top_a": called(image.top_a[0], diff.names_a),
        "top_b": called(image.top_b[0], diff.names_b),
        "changed": image.changed,
        "note": _note(image, largest[0]),
        "labels": [(called(label.label, diff.names_a), label) for label in image.labels],
    }


def _note(image: ImageDiff, largest: float) -> str:
    """A difference of the sides, or the coefficient with the deepest colour."""
    if not image.same_size:
        return "the sizes differ"
    if not image.same_segments:
        return "the segments differ"
    return "" if image.leading is None else f"deepest colour {shades.signed(largest, largest).replace('+', '±')}"


def _weights(row: Row, label: int) -> list[tuple[int, float]]:
    return list(enumerate(row["coef"][row["labels"].index(label)]))


def _score(row: Row, j: int) -> str:
    """The leave-one-out R2 of a label, or lime's in rows of earlier versions; nothing if it has neither."""
    found = ((name, row[column] and row[column][j]) for column, name in head.SCORES.items())
    return next((f"{name} {said(value)}" for name, value in found if value is not None), "")


def _side(row: Row, label: int, picture: shades.Picture | None, largest: float, names: Sequence[str] | None) -> dict[str, Any]:
    segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    weights, j = _weights(row, label), row["labels"].index(label)
    fits = picture is not None and picture.shape[:2] == segments.shape
    ground = picture if picture is not None and fits else shades.blank(segments.shape)
    ground, small, heat = shades.resized([ground, segments, shades.heat(segments, weights)], *SIDES)
    hatched = shades.unsure(weights, dict(enumerate(standard_errors(row)[j].tolist())))
    places = [(segment, *shades.centre(segments, segment)) for segment, _ in shades.strongest(weights, TOP)]
    return {
        "label": called(label, names),
        "probability": row["pred_probs"][j],
        "score": _score(row, j),
        "overlay": shades.uri(shades.blend(ground, small, heat, largest, hatched)),
        "hatched": bool(hatched),
        "spots": [(segment, 100 * (x + 0.5) / row["w"], 100 * (y + 0.5) / row["h"]) for segment, x, y in places],  # in percent
        "w": small.shape[1],
        "h": small.shape[0],
    }
