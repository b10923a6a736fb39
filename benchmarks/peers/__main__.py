"""``python -m benchmarks.peers``: gpulime, lime, captum and shap on the same pictures, in one run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from benchmarks.peers.compare import Row, compare
from benchmarks.peers.field import COMPARISONS, GPULIME, Comparison
from benchmarks.rows import on_device, parser, save, where


def main(argv: Sequence[str] | None = None, comparisons: Mapping[str, Sequence[Comparison]] = COMPARISONS) -> int:
    """Return 1 if coefficients are wrong, a bound is missed, or no peer was compared."""
    names = [one.name for each in comparisons.values() for one in each]
    options = on_device(parser("peers", __doc__, names), argv)
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


if __name__ == "__main__":
    sys.exit(main())
