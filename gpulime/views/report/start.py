"""The few texts or rows of a run to look at first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpulime.picks import pick
from gpulime.runs.store import explanations
from gpulime.runs.store.row import IMAGE, kind_of

PICKED = 5
MOST_READ = 2_000  # the first explanations of a run are picked from: each takes a millisecond


def start_here(
    rows: Sequence[int], read: Callable[[int], Mapping[str, Any]], manifest: Mapping[str, Any], address: Callable[[int], str]
) -> dict[str, Any] | None:
    """Pick explanations that together show most of the model; None for images, and if there are few anyway.

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
    if len(rows) <= PICKED or manifest.get("kind", IMAGE) == IMAGE:
        return None
    whole = [read(i) for i in rows[:MOST_READ]]
    if any(kind_of(row) == IMAGE for row in whole):
        return None
    picked = pick([explanations.of_row(row, None, manifest)[0] for row in whole], PICKED)  # type: ignore[arg-type]
    return {
        "inputs": [{"name": whole[i]["image_id"], "address": address(i)} for i in picked.indices],
        "share": f"{100 * picked.coverage[-1]:.0f}",
        "read": len(whole),
    }
