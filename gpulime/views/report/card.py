"""One explained image of a page, for its template and its script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpulime.explanations import shades
from gpulime.runs.reading.shown import Shown
from gpulime.runs.store import notes, store
from gpulime.views.report import overlay

STRONGEST = 5


@dataclass(frozen=True)
class Segment:
    """One of the strongest segments of a label: its id in the results, and its size relative to the strongest, in [0, 1]."""

    id: int
    coefficient: str
    sign: str
    share: float
    across: float
    down: float


@dataclass(frozen=True)
class Label:
    """One explained label; a missing score is a dash.

    ``coefficients`` are whole numbers in units of the last decimal, one per entry of the overlay's palette.
    """

    name: str
    prediction: float
    r2: str
    r2_loo: str
    note: str | None
    is_target: bool
    decimals: int
    coefficients: str


@dataclass(frozen=True)
class Card:
    """One explained image: the most probable explained label comes first, and the overlay shows it.

    ``how`` describes a change of the image's values for the picture, if there is one. ``ids`` are the segments of the palette's
    entries if these are not 0, 1, 2 ..., and ``spots`` the places of each label's strongest segments: id, across and down in
    thousandths of the picture.
    """

    name: str
    h: int
    w: int
    n_segments: int
    target: str | None
    right: bool | None
    picture: str | None
    how: str
    overlay: str
    ids: str
    spots: str
    scale: str
    few_samples: str | None
    labels: list[Label]
    strongest: list[Segment]

    @property
    def folder(self) -> str:
        """The part of the name up to its last slash."""
        return self.name[: self.name.rfind("/") + 1]


def card(row: Mapping[str, Any], picture: Shown | None, named: Callable[[int], str], right: bool | None) -> Card:
    """Make the card of a row of the store.

    Parameters
    ----------
    row : mapping
        A row of the store with a whole explanation.
    picture : Shown, optional
        The model's input.
    named : callable
        The name of a class.
    right : bool, optional
        True if the model's class is the target, if known.
    """
    segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    exact = np.asarray(row["coef"], dtype=float)
    decimals = [shades.decimals(largest) for largest in np.abs(exact).max(axis=1)]
    coefficients = np.stack(
        [one.round(most) for one, most in zip(exact, decimals, strict=True)]
    )  # colours follow the printed numbers
    ids = overlay.kept(coefficients)
    top = top_label(row)
    order = [top, *(j for j in range(len(row["labels"])) if j != top)]
    strongest = {j: _strongest(coefficients[j]) for j in order}
    places = {i: overlay.centre(segments, i) for i in sorted(set().union(*strongest.values()))}
    largest = np.abs(coefficients[top]).max()
    return Card(
        name=row["image_id"],
        h=row["h"],
        w=row["w"],
        n_segments=row["n_segments"],
        target=None if row["target"] is None else named(row["target"]),
        right=right,
        picture=None if picture is None else overlay.picture_uri(picture.pixels),
        how="" if picture is None else picture.how,
        overlay=overlay.overlay_uri(segments, ids, coefficients[top, ids]),
        ids="" if len(ids) == coefficients.shape[1] else " ".join(map(str, ids)),
        spots=" ".join(f"{i} {1000 * across:.0f} {1000 * down:.0f}" for i, (across, down) in places.items()),
        few_samples=notes.few_samples(row["n_samples"], row["n_segments"]),
        scale=f"{largest:.{decimals[top]}f}",
        labels=[_label(row, j, named, coefficients[j, ids], decimals[j]) for j in order],
        strongest=[_segment(i, coefficients[top, i], largest, decimals[top], *places[i]) for i in strongest[top]],
    )


def top_label(row: Mapping[str, Any]) -> int:
    """The position of the most probable explained label."""
    return int(np.argmax(row["pred_probs"]))


def score(value: float | None) -> float | None:
    """An R2, or None if the fit has none."""
    return value if value is not None and math.isfinite(value) else None


def said(value: float | None) -> str:
    """An R2 in words; values below -10 are "< -10"."""
    value = score(value)
    return (
        "\N{EN DASH}"
        if value is None
        else "< \N{MINUS SIGN}10"
        if value < -10
        else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    )


def _label(
    row: Mapping[str, Any], j: int, named: Callable[[int], str], coefficients: npt.NDArray[np.floating[Any]], decimals: int
) -> Label:
    return Label(
        name=named(row["labels"][j]),
        prediction=row["pred_probs"][j],
        r2=said(row["r2"][j]),
        r2_loo=said(row["r2_loo"] and row["r2_loo"][j]),
        note=row["note"] and row["note"][j],
        is_target=row["labels"][j] == row["target"],
        decimals=decimals,
        coefficients=" ".join(str(round(value * 10**decimals)) for value in coefficients.tolist()),
    )


def _strongest(coefficients: npt.NDArray[np.floating[Any]]) -> list[int]:
    """Ids of the segments with the largest magnitudes, from the strongest, without ids that print as 0."""
    order = np.argsort(-np.abs(coefficients), kind="stable")[:STRONGEST]
    return [int(i) for i in order if coefficients[i]]


def _segment(i: int, value: float, largest: float, decimals: int, across: float, down: float) -> Segment:
    printed = f"{value:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    return Segment(i, printed, "for" if value > 0 else "against", abs(value) / largest, across, down)
