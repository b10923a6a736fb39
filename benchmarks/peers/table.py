"""The comparison with peers as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks import markdown
from benchmarks.peers.compare import Row
from benchmarks.peers.field import COMPARISONS

ORDER = [comparison.name for each in COMPARISONS.values() for comparison in each]
COLUMNS = ("", "seconds (20 to 80 %)", "images/s", "times ours", "error", "rank correlation", "top 5")


def table(rows: Sequence[Row]) -> str:
    """One device's comparisons, the fastest first in each; below them what is not the same."""
    known = sorted((row for row in rows if row.comparison in ORDER), key=_order)
    if not known:
        return ""
    shown = [
        (
            f"{row.comparison}: {row.side}",
            f"{row.s} ({row.q20} to {row.q80})" if row.s else f"none: {row.reason or 'its coefficients are wrong'}",
            row.images_s,
            f"**{row.ratio}**" if row.ratio else "",
            row.error or "other masks" * bool(row.unlike),
            row.spearman,
            row.top5,
        )
        for row in known
    ]
    unlike = {f"{row.side} {row.version}": row.unlike for row in known if row.unlike}
    notes = "".join(f"- {side}: {what}.\n" for side, what in unlike.items())
    return f"{markdown.lines(COLUMNS, shown)}\n{notes}"


def render(names: re.Pattern[str]) -> str:
    """The tables of all devices, of the comparisons whose names match."""
    return markdown.devices("peers", Row, lambda rows: table([row for row in rows if names.match(row.comparison)]))


def _order(row: Row) -> tuple[int, float]:
    return ORDER.index(row.comparison), float(row.s or "inf")
