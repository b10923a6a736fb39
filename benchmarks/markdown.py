"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.rows import RESULTS, read

NOTHING = "Not measured yet.\n"


def lines(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    head, *body = (" | ".join(cell.replace("|", r"\|") for cell in cells) for cells in [columns, *rows])
    return "".join([f"| {head} |\n", "|---" * len(columns), "|\n", *(f"| {cells} |\n" for cells in body)])


def place(rows: Sequence[Any]) -> str:
    """Where, with what and when rows were measured."""
    one = rows[0]
    dates, commits = (sorted({getattr(row, name) for row in rows}) for name in ("date", "commit"))
    return f"{one.device}; torch {one.torch}, Python {one.python}; {', '.join(dates)}, commit {', '.join(commits)}\n\n"


def devices(folder: str, kind: type[Any], table: Callable[[list[Any]], str]) -> str:
    """The tables of all devices in a folder of results/, but for those with nothing in them."""
    files = sorted((RESULTS / folder).glob("*.csv"))
    tables = ((rows, table(rows)) for rows in (read(path, kind) for path in files) if rows)
    return "\n".join(place(rows) + text for rows, text in tables if text) or NOTHING
