"""One page that shows a run: each picture beside its explanation, and what could not be explained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gpulime.errors import about
from gpulime.report import overlay
from gpulime.runs import store

PAGE = "report.html"
MOST_CARDS = 500  # a browser still scrolls this page with ease; the results hold every row
STRONGEST = 5


@dataclass(frozen=True)
class Label:
    """One explained label; ``r2`` is None where the fit has no score."""

    name: str
    prediction: float
    r2: float | None


@dataclass(frozen=True)
class Segment:
    """One of the strongest segments of the top label: where it lies and how it compares with the strongest, in [0, 1]."""

    coefficient: str
    sign: str
    share: float
    across: float
    down: float


@dataclass(frozen=True)
class Card:
    """One explained image."""

    name: str
    h: int
    w: int
    n_segments: int
    target: str | None
    picture: str | None
    overlay: str
    labels: list[Label]
    strongest: list[Segment]


def write(
    run: Path, picture: Callable[[dict[str, Any]], npt.NDArray[np.uint8] | None], class_names: Sequence[str] | None
) -> Path:
    """Write ``report.html`` of a run: one file that needs nothing else, no network and no script.

    Parameters
    ----------
    run : Path
        The run directory.
    picture : callable
        row -> (h, w, 3) uint8 as the model saw it, or None where it cannot be had.
    class_names : sequence of str, optional
        The names of the model's classes; without them labels are shown as numbers.

    Returns
    -------
    Path
        The page.
    """
    manifest = store.read_manifest(run) or {}
    rows = store.read(run)
    explained = rows.filter(pc.equal(rows["status"], "ok"))
    failed = rows.filter(pc.equal(rows["status"], "error"))
    shown = explained.slice(0, MOST_CARDS).to_pylist()
    html = _template().render(
        title=run.resolve().name,
        summary=_summary(manifest, rows, explained.num_rows, failed.num_rows),
        cards=[_card(row, picture(row), class_names) for row in shown],
        left_out=explained.num_rows - len(shown),
        failures=failed.slice(0, MOST_CARDS).select(["image_id", "error_type", "error"]).to_pylist(),
        failures_left_out=max(0, failed.num_rows - MOST_CARDS),
        colours={"for": overlay.FOR, "against": overlay.AGAINST},
        manifest=manifest,
    )
    store.publish(run, PAGE, html.encode("utf-8", "backslashreplace"))
    return run / PAGE


def _summary(manifest: Mapping[str, Any], rows: pa.Table, explained: int, failed: int) -> list[tuple[str, str]]:
    """What the head of the page says, as (term, value)."""
    samples = sorted(set(rows["n_samples"].to_pylist()))
    segmenters = sorted({name.partition("(")[0] for name in rows["segmenter"].to_pylist() if name is not None})
    facts = {
        "Images": f"{rows.num_rows:,}",
        "Explained": f"{explained:,}",
        "Failed": f"{failed:,}",
        "Samples per image": ", ".join(f"{count:,}" for count in samples),
        "Segments by": ", ".join(segmenters),
        "Model": str(manifest.get("model", "")),
    }
    return [(term, value) for term, value in facts.items() if value]


def _card(row: dict[str, Any], picture: npt.NDArray[np.uint8] | None, class_names: Sequence[str] | None) -> Card:
    def named(label: int) -> str:
        return class_names[label] if class_names is not None and label < len(class_names) else f"class {label}"

    with about(f"image {row['image_id']!r}"):
        segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    scores = [score if score is not None and math.isfinite(score) else None for score in row["r2"]]
    labels = [Label(named(label), *facts) for label, *facts in zip(row["labels"], row["pred_probs"], scores, strict=True)]
    top = int(np.argmax(row["pred_probs"]))
    coefficients = np.asarray(row["coef"][top])
    return Card(
        name=row["image_id"],
        h=row["h"],
        w=row["w"],
        n_segments=row["n_segments"],
        target=None if row["target"] is None else named(row["target"]),
        picture=None if picture is None else overlay.picture_uri(picture),
        overlay=overlay.overlay_uri(segments, coefficients),
        labels=[labels[top], *labels[:top], *labels[top + 1 :]],
        strongest=_strongest(segments, coefficients),
    )


def _strongest(segments: npt.NDArray[np.int32], coefficients: npt.NDArray[np.floating[Any]]) -> list[Segment]:
    order = np.argsort(-np.abs(coefficients), kind="stable")[:STRONGEST]
    order = order[coefficients[order] != 0]
    largest = float(np.abs(coefficients).max(initial=0.0))
    # Three figures of the largest, and the same decimals for all, so that they can be compared at a glance.
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    return [
        Segment(
            f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}"),
            "for" if value > 0 else "against",
            abs(value) / largest,
            *overlay.centre(segments, segment),
        )
        for segment, value in ((int(segment), float(coefficients[segment])) for segment in order)
    ]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # always: by its name Jinja2 would not take .html.j2 for HTML
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _visible(value: Any) -> Any:
    """Show newlines, control characters and changes of writing direction in a name instead of obeying them."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in value)
