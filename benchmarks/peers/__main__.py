"""``python -m benchmarks.peers``: gpulime beside lime, captum and shap on the same pictures, in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmarks.command import parsed
from benchmarks.peers.compare import Row, compare
from benchmarks.peers.field import COMPARISONS, Comparison
from benchmarks.rows import RESULTS, keep, results_file, where


def main(argv: Sequence[str] | None = None, comparisons: Mapping[str, Sequence[Comparison]] = COMPARISONS) -> int:
    """The exit code is 1 where coefficients are not what they must be, or a bound is missed."""
    names = [one.name for each in comparisons.values() for one in each]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of these: {'; '.join(names)}")
    parser.add_argument("--device", choices=comparisons, default="cpu")
    parser.add_argument("--repeats", type=int, help="in place of each comparison's own number")
    parser.add_argument("--tiny", action="store_true", help="one image, few samples: times say nothing")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/peers/<device>.csv")
    options = parsed(parser, argv)

    place, rows = where(options.device), []
    for one in comparisons[options.device]:
        if options.only and one.name not in options.only:
            continue
        comparison = one.tiny() if options.tiny else one
        print(comparison.name, flush=True)
        for row in compare(comparison, options.repeats or comparison.repeats, place):
            print(row if isinstance(row, Row) else f"    {row}", flush=True)
            rows += [row] if isinstance(row, Row) else []
        if options.save and rows:
            save(rows)
    return int(any(row.ok == "no" for row in rows))


def save(rows: Sequence[Row]) -> None:
    """Put rows in the place of earlier ones of the same comparison and side."""
    keep(RESULTS / "peers" / results_file(rows[0].device).name, rows, lambda row: (row.comparison, row.side))


if __name__ == "__main__":
    sys.exit(main())
