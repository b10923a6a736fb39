"""``python -m benchmarks.convergence``: the error of explanations by forwards, for every sampler and estimator.

``python -m benchmarks.convergence targets`` computes the targets that are missing; it goes on where it was interrupted.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from benchmarks.convergence import fashion, photographs, summary, synthetic, targets, texts
from benchmarks.convergence.games import Case
from benchmarks.convergence.measure import Memory, of_game
from benchmarks.rows import parser, read, write

CASES = {case.name: case for case in (fashion.CASE, photographs.CASE, synthetic.CASE, texts.CASE)}
QUICK = 8  # games


def run(case: Case, repeats: int, most: int | None = None, kept: Path | None = None) -> list[summary.Row]:
    """Measure the first games of a case, of those that have a target."""
    known, games = targets.stored(case), {}
    for game in islice(case.games(), most):
        target, error, *of = (game.truth, 0.0) if game.truth is not None else known.get(game.name, (None, 0.0))
        if target is None or (of and of[:2] != [game.label, game.parts]):
            print(f"{case.name}: {game.name} has no target; python -m benchmarks.convergence targets --only {case.name}")
            continue
        model = Memory(game, kept and kept / case.name)
        sizes = case.sizes if game.truth is None or 4 * game.k <= case.sizes[-1] else (*case.sizes, 4 * game.k)
        games[game.name] = error, of_game(game, model, sizes, repeats, target, error)
        model.save()
        print(f"{case.name}: {game.name}, k = {game.k}", flush=True)
    if case.n_masks or not games:
        return list(summary.rows(case.name, games, repeats))
    return [row for name, one in games.items() for row in summary.rows(case.name, {name: one}, repeats, name)]


def report(rows: Sequence[summary.Row]) -> None:
    """Print a line for each pair: forwards that reach lime's error, and ratios at each size."""
    for (games, pair), found in groupby(rows, key=lambda row: (row.games, row.pair)):
        of_pair = list(found)
        needed = summary.enough(summary.curves(of_pair).get(pair, []))
        cells = [f"{row.s}: {row.ratio or '-'} {row.to_lime or '-'} {row.top5} {row.covered or '-'}" for row in of_pair]
        print(f"{games}, {pair}: {needed:.0f} forwards | ratio, to lime, top 5, covered at {' | '.join(cells)}")
    for row, bound in summary.worst(rows):
        print(f"{row.pair}: at most {row.ratio}, at s = {row.s} on {row.games}; must be {bound} or less with 4 k rows or more")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or compute targets."""
    made = parser("convergence", __doc__, CASES)
    made.add_argument("what", nargs="?", choices=["run", "targets", "plot"], default="run")
    made.add_argument("--quick", action="store_true", help=f"{QUICK} games of each case, two repeats at most")
    made.add_argument("--most", type=int, help="games of each case")
    made.add_argument("--kept", type=Path, help="folder for outputs of models, so that no forward is done twice")
    made.add_argument("--masks", type=int, default=0, help="of each target, instead of the case's own number")
    given = made.parse_args(argv)
    if given.what == "plot":
        given.only = []
    for case in CASES.values() if given.only is None else (CASES[name] for name in given.only):
        try:
            if given.what == "targets":
                if case.n_masks:
                    targets.compute(case, kept=given.kept and given.kept / case.name, n_masks=given.masks)
                continue
            repeats = given.repeats or min(2 if given.quick else case.repeats, case.repeats)
            rows = run(case, repeats, QUICK if given.quick else given.most, given.kept)
        except (FileNotFoundError, ModuleNotFoundError) as missing:
            print(f"{case.name}: skipped, {missing}", flush=True)
            continue
        report(rows)
        if given.save and rows:
            write(summary.path(case.name), rows, summary.Row)
    if given.save or given.what == "plot":
        from benchmarks.convergence.plot import plot

        plot({name: read(summary.path(name), summary.Row) for name in CASES}, summary.path("convergence").with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*not above k")  # k > s is one of the games
    with np.errstate(invalid="ignore"):
        sys.exit(main())
