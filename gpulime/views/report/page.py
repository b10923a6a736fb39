"""The pages of a run: each picture beside its explanation, and the failures."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from gpulime.classes import called
from gpulime.explanations import shades
from gpulime.runs.reading.pixels import Shown
from gpulime.runs.store import shards, store
from gpulime.runs.store.atomic import publish_pieces
from gpulime.runs.store.row import IMAGE, PARTS, judged, kind_of, marked
from gpulime.runs.store.row_index import Places
from gpulime.views.report import evaluation_page, measured
from gpulime.views.report.card import card, is_regression, plain
from gpulime.views.report.head import SCORES, TOP, TOP_OF, head, with_top
from gpulime.views.report.judged import Judged
from gpulime.views.report.measured import SORTED, WORDS, Measured
from gpulime.views.report.start import start_here
from gpulime.views.report.template import template, visible

PAGE = "report.html"
LIGHT = (*shards.DECIDING, "error_type", "error", "path", "n_samples", "segmenter", "n_segments", "damaged")
MOST_CARDS = 500  # a browser scrolls a page of this size smoothly
MOST_EAGER = 100  # cards drawn at once; a screenshot of a whole page, at most 16,384 pixels high, has fewer
MOST_FAILURES = 5000
MOST_INDEXED = 5_000  # images listed on every page, at some 60 bytes each; in larger runs a page lists its own images
MOST_INDEXED_FIRST = 100_000  # images listed on the first page, so that a larger run can be sorted there
TITLE_WITHIN = 10_000  # characters of a page
HERE = Path(__file__).parent


def write(run: Path, picture: Callable[[dict[str, Any]], Shown | None], class_names: Sequence[str] | None) -> Path:
    """Write ``report.html`` of a run, and ``report-2.html`` ... beyond 500 images; all are self-contained.

    ``picture`` turns a row into the model's input as a picture, or None if it is missing. Without ``class_names`` labels are
    shown as numbers. Returns the first page.
    """
    manifest = store.read_manifest(run) or {}

    def named(label: int) -> str:
        return "value" if is_regression(manifest) else called(label, class_names)

    kind, evaluation = manifest.get("kind", IMAGE), measured.of(run)
    places = Places(run, store.schema().names, lambda rows: _light(rows, manifest))
    rows = marked(places.rows)
    explained = np.flatnonzero(pc.equal(rows["status"], "ok"))
    images = rows.take(explained).select(["image_id", *TOP.names])
    pages = max(1, -(-len(images) // MOST_CARDS))
    summary = head(rows, manifest, len(places.corrupt))
    begin = start_here(explained.tolist(), places.row, manifest, _address)
    picked = begin["places"] if begin and pages == 1 else []  # their cards come first; of several pages, links lead to them
    right = images["right"].to_pylist()
    shared = {
        "title": run.resolve().name,
        "kind": kind,
        "parts": PARTS[kind],
        "subtitle": _subtitle(rows, manifest),
        "eager": MOST_EAGER,
        "head": summary,
        "score": SCORES[summary["score"]],
        "failures": _failures(rows),
        "start": begin,
        "config_hash": manifest.get("config_hash"),
        "regression": is_regression(manifest),
        "output": _output(manifest),
        "pages": pages,
        "pager": {number: page_name(number) for number in range(1, pages + 1)},
        "evaluation": evaluation,
        "evaluation_page": evaluation_page.PAGE,
        **_assets(),
    }
    index = images if evaluation is None else _with_metrics(images, evaluation)
    layout = template("page.html.j2")
    for number in range(pages, 0, -1):  # the first page last, after the pages that it links to
        start = (number - 1) * MOST_CARDS
        here = range(start, min(start + MOST_CARDS, len(images)))
        shown = [*picked, *(i for i in here if i not in picked)]
        ids = images["image_id"][start : start + MOST_CARDS].to_pylist()
        of_page = None if evaluation is None else Judged(evaluation, ids)
        html = layout.generate(
            number=number,
            # Read, made and written one after the other: a page is never held whole.
            cards=(
                (card(row, picture(row), named, is_right) if kind_of(row) == IMAGE else plain(row, manifest, named, is_right))
                | {"measured": None if of_page is None else of_page.of(row), "number": i - start + 1}
                for i, row, is_right in ((i, places.row(int(explained[i])), right[i]) for i in shown)
            ),
            here=len(shown),
            index=_index(index, summary["score"], start, len(shown), named, kind)
            | {"regression": is_regression(manifest), "picked": begin and begin["places"], "shown": shown if picked else None},
            **shared,
        )
        publish_pieces(run, page_name(number), (piece.encode("utf-8", "backslashreplace") for piece in html))
    _remove_pages_after(run, pages)
    if evaluation is not None:
        some = map(places.row, explained[: evaluation_page.MOST_CARDS].tolist())
        evaluation_page.write(run, evaluation, list(some), picture, named, shared["style"])
    return run / PAGE


def _with_metrics(images: pa.Table, evaluation: Measured) -> pa.Table:
    """Add a column for each metric that is sorted by, of the top label."""
    ids, labels = (images[name].to_pylist() for name in ("image_id", "label"))
    for metric in SORTED:
        images = images.append_column(metric, pa.array(evaluation.column(metric, ids, labels), pa.float64()))
    return images


def page_name(number: int) -> str:
    """The file of a page, from 1."""
    return PAGE if number == 1 else f"report-{number}.html"


def _address(position: int) -> str:
    """The address of the card of an explained input, from the first page."""
    number, card = divmod(position, MOST_CARDS)
    return f"{page_name(number + 1) if number else ''}#i{card + 1}"


def _output(manifest: Mapping[str, Any]) -> str:
    """What the model gives for a label."""
    if is_regression(manifest):
        return "Value"
    return "Output" if manifest.get("fixed", {}).get("lime.activation", "softmax") is None else "Probability"


def _subtitle(rows: pa.Table, manifest: Mapping[str, Any]) -> str:
    """The explained model and the days."""
    times = pc.min_max(rows["written_at"]).as_py().values()
    days = dict.fromkeys(f"{time:%Y-%m-%d}" for time in times if time is not None)
    return ", ".join(fact for fact in (str(manifest.get("model", "")), " to ".join(days)) if fact)


def _light(rows: pa.Table, manifest: Mapping[str, Any]) -> pa.Table:
    """The table of all rows, reduced: paths of failures only, and the top label of explanations."""
    rows = judged(rows)
    sound = pc.and_(pc.equal(rows["status"], "ok"), rows["damaged"].is_null())
    for name, value in (("path", pc.if_else(sound, b"", rows["path"])), ("labels", pc.if_else(sound, rows["labels"], None))):
        rows = rows.set_column(rows.schema.get_field_index(name), name, value)
    return with_top(rows.select([*LIGHT, *TOP_OF]), manifest)


def _failures(rows: pa.Table) -> dict[str, Any]:
    """The error rows of the first page, and their number by kind."""
    failed = rows.filter(pc.equal(rows["status"], "error"))
    kinds = Counter(kind or "unknown" for kind in failed["error_type"].to_pylist())
    listed = failed.slice(0, MOST_FAILURES).select(["image_id", "path", "error_type", "error"]).to_pylist()
    for row in listed:
        row["path"] = row["path"].decode("utf-8", "backslashreplace")
    return {"count": failed.num_rows, "rows": listed, "left_out": failed.num_rows - len(listed), "kinds": kinds.most_common()}


def _index(images: pa.Table, score: str, start: int, here: int, named: Callable[[int], str], kind: str) -> dict[str, Any]:
    """Short entries of the run's inputs for the script of a page.

    ``first`` and ``start`` are the positions in the run of the first listed and the first shown image.
    """
    whole = len(images) <= (MOST_INDEXED if start else MOST_INDEXED_FIRST)
    listed = images if whole else images.slice(start, here)
    columns = (listed[name].to_pylist() for name in ("image_id", "label", "prediction", score, "right"))
    rows = list(zip(*columns, strict=True))
    metrics = [name for name in SORTED if name in listed.column_names and listed[name].null_count < len(listed)]
    values = zip(*(listed[name].to_pylist() for name in metrics), strict=True) if metrics else itertools.repeat(())
    return {
        "first": 0 if whole else start,
        "start": start,
        "page": MOST_CARDS,
        "kind": kind,
        "total": len(images),
        "whole": whole,
        "first_page_is_whole": len(images) <= MOST_INDEXED_FIRST,
        "classes": {label: visible(named(label)) for label in sorted({row[1] for row in rows})},
        "targets": any(row[4] is not None for row in rows),
        "metrics": [[SORTED[name], WORDS[name]] for name in metrics],
        "images": [
            [
                visible(name),
                label,
                round(prediction, 4),
                None if r2 is None else round(r2, 3),
                None if right is None else int(right),
                *(None if value is None else round(value, 4) for value in measured_),
            ]
            for (name, label, prediction, r2, right), measured_ in zip(rows, values, strict=False)
        ],
    }


def _remove_pages_after(run: Path, pages: int) -> None:
    """Remove pages of an earlier, longer report; a file with such a name but without a report's title is kept."""
    for path in run.glob("report-*.html"):
        match = re.fullmatch(r"report-(\d+)\.html", path.name)
        if match and int(match[1]) > pages and path.is_file() and _is_page(path, int(match[1])):
            path.unlink()


def _is_page(path: Path, number: int) -> bool:
    """Tell if a file is page ``number`` of a report; a copy under another number belongs to the user."""
    with path.open(encoding="utf-8", errors="replace") as file:
        title = re.search(r"<title>(.*?)</title>", file.read(TITLE_WITHIN), re.DOTALL)
    return title is not None and re.search(rf" · page {number} of \d+ · LIME explanations$", title[1]) is not None


def _assets() -> dict[str, Any]:
    """Style and script of each page, and the digest that allows the script in the page's policy."""
    colours = f":root {{ --for: {shades.FOR}; --against: {shades.AGAINST}; }}\n"
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        "style": Markup(colours + (HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_hash": Markup(f"sha256-{digest}"),
    }
