"""`benchmarks.gpu` for a page."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.gpu_rows import Row

COLUMNS = ("", "ms (20 to 80 %)", "rate", "ratio", "which must be", "error", "")
VERDICTS = {"yes": "ok", "no": "**FAILED**", "": ""}


def table(rows: Sequence[Row]) -> str:
    """One device's rows: what has a time or a bound, and what has no time for a reason."""
    shown = [
        (
            f"{row.entry}: {row.side}",
            f"{row.ms} ({row.q20} to {row.q80})" if row.ms else f"none: {row.reason}" if row.reason else "",
            f"{row.rate} {row.unit}/s" if row.rate else "",
            row.ratio,
            row.bound,
            row.error,
            VERDICTS[row.ok],
        )
        for row in rows
        if row.ms or row.bound or row.reason
    ]
    return markdown.lines(COLUMNS, shown) if shown else ""
