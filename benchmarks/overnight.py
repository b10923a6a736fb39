"""``python -m benchmarks.overnight [--save]``: numbers of a night's run, and their bounds."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.overnight_run import memory_growth, own_cost, photographs, report, start_again
from benchmarks.overnight_store import Measured, bytes_per_image, done_set, kills
from benchmarks.rows import columns, parser, save, where, yes


@dataclass(frozen=True)
class Entry:
    """One number for ``n`` images, measured in an empty folder, with its upper or lower bound."""

    name: str
    about: str
    n: int
    measure: Callable[..., Measured]
    bound: float
    unit: str
    at_least: bool = False
    of_photographs: bool = False  # given a folder of photographs first, and left out without one


ACCURACY = "top-1 accuracy of EfficientNet-Lite0 in a run over n photographs of ImageNet, 200 samples, bfloat16"
ENTRIES = (
    Entry("done_set", "reading which of n images are done, from n rows of real size", 50_000, done_set, 0.5, "s"),
    Entry("bytes_per_image", "one of n images of 224 x 224 with 5 labels in the store", 256, bytes_per_image, 7.5, "KB"),
    Entry("own_cost", "an image of a whole run over n of 64 x 64, all but the model", 50_000, own_cost, 2.0, "ms"),
    Entry("report", "an image of the report at that run's end", 50_000, report, 6.0, "ms"),
    Entry("memory_growth", "what that run's memory grows by after the first 1,000 images", 50_000, memory_growth, 50, "MB"),
    Entry("start_again", "from its start to its first forward when 100 of n images are left", 50_000, start_again, 10, "s"),
    Entry("kills", "images explained again after one of n SIGKILLs at random moments", 100, kills, 16, "images"),
    Entry("photographs", ACCURACY, 100, photographs, 0.85, "of 1", at_least=True, of_photographs=True),
)


class Row(columns("entry about n value unit bound ok detail")):
    """One entry; ``ok``: the bound holds and nothing else was wrong."""

    FOLDER, KEY = "overnight", ("entry",)

    def __str__(self) -> str:
        verdict = "ok" if self.ok == "yes" else "FAILED"
        return f"{self.entry}, n = {self.n}: {self.value} {self.unit} ({self.bound}): {verdict}; {self.detail}"


def measured(entry: Entry, source: Path | None = None) -> Row:
    """Measure an entry in a temporary folder; ``source`` is the folder of photographs."""
    with tempfile.TemporaryDirectory() as folder:
        found = entry.measure(*([source] if entry.of_photographs else []), Path(folder), entry.n)
    keeps = found.value >= entry.bound if entry.at_least else found.value <= entry.bound
    bound = f"at {'least' if entry.at_least else 'most'} {entry.bound:g}"
    ok = yes(found.sound and keeps)
    return Row(entry.name, entry.about, str(entry.n), f"{found.value:.3g}", entry.unit, bound, ok, found.detail, **where())


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES) -> int:
    """Return 1 if a bound is missed."""
    made = parser("overnight", __doc__, (entry.name for entry in entries))
    made.add_argument("--n", type=int, help="instead of each entry's own number: fewer for a quick look")
    made.add_argument("--photographs", type=Path, metavar="DIR", help="ImageNet's: one folder a class, or files and a .csv")
    options = made.parse_args(argv)
    rows = []
    for entry in entries:
        if options.only and entry.name not in options.only:
            continue
        if entry.of_photographs and options.photographs is None:
            print(f"{entry.name}: skipped, it needs --photographs DIR, a folder of photographs of ImageNet", flush=True)
            continue
        rows.append(measured(entry if options.n is None else replace(entry, n=options.n), options.photographs))
        print(rows[-1], flush=True)
    if options.save and rows:
        save(rows)
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
