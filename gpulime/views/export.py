"""Explanations of a run as files for other programs: an overlay per label as PNG, heat maps and label map as .npz."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from gpulime.classes import name_of
from gpulime.errors import GpulimeError, check, nearest
from gpulime.explanations import html, shades
from gpulime.runs import from_config
from gpulime.runs.evaluation import rows as evaluation
from gpulime.runs.evaluation.settings import LIME
from gpulime.runs.store import row_index, store
from gpulime.runs.store.row import DAMAGED, IMAGE, kind_of
from gpulime.views.report.card import fragment, standard_errors

INDEX = "index.csv"
COLUMNS = ("image_id", "arrays", "label", "name", "prediction", "r2", "r2_loo", "overlay")
SHOWN_IDS = 5
NEAR = 0.75  # in [0, 1], between a mistyped name and a suggestion
NUMBER = re.compile(r"\d+")
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "'")  # the quote too: then removing the first one always gives the text back


@dataclass(frozen=True)
class Exported:
    """Number of written images, reasons for images skipped because of damaged rows, and images with transparent overlays."""

    images: int
    damaged: dict[str, str]
    without_picture: int
    kind: str = IMAGE  # of the inputs


def export(run: Path, ids: Sequence[str] | None, to: Path) -> Exported:
    """Write the explanations of a run into a folder.

    A file is named by a running number and the start of its id's sha256, never by the id, which may contain any
    character. ``index.csv`` maps ids to files. It is written last, so a folder that has it is complete. A text in it that
    begins with ``= + - @``, a tab, a carriage return or a quote has a quote before it, so that no spreadsheet
    runs it as a formula; remove one leading quote to get the text back.

    By default all explained images are written; those with a damaged row are skipped. Each gets an .npz with image_id,
    labels (l,), predictions (l,), intercepts (l,), r2 (l,), r2_loo (l,), coefficients and standard_errors (l, k) float32,
    segments (h, w) int32 and heatmaps (l, h, w) float32, and for each label a PNG of its overlay: on the gray picture if there
    is one, else transparent. A text or a table row has no segments and heatmaps, but the names of its parts (k,), and one
    HTML page in place of the overlays. Standard errors that are not known are NaN. Segments whose sign is not certain at
    95 % are hatched and faded. If the run was evaluated, ``index.csv`` has a column for each metric of LIME, unit and fill.

    Raises
    ------
    GpulimeError
        If the run holds no results, an id is unknown or has no explanation, or ``to`` is not empty.
    """
    manifest = store.manifest(run)
    rows = row_index.judged(run)
    chosen, damaged = _choose(run, rows.rows, ids)
    check(not to.exists() or (to.is_dir() and not any(to.iterdir())), f"{to} is there and not an empty folder: choose another")
    picture = from_config.pictures(run)
    to.mkdir(parents=True, exist_ok=True)
    numbers = {image_id: i for i, image_id in enumerate(rows.rows["image_id"].to_pylist())}
    index: list[tuple[Any, ...]] = []
    metrics = Metrics(run)
    without_picture = 0
    for number, image_id in enumerate(chosen):
        row = rows.row(numbers[image_id])
        stem = f"{number:06d}-{hashlib.sha256(image_id.encode()).hexdigest()[:12]}"
        found = picture(row) if kind_of(row) == IMAGE else None
        ground = None if found is None else found.pixels
        if ground is not None and ground.shape[:2] != (row["h"], row["w"]):
            ground = None
        without_picture += ground is None and kind_of(row) == IMAGE
        lines = _write(row, ground, to, stem, manifest)
        index += [(*line, *metrics.of(image_id, label)) for line, label in zip(lines, row["labels"], strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [(*COLUMNS, *metrics.names), *([_cell(value) for value in line] for line in index)]
    )
    aside = to / f"{INDEX}.part"
    aside.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))  # a name may hold half of a surrogate pair
    aside.replace(to / INDEX)
    return Exported(len(chosen), damaged, without_picture, manifest.get("kind", IMAGE))


class Metrics:
    """LIME's metrics of an evaluated run, by input and label; ``names`` are those of the columns."""

    def __init__(self, run: Path) -> None:
        table = evaluation.read(run, [*evaluation.KEY, "value"])
        table = table.filter(pc.equal(table["method"], LIME))
        self._values: dict[tuple[str, int], dict[str, float | None]] = defaultdict(dict)
        for row in table.to_pylist():
            name = f"{row['metric']} ({row['unit']}, {row['fill']})"
            self._values[row["image_id"], row["label"]][name] = row["value"]
        self.names = list(dict.fromkeys(name for values in self._values.values() for name in values))

    def of(self, image_id: str, label: int) -> list[float | None]:
        """The values of one input and label, None for those that it lacks."""
        values = self._values.get((image_id, label), {})
        return [values.get(name) for name in self.names]


def _choose(run: Path, rows: pa.Table, ids: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The ids to write, each once, and the reasons for skipped ids with damaged rows."""
    facts = rows.select(["image_id", "status", "error_type", "error"]).to_pylist()
    known = {row.pop("image_id"): row for row in facts}
    damaged = {image_id: row["error"] for image_id, row in known.items() if row["error_type"] == DAMAGED}
    if ids is None:
        ids = [image_id for image_id, row in known.items() if row["status"] == "ok" or image_id in damaged]
        check(bool(ids), f"{run} holds no explanation: {len(known)} rows, none of them ok")
    check(len(ids) > 0, "ids must name at least one image; got none")
    unknown = [image_id for image_id in dict.fromkeys(ids) if image_id not in known]
    if unknown:
        shown = ", ".join(f"{image_id!r}{_near(image_id, known)}" for image_id in unknown[:SHOWN_IDS])
        more = " ..." if len(unknown) > SHOWN_IDS else ""
        raise GpulimeError(f"{len(unknown)} of {len(set(ids))} ids are not among the {len(known)} of {run}: {shown}{more}")
    for image_id in ids:
        row = known[image_id]
        explained = row["status"] == "ok" or image_id in damaged
        check(explained, f"image {image_id!r} has no explanation: {row['error_type']}: {row['error']}")
    chosen = dict.fromkeys(ids)
    return [one for one in chosen if one not in damaged], {one: damaged[one] for one in chosen if one in damaged}


def _near(image_id: str, known: Iterable[str]) -> str:
    """Suggest an id with the same numbers and nearly the same folder and name; photo_3.png does not suggest photo_2.png."""
    (folder, name), numbers = _parts(image_id), NUMBER.findall(image_id)

    def is_near(other: str) -> bool:
        other_folder, other_name = _parts(other)
        return _alike(name, other_name) and (not folder or _alike(folder, other_folder))

    return nearest(image_id, (other for other in known if NUMBER.findall(other) == numbers and is_near(other)))


def _parts(image_id: str) -> tuple[str, str]:
    """Folder and name of an id, without its ending."""
    folder, _, name = image_id.rpartition("/")
    return folder, name.rpartition(".")[0] or name


def _alike(a: str, b: str) -> bool:
    return difflib.SequenceMatcher(None, a.casefold(), b.casefold()).ratio() >= NEAR


def _cell(value: Any) -> Any:
    """A value as a cell that no spreadsheet runs: texts that begin like a formula, or with a quote, are quoted."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def _write(
    row: Mapping[str, Any], picture: shades.Picture | None, to: Path, stem: str, manifest: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """The files of one input, and its lines of the index."""
    is_image, names = kind_of(row) == IMAGE, manifest.get("class_names")
    coefficients = np.array(row["coef"], np.float32)
    errors = standard_errors(row).astype(np.float32)
    left_out = row["r2_loo"] or [None] * len(row["labels"])
    r2, r2_loo = (np.array([np.nan if score is None else score for score in scores]) for scores in (row["r2"], left_out))
    arrays: dict[str, Any] = {
        "image_id": np.array(row["image_id"]),
        "labels": np.array(row["labels"], np.int64),
        "predictions": np.array(row["pred_probs"], np.float32),
        "intercepts": np.array(row["intercept"]),
        "r2": r2,
        "r2_loo": r2_loo,
        "coefficients": coefficients,
        "standard_errors": errors,
    }
    if is_image:
        segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
        heatmaps = coefficients[:, segments]
        arrays |= {"segments": segments, "heatmaps": heatmaps}
        pages = _overlays(row, segments, heatmaps, errors, picture, to, stem)
    else:
        arrays |= {"parts": np.array(row["parts"], str)}
        pages = [_page(row, manifest, to, stem)] * len(row["labels"])
    with (to / f"{stem}.npz").open("xb") as file:
        np.savez_compressed(file, **arrays)
    lines = []
    for j, (label, shown) in enumerate(zip(row["labels"], pages, strict=True)):
        facts = (row["pred_probs"][j], row["r2"][j], left_out[j])
        lines.append((row["image_id"], f"{stem}.npz", label, name_of(label, names) or "", *facts, shown))
    return lines


def _overlays(
    row: Mapping[str, Any],
    segments: NDArray[np.int32],
    heatmaps: NDArray[np.float32],
    errors: NDArray[np.float32],
    picture: shades.Picture | None,
    to: Path,
    stem: str,
) -> list[str]:
    """Write a PNG for each label of an image."""
    names = []
    for j, label in enumerate(row["labels"]):
        names.append(f"{stem}-class-{label}.png")
        weights = list(enumerate(row["coef"][j]))
        largest, hatched = shades.scale(weights), shades.unsure(weights, dict(enumerate(errors[j].tolist())))
        if picture is None:
            shown = shades.transparent(segments, heatmaps[j], largest, hatched)
        else:
            shown = shades.blend(picture, segments, heatmaps[j], largest, hatched)
        Image.fromarray(shown).save(to / names[-1], optimize=True)
    return names


def _page(row: Mapping[str, Any], manifest: Mapping[str, Any], to: Path, stem: str) -> str:
    """Write the page of a text or a table row."""
    name = f"{stem}.html"
    with (to / name).open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(html.page(fragment(row, manifest)))
    return name
