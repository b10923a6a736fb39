"""``python -m benchmarks.table [--write]``: the tables of the README and of docs/, from results/*.csv."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from benchmarks import ablation, gpu_page, gpu_rows, growth, growth_page, markdown
from benchmarks.entries import ENTRIES
from benchmarks.peers import table as peers
from benchmarks.rows import RESULTS, Row, read

Blocks = Mapping[str, Callable[[], str]]
COLUMNS = ("CPU time", "ratio (paired)", "must be", "gpulime", "beside it", "error", "top 5")


def table(rows: Sequence[Row]) -> str:
    """Markdown of one device's results; entries without a time are left out."""
    about = {entry.name: entry.about for entry in ENTRIES}
    lines = []
    for name, sides in groupby(rows, key=lambda row: row.entry):
        ours, *theirs = sides
        if name in about and ours.cpu_s:
            hardest = next(row for row in theirs if row.ratio == ours.ratio)
            ratio = f"**{ours.ratio}** ({ours.paired}){'' if ours.ok == 'yes' else ' (missed)'}"
            times = (f"{float(ours.cpu_s):.2f} s", f"{float(hardest.cpu_s):.2f} s, {hardest.side}")
            lines.append((about[name], ratio, ours.bound, *times, ours.error, ours.top5))
    return markdown.place(rows) + markdown.lines(COLUMNS, lines) if lines else ""


def render(names: re.Pattern[str]) -> str:
    """The tables of all devices, of the entries whose names match."""
    files = (read(path) for path in sorted(RESULTS.glob("*.csv")))
    tables = (table([row for row in rows if names.match(row.entry)]) for rows in files)
    return "\n".join(filter(None, tables)) or markdown.NOTHING


ROOT = RESULTS.parent.parent
# What stands on which page between <!-- NAME --> and <!-- /NAME -->.
PAGES: Mapping[Path, Blocks] = {
    ROOT / "README.md": {
        "benchmarks": partial(render, re.compile(r"(?!drop_in_|op_compiled|efficiency_(?!efficientnet))")),
        "peers": partial(peers.render, re.compile(r"EfficientNet-Lite0|ResNet-50, bfloat16")),
    },
    ROOT / "docs" / "moving-from-lime.md": {"benchmarks": partial(render, re.compile(r"drop_in_|lime_|no_model_lime"))},
    ROOT / "docs" / "benchmarks.md": {
        "benchmarks": partial(render, re.compile("efficiency_|op_compiled")),
        "peers": partial(peers.render, re.compile("")),
        "ablation": partial(markdown.devices, "ablation", ablation.Row, ablation.table),
        "growth": partial(markdown.devices, "growth", growth.Row, growth_page.table),
        "gpu": partial(markdown.devices, "gpu", gpu_rows.Row, gpu_page.table),
    },
}


def written(text: str, blocks: Blocks) -> str:
    """A page's text with its blocks made anew.

    Raises
    ------
    ValueError
        If it lacks the markers of one.
    """
    for name, block in blocks.items():
        pattern = rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)"
        text, found = re.subn(pattern, lambda _, block=block: block(), text, flags=re.DOTALL)
        if not found:
            raise ValueError(f"has no <!-- {name} --> and <!-- /{name} -->")
    return text


def main(argv: Sequence[str] | None = None, pages: Mapping[Path, Blocks] = PAGES) -> None:
    """Print the tables, or put them between the markers of their pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them into README.md and docs/, between their markers")
    write = parser.parse_args(argv).write
    for page, blocks in pages.items():
        if not write:
            print(f"{page.name}\n", *(block() for block in blocks.values()), sep="\n")
            continue
        try:
            page.write_text(written(page.read_text(encoding="utf-8"), blocks), encoding="utf-8")
        except ValueError as error:
            parser.error(f"{page} {error}")


if __name__ == "__main__":
    main()
