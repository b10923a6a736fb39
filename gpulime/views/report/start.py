"""The few inputs of a run to look at first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from gpulime.explanations.cover import Picked, cover
from gpulime.picks import pick
from gpulime.runs.store import explanations
from gpulime.runs.store.row import IMAGE

PICKED = 5
GRID = "torch grid("  # how the description of such segments begins
MOST_READ = 2_000  # the first explanations of a run are picked from: each takes a millisecond


def start_here(
    rows: Sequence[int], read: Callable[[int], Mapping[str, Any]], manifest: Mapping[str, Any], address: Callable[[int], str]
) -> dict[str, Any] | None:
    """Pick explanations that together show most of the model; None if there are few anyway.

    Texts and rows are compared by the names of their parts, images by the places of a grid that all share. Other segments
    cannot be compared across images: None.

    Parameters
    ----------
    rows : sequence of int
        Numbers of the explained inputs, in the order of the report.
    read : callable
        Number -> the whole row.
    manifest : mapping, run.json
    address : callable
        Position in the report -> the address of the input's card.
    """
    if len(rows) <= PICKED:
        return None
    of_images, first = manifest.get("kind", IMAGE) == IMAGE, read(rows[0])
    if of_images and not (first["segmenter"] or "").startswith(GRID):
        return None
    whole = [first, *map(read, rows[1:MOST_READ])]
    if of_images:
        if any(row["seg"] != first["seg"] for row in whole):
            return None
        picked = _by_place(whole)
    else:
        picked = pick([explanations.of_row(row, None, manifest)[0] for row in whole], PICKED)  # type: ignore[arg-type]
    return {
        "places": picked.indices,
        "inputs": [{"name": whole[i]["image_id"], "address": address(i)} for i in picked.indices],
        "share": f"{100 * picked.coverage[-1]:.0f}",
        "read": len(whole),
    }


def _by_place(rows: Sequence[Mapping[str, Any]]) -> Picked:
    """Pick images by the places that speak for a label; the weights of an image sum to 1, as in `gpulime.pick`."""
    weights = np.stack([np.clip(np.array(row["coef"], dtype=float), 0, None).sum(0) for row in rows])
    sums = weights.sum(1, keepdims=True)
    return cover(sparse.csr_matrix(weights / np.where(sums > 0, sums, 1)), PICKED)
