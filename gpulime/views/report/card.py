"""One explained image of a page, for its template and its script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from gpulime.explanations import html, shades
from gpulime.explanations.explanation import Explanation
from gpulime.runs.reading.pixels import Shown
from gpulime.runs.store import explanations, store
from gpulime.runs.store.row import PARTS, few_samples, kind_of
from gpulime.views.report import overlay

STRONGEST = 5
MOST_BARS = 8  # of a label of a text or a table row


def card(row: Mapping[str, Any], picture: Shown | None, named: Callable[[int], str], right: bool | None) -> dict[str, Any]:
    """One explained image for the template: the most probable label comes first, and the overlay shows it.

    ``row`` has a whole explanation, ``picture`` is the model's input, ``named`` gives a class its name, and ``right`` tells if
    the model's class is the target, if known.
    """
    segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    exact = np.asarray(row["coef"], dtype=float)
    l = len(exact)
    decimals = [shades.decimals(largest) for largest in np.abs(exact).max(axis=1)]
    # Colours follow the printed numbers.
    coefficients = np.stack([one.round(most) for one, most in zip(exact, decimals, strict=True)])
    ids = overlay.kept(coefficients)
    top = top_label(row)
    order = [top, *(j for j in range(l) if j != top)]
    # Segments that print as 0 are left out.
    strongest = {j: [i for i, _ in shades.strongest(list(enumerate(coefficients[j])), STRONGEST)] for j in order}
    places = {i: overlay.centre(segments, i) for i in sorted(set().union(*strongest.values()))}
    largest = np.abs(coefficients[top]).max()
    errors = [dict(enumerate(of_label)) if np.isfinite(of_label).all() else {} for of_label in standard_errors(row)]
    unsure = [np.isin(ids, shades.unsure(list(enumerate(exact[j])), errors[j])) & (coefficients[j, ids] != 0) for j in range(l)]
    # Of each label's strongest segments, half of the 95 % interval.
    halves = {j: [shades.INTERVAL * errors[j][i] for i in strongest[j] if errors[j]] for j in order}
    ends = [abs(coefficients[top, i]) + half for i, half in zip(strongest[top], halves[top], strict=False)]
    reach = max([largest, *ends])
    return {
        **{name: row[name] for name in ("h", "w", "n_segments")},
        "explanation": None,  # as HTML, of another kind of inputs
        "name": row["image_id"],
        "folder": row["image_id"][: row["image_id"].rfind("/") + 1],
        "target": None if row["target"] is None else named(row["target"]),
        "right": right,
        "picture": None if picture is None else overlay.picture_uri(picture.pixels),
        "how": "" if picture is None else picture.how,  # a change of the image's values for the picture
        "overlay": overlay.overlay_uri(segments, ids, coefficients[top, ids], unsure[top]),
        # Segments to be hatched, if standard errors are known.
        "hatch": overlay.hatch_uri(segments, ids[unsure[top]]) if any(errors) else None,
        # Segments of the palette's entries, if these are not 0, 1, 2 ...
        "ids": "" if len(ids) == coefficients.shape[1] else " ".join(map(str, ids)),
        # Places of each label's strongest segments: id, across and down in thousandths of the picture.
        "spots": " ".join(f"{i} {1000 * across:.0f} {1000 * down:.0f}" for i, (across, down) in places.items()),
        "few_samples": few_samples(row["n_samples"], row["n_segments"]),
        "scale": f"{largest:.{decimals[top]}f}",
        "labels": [_label(row, j, named, coefficients[j, ids], decimals[j], unsure[j], halves[j]) for j in order],
        "strongest": [
            {
                **_segment(i, coefficients[top, i], reach, decimals[top], half, i in ids[unsure[top]]),
                "across": places[i][0],
                "down": places[i][1],
            }
            for i, half in zip_longest(strongest[top], halves[top])
        ],
    }


def plain(
    row: Mapping[str, Any], manifest: Mapping[str, Any], named: Callable[[int], str], right: bool | None
) -> dict[str, Any]:
    """One explained text or table row for the template: its explanation as HTML, as in a notebook."""
    classless = row["target"] is None or is_regression(manifest)
    return {
        "name": row["image_id"],
        "target": None if classless else named(row["target"]),
        "right": right,
        "n_segments": row["n_segments"],
        "few_samples": few_samples(row["n_samples"], row["n_segments"], PARTS[kind_of(row)]),
        "note": (row["note"] or [None])[top_label(row)],
        "explanation": fragment(row, manifest),
    }


def fragment(row: Mapping[str, Any], manifest: Mapping[str, Any], label: int | None = None) -> Markup:
    """The explanation of a text or table row as HTML: of all labels, or one alone."""
    explanation = explanations.of_row(row, None, manifest)[0]
    assert isinstance(explanation, Explanation)
    return Markup(html.one(explanation, None if label is None else [label], predict_proba=label is None, most=MOST_BARS))


def is_regression(manifest: Mapping[str, Any]) -> bool:
    """Tell if a run explains a value, which has no classes."""
    return manifest.get("mode") == "regression"


def top_label(row: Mapping[str, Any]) -> int:
    """The position of the most probable explained label."""
    return int(np.argmax(row["pred_probs"]))


def standard_errors(row: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """The standard errors of the coefficients, (l, k); NaN if not known, as in rows of earlier versions."""
    stored = row.get("coef_se")
    return np.full(np.shape(row["coef"]), np.nan) if stored is None else np.array(stored, dtype=float)


def score(value: float | None) -> float | None:
    """An R2, or None if the fit has none."""
    return value if value is not None and math.isfinite(value) else None


def said(value: float | None) -> str:
    """An R2 in words; values below -10 are "< -10"."""
    value = score(value)
    if value is None:
        return "\N{EN DASH}"
    return "< \N{MINUS SIGN}10" if value < -10 else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _label(
    row: Mapping[str, Any],
    j: int,
    named: Callable[[int], str],
    coefficients: npt.NDArray[np.floating[Any]],
    decimals: int,
    unsure: npt.NDArray[np.bool_],
    halves: Sequence[float],
) -> dict[str, Any]:
    return {
        "name": named(row["labels"][j]),
        "prediction": row["pred_probs"][j],
        "r2": said(row["r2"][j]),
        "r2_loo": said(row["r2_loo"] and row["r2_loo"][j]),
        "note": row["note"] and row["note"][j],
        "is_target": row["labels"][j] == row["target"],
        "decimals": decimals,
        # Whole numbers in units of the last decimal, one per entry of the overlay's palette.
        "coefficients": " ".join(str(round(value * 10**decimals)) for value in coefficients.tolist()),
        # Entries of the palette to be hatched; and halves of the intervals of the strongest segments, in the same units.
        "unsure": " ".join(map(str, np.flatnonzero(unsure))),
        "halves": " ".join(f"{half * 10**decimals:.1f}" for half in halves),
    }


def _segment(i: int, value: float, reach: float, decimals: int, half: float | None, unsure: bool) -> dict[str, Any]:
    """A bar of the list; lengths are shares of ``reach``, and ``half`` is half of the 95 % interval, None if not known."""
    sign = "for" if value > 0 else "against"
    found = {"id": i, "coefficient": _printed(value, decimals), "sign": sign, "share": abs(value) / reach, "unsure": unsure}
    if half is None:
        return found | {"interval": ""}
    low, high = (_printed(value + side * half, decimals) for side in (-1, 1))
    start = max(0.0, abs(value) - half) / reach  # the end below 0 is not drawn
    said = f"95 % interval {low} to {high}" + ", the sign is not certain" * unsure
    return found | {"interval": said, "start": start, "length": (abs(value) + half) / reach - start}


def _printed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
