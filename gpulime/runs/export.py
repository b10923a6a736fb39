"""Explanations of a run as files for other programs: an overlay per label as PNG, heat maps and label map as .npz."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from gpulime import shades
from gpulime.errors import GpulimeError, about, check, nearest
from gpulime.runs import files, store

INDEX = "index.csv"
COLUMNS = ("image_id", "arrays", "label", "name", "prediction", "r2", "overlay")
SHOWN_IDS = 5


def export(run: Path, ids: Sequence[str] | None, to: Path) -> int:
    """Write the explanations of a run into a folder.

    A file is named by a running number and the start of its id's sha256, never by the id itself: an id may hold whatever the
    name of a file held. ``index.csv`` tells which id is which; it is written last, so a folder with one is complete.

    Parameters
    ----------
    run : Path
        The run directory.
    ids : sequence of str, optional
        Which images; all that are explained by default.
    to : Path
        A folder that is empty or not there yet. For each image it gets an .npz with image_id, labels (l,), predictions (l,),
        intercepts (l,), r2 (l,), coefficients (l, k) float32, segments (h, w) int32 and heatmaps (l, h, w) float32; for each
        label a PNG of its overlay: on the picture in gray where that is at hand, else by itself and transparent.

    Returns
    -------
    int
        How many images were written.

    Raises
    ------
    GpulimeError
        Where the run holds no results, an id is unknown or has no explanation, or ``to`` is not empty.
    """
    manifest = files.manifest(run)
    chosen = _choose(run, ids)
    check(not to.exists() or (to.is_dir() and not any(to.iterdir())), f"{to} is there and not an empty folder: choose another")
    names, picture = manifest.get("class_names"), files.pictures(run)
    to.mkdir(parents=True, exist_ok=True)
    rows = store.read(run)
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    places = {image_id: place for place, image_id in enumerate(rows["image_id"].to_pylist())}
    index: list[tuple[Any, ...]] = []
    for number, image_id in enumerate(chosen):
        (row,) = rows.slice(places[image_id], 1).to_pylist()
        with about(f"image {image_id!r}"):
            index += _write(row, picture(row), to, f"{number:06d}-{hashlib.sha256(image_id.encode()).hexdigest()[:12]}", names)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *index])
    (to / INDEX).write_text(text.getvalue(), encoding="utf-8", newline="")
    return len(chosen)


def _choose(run: Path, ids: Sequence[str] | None) -> list[str]:
    """The ids that are to be written, each once."""
    known = {row.pop("image_id"): row for row in store.read(run, ["image_id", "status", "error_type", "error"]).to_pylist()}
    if ids is None:
        ids = [image_id for image_id, row in known.items() if row["status"] == "ok"]
        check(bool(ids), f"{run} holds no explanation: {len(known)} rows, none of them ok")
        return list(ids)
    check(len(ids) > 0, "ids must name at least one image; got none")
    unknown = [image_id for image_id in dict.fromkeys(ids) if image_id not in known]
    if unknown:
        shown = ", ".join(f"{image_id!r}{nearest(image_id, known)}" for image_id in unknown[:SHOWN_IDS])
        more = " ..." if len(unknown) > SHOWN_IDS else ""
        raise GpulimeError(f"{len(unknown)} of {len(set(ids))} ids are not among the {len(known)} of {run}: {shown}{more}")
    for image_id in ids:
        row = known[image_id]
        check(row["status"] == "ok", f"image {image_id!r} has no explanation: {row['error_type']}: {row['error']}")
    return list(dict.fromkeys(ids))


def _write(
    row: Mapping[str, Any], picture: shades.Picture | None, to: Path, stem: str, names: Sequence[str] | None
) -> list[tuple[Any, ...]]:
    """The files of one image, and its lines of the index."""
    segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    coefficients = np.array(row["coef"], np.float32)
    heatmaps = coefficients[:, segments]
    r2 = np.array([np.nan if score is None else score for score in row["r2"]])
    with (to / f"{stem}.npz").open("xb") as file:
        np.savez_compressed(
            file,
            image_id=np.array(row["image_id"]),
            labels=np.array(row["labels"], np.int64),
            predictions=np.array(row["pred_probs"], np.float32),
            intercepts=np.array(row["intercept"]),
            r2=r2,
            coefficients=coefficients,
            segments=segments,
            heatmaps=heatmaps,
        )
    lines = []
    for j, label in enumerate(row["labels"]):
        overlay = f"{stem}-class-{label}.png"
        largest = shades.scale(list(enumerate(row["coef"][j])))
        if picture is not None and picture.shape[:2] == segments.shape:
            shown = shades.blend(picture, segments, heatmaps[j], largest)
        else:
            shown = shades.transparent(segments, heatmaps[j], largest)
        Image.fromarray(shown).save(to / overlay, optimize=True)
        name = names[label] if names is not None and label < len(names) else ""
        lines.append((row["image_id"], f"{stem}.npz", label, name, row["pred_probs"][j], row["r2"][j], overlay))
    return lines
