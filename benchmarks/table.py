"""``python -m benchmarks.table [--write]``: the README's table, from results/*.csv."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.entries import ENTRIES
from benchmarks.rows import RESULTS, Row, read

README = RESULTS.parent.parent / "README.md"
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
                f"| {about[name]} | **{ours.ratio}** {'' if ours.ok == 'yes' else '(missed) '}| {ours.bound} "
                f"| {float(ours.cpu_s):.2f} s | {float(hardest.cpu_s):.2f} s, {hardest.side} | {ours.error} | {ours.top5} |"
            )
    one = rows[0]
    dates, commits = (sorted({getattr(row, name) for row in rows}) for name in ("date", "commit"))
    head = [
        f"{one.device}; torch {one.torch}, Python {one.python}; {', '.join(dates)}, commit {', '.join(commits)}",
        "",
        "| CPU time | ratio | must be | gpulime | beside it | error | top 5 |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""])


def render() -> str:
    """The tables of all devices."""
    return "\n".join(filter(None, (table(read(path)) for path in sorted(RESULTS.glob("*.csv")))))


def main(argv: Sequence[str] | None = None, readme: Path = README) -> None:
    """Print the tables, or put them between the README's markers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into README.md, between the benchmarks markers")
    if not parser.parse_args(argv).write:
        print(render(), end="")
        return
    text, found = BLOCK.subn(lambda _: render(), readme.read_text(encoding="utf-8"))
    if not found:
        parser.error(f"{readme} has no <!-- benchmarks --> and <!-- /benchmarks -->")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
