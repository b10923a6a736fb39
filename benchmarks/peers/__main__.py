"""``python -m benchmarks.peers``: gpulime beside lime, captum and shap on the same pictures, in one run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmarks.command import parsed
from benchmarks.peers.compare import Row, compare
from benchmarks.peers.field import COMPARISONS, GPULIME, Comparison
from benchmarks.rows import keep, results_file, where


def main(argv: Sequence[str] | None = None, comparisons: Mapping[str, Sequence[Comparison]] = COMPARISONS) -> int:
    """The exit code is 1 where coefficients are not what they must be, a bound is missed, or nobody is beside us."""
    names = [one.name for each in comparisons.values() for one in each]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of these: {'; '.join(names)}")
    parser.add_argument("--device", choices=comparisons, default="cpu")
    parser.add_argument("--repeats", type=int, help="in place of each comparison's own number")
    parser.add_argument("--tiny", action="store_true", help="one image, few samples: times say nothing, and lie apart")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/peers/<device>.csv")
    options = parsed(parser, argv)

    place, sound = where(options.device), True
    for one in comparisons[options.device]:
        if options.only and one.name not in options.only:
            continue
        comparison = one.tiny() if options.tiny else one
        print(comparison.name, flush=True)
        rows = []
        for row in compare(comparison, options.repeats or comparison.repeats, place):
            print(row if isinstance(row, Row) else f"    {row}", flush=True)
            rows += [row] if isinstance(row, Row) else []
        if not any(row.ratio for row in rows if row.side != GPULIME.side.name):
            print("    nothing was compared: FAILED", flush=True)
            sound = False
        sound &= all(row.ok == "yes" for row in rows)
        if options.save and rows:
            save(rows, options.tiny)
    return int(not sound)


def save(rows: Sequence[Row], tiny: bool = False) -> None:
    """Put rows in the place of earlier ones of the same comparison and side."""
    keep(results_file(rows[0].device, "peers", tiny), rows, lambda row: (row.comparison, row.side))


if __name__ == "__main__":
    sys.exit(main())
