"""The page of two runs: differences, and the most changed images side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpulime.classes import called
from gpulime.explanations import shades
from gpulime.runs import from_config
from gpulime.runs.store import shards, store
from gpulime.runs.store.row import IMAGE, PARTS, kind_of
from gpulime.runs.store.row_index import Places
from gpulime.views.diff import TOP, Diff, ImageDiff, quantile_names
from gpulime.views.report import head
from gpulime.views.report.card import fragment, said, standard_errors
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
    abouts = [store.manifest(run) for run in (diff.a, diff.b)]
    cards = []
    for image in shown:
        a, b = (of_run[image.image_id] for of_run in rows)
        found = [picture(row) for picture, row in zip(pictures, (a, b), strict=True)]
        cards.append(_card(diff, image, (a, b), [None if one is None else one.pixels for one in found], abouts))
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
        kind=diff.kind,
        parts=PARTS[diff.kind],
    )
    store.publish(to, PAGE, html.encode("utf-8", "backslashreplace"))
    return to / PAGE


def _rows(run: Path, ids: Sequence[str]) -> dict[str, Row]:
    places = Places(run, shards.DECIDING, lambda rows: rows)
    numbers = pc.index_in(pa.array(ids, pa.string()), value_set=places.rows["image_id"]).to_pylist()
    return {image_id: places.row(i) for image_id, i in zip(ids, numbers, strict=True)}


def _card(
    diff: Diff, image: ImageDiff, rows: tuple[Row, Row], pictures: Sequence[shades.Picture | None], abouts: Sequence[Any]
) -> dict[str, Any]:
    """One input in both runs: the shared label that is most probable in A, or else each side's own."""
    (a, b), lead = rows, image.leading
    label_a, label_b = (image.top_a[0], image.top_b[0]) if lead is None else (lead.label, lead.label)
    largest = [shades.scale(_weights(row, label)) for row, label in ((a, label_a), (b, label_b))]
    if lead is not None:
        largest = [max(largest)] * 2
    picture = next((one for one in pictures if one is not None), None)
    return {
        "name": image.image_id,
        "picture": None if picture is None else shades.uri(shades.resized([picture], *SIDES)[0]),
        "is_image": kind_of(a) == IMAGE,
        "a": _side(a, label_a, pictures[0], largest[0], diff.names_a, abouts[0]),
        "b": _side(b, label_b, pictures[1], largest[1], diff.names_b, abouts[1]),
        "top_a": called(image.top_a[0], diff.names_a),
        "top_b": called(image.top_b[0], diff.names_b),
        "changed": image.changed,
        "note": _note(image, largest[0], PARTS[kind_of(a)]),
        "labels": [(called(label.label, diff.names_a), label) for label in image.labels],
    }


def _note(image: ImageDiff, largest: float, parts: str) -> str:
    """A difference of the sides, or the coefficient with the deepest colour."""
    if not image.same_size:
        return "the sizes differ"
    if not image.same_segments:
        return f"the {parts} differ"
    return (
        ""
        if image.leading is None or parts != PARTS[IMAGE]
        else f"deepest colour {shades.signed(largest, largest).replace('+', '±')}"
    )


def _weights(row: Row, label: int) -> list[tuple[int, float]]:
    return list(enumerate(row["coef"][row["labels"].index(label)]))


def _score(row: Row, j: int) -> str:
    """The leave-one-out R2 of a label, or lime's in rows of earlier versions; nothing if it has neither."""
    found = ((name, row[column] and row[column][j]) for column, name in head.SCORES.items())
    return next((f"{name} {said(value)}" for name, value in found if value is not None), "")


def _side(
    row: Row, label: int, picture: shades.Picture | None, largest: float, names: Sequence[str] | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    weights, j = _weights(row, label), row["labels"].index(label)
    unsure = shades.unsure(weights, dict(enumerate(standard_errors(row)[j].tolist())))
    side = {
        "label": called(label, names),
        "probability": row["pred_probs"][j],
        "score": _score(row, j),
        "hatched": bool(unsure),
    }
    if kind_of(row) == IMAGE:
        return side | _overlay(row, weights, unsure, picture, largest)
    return side | {"explanation": fragment(row, about, label)}


def _overlay(
    row: Row, weights: list[tuple[int, float]], hatched: list[int], picture: shades.Picture | None, largest: float
) -> dict[str, Any]:
    """The picture of a side, with the strongest segments' places in percent."""
    segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    fits = picture is not None and picture.shape[:2] == segments.shape
    ground = picture if picture is not None and fits else shades.blank(segments.shape)
    ground, small, heat = shades.resized([ground, segments, shades.heat(segments, weights)], *SIDES)
    places = [(segment, *shades.centre(segments, segment)) for segment, _ in shades.strongest(weights, TOP)]
    return {
        "overlay": shades.uri(shades.blend(ground, small, heat, largest, hatched)),
        "spots": [(segment, 100 * (x + 0.5) / row["w"], 100 * (y + 0.5) / row["h"]) for segment, x, y in places],
        "w": small.shape[1],
        "h": small.shape[0],
    }
