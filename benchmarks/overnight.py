"""``python -m benchmarks.overnight [--save]``: what can be trusted of a night's run, in numbers that keep their bounds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.overnight_run import memory_growth, own_cost, start_again
from benchmarks.overnight_store import Measured, bytes_per_image, done_set, kills
from benchmarks.rows import RESULTS, keep, results_file, where


@dataclass(frozen=True)
class Entry:
    """One number: how ``n`` of what it is about are measured in an empty folder, and the most it may be."""

    name: str
    about: str
    n: int
    measure: Callable[[Path, int], Measured]
    bound: float
    unit: str


ENTRIES = (
    Entry("done_set", "reading which of n images are done, from n rows of real size", 50_000, done_set, 0.5, "s"),
    Entry("bytes_per_image", "one of n images of 224 x 224 with 5 labels in the store", 256, bytes_per_image, 7.0, "KB"),
    Entry("own_cost", "an image of a whole run over n of 64 x 64, all but the model", 50_000, own_cost, 2.0, "ms"),
    Entry("memory_growth", "what that run's memory grows by after the first 1,000 images", 50_000, memory_growth, 50, "MB"),
    Entry("start_again", "from its start to its first forward when 100 of n images are left", 50_000, start_again, 10, "s"),
    Entry("kills", "images explained again after one of n SIGKILLs at random moments", 100, kills, 16, "images"),
)


@dataclass(frozen=True)
class Row:
    """What is kept of an entry; ``ok`` says that the bound holds and nothing else was wrong."""

    entry: str
    about: str
    n: str
    value: str
    unit: str
    bound: str
    ok: str
    detail: str
    device: str
    torch: str
    python: str
    commit: str
    date: str

    def __str__(self) -> str:
        verdict = "ok" if self.ok == "yes" else "FAILED"
        return f"{self.entry}, n = {self.n}: {self.value} {self.unit} ({self.bound}): {verdict}; {self.detail}"


def measured(entry: Entry) -> Row:
    """Measure an entry, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        found = entry.measure(Path(folder), entry.n)
    return Row(
        entry.name,
        entry.about,
        str(entry.n),
        f"{found.value:.3g}",
        entry.unit,
        f"at most {entry.bound:g}",
        "yes" if found.sound and found.value <= entry.bound else "no",
        found.detail,
        **where(),
    )


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """The exit code is 1 where a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overnight", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[entry.name for entry in entries], help="these entries")
    parser.add_argument("--n", type=int, help="in place of each entry's own number: fewer for a quick look")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/overnight/<device>.csv")
    options = parser.parse_args(argv)
    rows = []
    for entry in entries:
        if options.only is None or entry.name in options.only:
            rows.append(measured(entry if options.n is None else replace(entry, n=options.n)))
            print(rows[-1], flush=True)
    if options.save:
        (RESULTS / "overnight").mkdir(parents=True, exist_ok=True)
        keep(RESULTS / "overnight" / results_file(rows[0].device).name, rows, lambda row: (row.entry,))
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
