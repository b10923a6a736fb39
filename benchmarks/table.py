"""``python -m benchmarks.table [--write]``: the tables of the README and of docs/, from results/*.csv."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.entries import ENTRIES
from benchmarks.rows import RESULTS, Row, read

ROOT = RESULTS.parent.parent
# Which entries stand on which page.
PAGES = {
    ROOT / "README.md": re.compile(r"(?!drop_in_)"),
    ROOT / "docs" / "moving-from-lime.md": re.compile(r"drop_in_|lime_|no_model_lime"),
}
BLOCK = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)


def table(rows: Sequence[Row]) -> str:
    """Markdown of one device's results; entries without a time are left out."""
    if not any(row.cpu_s for row in rows):
        return ""
    about = {entry.name: entry.about for entry in ENTRIES}
    lines = []
    for name, sides in groupby(rows, key=lambda row: row.entry):
        ours, *theirs = sides
        if name in about and ours.cpu_s:
            hardest = next(row for row in theirs if row.ratio == ours.ratio)
            lines.append(
                f"| {about[name]} | **{ours.ratio}** ({ours.paired}) {'' if ours.ok == 'yes' else '(missed) '}| {ours.bound} "
                f"| {float(ours.cpu_s):.2f} s | {float(hardest.cpu_s):.2f} s, {hardest.side} | {ours.error} | {ours.top5} |"
            )
    one = rows[0]
    dates, commits = (sorted({getattr(row, name) for row in rows}) for name in ("date", "commit"))
    head = [
        f"{one.device}; torch {one.torch}, Python {one.python}; {', '.join(dates)}, commit {', '.join(commits)}",
        "",
        "| CPU time | ratio (paired) | must be | gpulime | beside it | error | top 5 |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])


def render(names: re.Pattern[str]) -> str:
    """The tables of all devices, of the entries whose names match."""
    files = (read(path) for path in sorted(RESULTS.glob("*.csv")))
    return "\n".join(filter(None, (table([row for row in rows if names.match(row.entry)]) for rows in files)))


def main(argv: Sequence[str] | None = None, pages: Mapping[Path, re.Pattern[str]] = PAGES) -> None:
    """Print the tables, or put them between the markers of their pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="put them into README.md and docs/, between the benchmarks markers"
    )
    write = parser.parse_args(argv).write
    for page, names in pages.items():
        tables = render(names)
        if not write:
            print(f"{page.name}\n\n{tables}")
            continue
        text, found = BLOCK.subn(lambda _, tables=tables: tables, page.read_text(encoding="utf-8"))
        if not found:
            parser.error(f"{page} has no <!-- benchmarks --> and <!-- /benchmarks -->")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
