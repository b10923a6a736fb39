"""``python -m benchmarks.overnight [--save]``: what can be trusted of a night's run, in numbers that keep their bounds."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.overnight_photographs import photographs
from benchmarks.overnight_run import memory_growth, own_cost, report, start_again
from benchmarks.overnight_store import Measured, bytes_per_image, done_set, kills
from benchmarks.rows import RESULTS, Placed, keep, results_file, where


@dataclass(frozen=True)
class Entry:
    """One number: how ``n`` of what it is about are measured in an empty folder, and the most, or the least, it may be.

    ``of_photographs``: what is measured is given a folder of photographs first, and left out where there is none.
    """

    name: str
    about: str
    n: int
    measure: Callable[..., Measured]
    bound: float
    unit: str
    at_least: bool = False
    of_photographs: bool = False


ENTRIES = (
    Entry("done_set", "reading which of n images are done, from n rows of real size", 50_000, done_set, 0.5, "s"),
    Entry("bytes_per_image", "one of n images of 224 x 224 with 5 labels in the store", 256, bytes_per_image, 7.0, "KB"),
    Entry("own_cost", "an image of a whole run over n of 64 x 64, all but the model", 50_000, own_cost, 2.0, "ms"),
    Entry("report", "an image of the report at that run's end", 50_000, report, 6.0, "ms"),
    Entry(
        "memory_growth",
        "what that run's memory grows by after the first 1,000 images",
        50_000,
        memory_growth,
        50,
        "MB",
    ),
    Entry("start_again", "from its start to its first forward when 100 of n images are left", 50_000, start_again, 10, "s"),
    Entry("kills", "images explained again after one of n SIGKILLs at random moments", 100, kills, 16, "images"),
    Entry(
        "photographs",
        "top-1 accuracy of EfficientNet-Lite0 in a run over n photographs of ImageNet, 200 samples, bfloat16",
        100,
        photographs,
        0.85,
        "of 1",
        at_least=True,
        of_photographs=True,
    ),
)


@dataclass(frozen=True)
class Row(Placed):
    """What is kept of an entry; ``ok`` says that the bound holds and nothing else was wrong."""

    entry: str
    about: str
    n: str
    value: str
    unit: str
    bound: str
    ok: str
    detail: str

    def __str__(self) -> str:
        verdict = "ok" if self.ok == "yes" else "FAILED"
        return f"{self.entry}, n = {self.n}: {self.value} {self.unit} ({self.bound}): {verdict}; {self.detail}"


def measured(entry: Entry, source: Path | None = None) -> Row:
    """Measure an entry, in a folder that is gone afterwards; ``source`` is the folder of photographs for one that takes it."""
    with tempfile.TemporaryDirectory() as folder:
        found = entry.measure(*([source] if entry.of_photographs else []), Path(folder), entry.n)
    keeps = found.value >= entry.bound if entry.at_least else found.value <= entry.bound
    return Row(
        entry.name,
        entry.about,
        str(entry.n),
        f"{found.value:.3g}",
        entry.unit,
        f"at {'least' if entry.at_least else 'most'} {entry.bound:g}",
        "yes" if found.sound and keeps else "no",
        found.detail,
        **where(),
    )


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """The exit code is 1 where a bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overnight", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[entry.name for entry in entries], help="these entries")
    parser.add_argument("--n", type=int, help="in place of each entry's own number: fewer for a quick look")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="ImageNet's: one folder a class, or files and a .csv")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/overnight/<device>.csv")
    options = parser.parse_args(argv)
    rows = []
    for entry in entries:
        if options.only is not None and entry.name not in options.only:
            continue
        if entry.of_photographs and options.photographs is None:
            print(f"{entry.name}: skipped, it needs --photographs DIR, a folder of photographs of ImageNet", flush=True)
            continue
        rows.append(measured(entry if options.n is None else replace(entry, n=options.n), options.photographs))
        print(rows[-1], flush=True)
    if options.save and rows:
        (RESULTS / "overnight").mkdir(parents=True, exist_ok=True)
        keep(RESULTS / "overnight" / results_file(rows[0].device).name, rows, lambda row: (row.entry,))
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
