"""One input's evaluation on its card: the values of LIME beside random and centre, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpulime.runs.evaluation import rows, summary
from gpulime.runs.evaluation.rows import DELETION, GAP, HELD_OUT_R2, INSERTION
from gpulime.runs.evaluation.settings import FIRST, LIME
from gpulime.views.report import plot
from gpulime.views.report.card import top_label
from gpulime.views.report.measured import WORDS, Measured

SHOWN = {DELETION: "deletion", INSERTION: "insertion", GAP: "ins. \N{MINUS SIGN} del."}
MORE = (rows.MINIMAL, rows.IROF, HELD_OUT_R2, rows.INFIDELITY)


class Judged:
    """The evaluations of the inputs of a page."""

    def __init__(self, measured: Measured, ids: Sequence[str]) -> None:
        self._values, self._drawn = measured.values(ids), measured.drawn(ids)

    def of(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The evaluation of an input's most probable label, for the template; None if it has none."""
        key = row["image_id"], row["labels"][top_label(row)]
        methods = self._values.get(key)
        if not methods:
            return None
        own = methods.get(LIME, {})
        lost = next((one for one in own.values() if one["error_type"] is not None), None)
        return {
            "reason": None if lost is None else f"{lost['error_type']}: {lost['reason']}",
            "plot": plot.of_methods(self._drawn.get(key, {}), FIRST),
            "metrics": list(SHOWN.values()),
            "lines": [
                (name, [said(methods[name].get(metric)) for metric in SHOWN])
                for name in FIRST
                if any(metric in methods.get(name, {}) for metric in SHOWN)
            ],
            "more": [(WORDS[metric], said(own[metric])) for metric in MORE if metric in own],
            "why": next((one["reason"] for one in own.values() if one["reason"] and one["error_type"] is None), None),
        }


def said(row: Mapping[str, Any] | None) -> str:
    """A value in words."""
    return number(None if row is None else row["value"])


def number(value: float | None) -> str:
    """A number in words, or a dash."""
    return "\N{EN DASH}" if value is None else summary.number(value).replace("-", "\N{MINUS SIGN}")
