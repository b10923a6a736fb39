"""``python -m benchmarks.picks``: SP-LIME against lime's own, on the same explanations; fail if a bound is missed.

Both sides get explanations that exist already, so that only the pick is timed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.rows import columns, parser, save, where, yes
from gpulime.bench.clock import Quantiles, in_turns
from gpulime.explanations.explanation import Explanation
from gpulime.explanations.table import TableDomainMapper
from gpulime.submodular_pick import SubmodularPick

N, PICKS, PARTS = 1000, 50, 10  # explanations, of which so many are picked, with so many parts each
LEAST = 80.0
REPEATS = 3
NAMES = {"rows": 120, "words": 500}  # entry -> names that parts have: 30 columns with 4 bins, a vocabulary


class Row(columns("entry side n picks cpu_s q20 q80 ratio bound ok error error_limit error_what coverage repeats")):
    """One side; ``ratio`` is that of the medians, of this side and ours.

    ``error`` is the share of picks that differ from lime's, in their order, up to the pick that shows the last feature; from
    there on lime takes the last rows. ``coverage`` is the share of the importance that all picks have.
    """

    FOLDER = "picks"

    def __str__(self) -> str:
        verdict = f", error {self.error} (at most {self.error_limit}): {'ok' if self.ok == 'yes' else 'FAILED'}" * bool(self.ok)
        return f"{self.entry}, {self.side}: {self.cpu_s} s CPU ({self.q20} to {self.q80}), ratio {self.ratio}{verdict}"


class Existing:
    """An explainer of explanations that exist."""

    def __init__(self, found: Sequence[Explanation]) -> None:
        self.found = found

    def explain_instance(self, row: int, predict_fn: Any, **kwargs: Any) -> Explanation:
        """The explanation with that number."""
        return self.found[row]


def explanations(names: int, n: int = N) -> list[Explanation]:
    """Explanations of `PARTS` names each, of which some are frequent; the same ones in every run."""
    drawn = np.random.default_rng(0)
    frequency = 1 / (1 + np.arange(names))
    mapper = TableDomainMapper([f"name {j}" for j in range(names)], [""] * names)
    found = []
    for _ in range(n):
        one = Explanation(mapper, class_names=["no", "yes"])
        parts = drawn.choice(names, PARTS, replace=False, p=frequency / frequency.sum())
        weights = drawn.normal(size=PARTS)
        one.local_exp = {1: [(int(parts[i]), float(weights[i])) for i in np.argsort(-np.abs(weights))]}
        found.append(one)
    return found


def measure(entry: str, repeats: int, n: int = N, picks: int = PICKS) -> list[Row]:
    """Return a row for each side, ours first; a wrong answer gets no time."""
    from lime.submodular_pick import SubmodularPick as Lime

    explainer, data = Existing(explanations(NAMES[entry], n)), list(range(n))

    def side(kind: Callable[..., Any]) -> Callable[[], tuple[Any, float]]:
        def call() -> tuple[Any, float]:
            start = time.process_time()
            found = kind(explainer, data, None, method="full", num_exps_desired=picks)
            return found, time.process_time() - start

        return call

    sides = {"gpulime": side(SubmodularPick), "lime": side(Lime)}
    sides["gpulime"]()
    results, _ = in_turns(sides, sides, torch.device("cpu"), repeats)
    ours, theirs = (results[name][0][0] for name in sides)
    full = next((i + 1 for i, share in enumerate(ours.coverage) if share > 1 - 1e-12), picks)
    error = float(np.mean(np.array(ours.V[:full]) != np.array(theirs.V[:full])))
    common = {"n": str(n), "picks": str(picks), "repeats": str(repeats), "coverage": f"{ours.coverage[-1]:.3f}", **where()}
    first = Row(entry, "gpulime", bound=f"at least {LEAST:g}", error=f"{error:.2g}", error_limit="0", **common)
    first = replace(first, error_what=f"lime's first {full} picks", ok=yes(error == 0))
    if error:
        return [first]
    times = {name: Quantiles.of([seconds for _, seconds in results[name]]) for name in sides}
    ratio = times["lime"].median / times["gpulime"].median
    rows = [replace(first, ok=yes(ratio >= LEAST)), Row(entry, "lime", **common)]
    columns = [{"cpu_s": t.median, "q20": t.low, "q80": t.high} for t in times.values()]
    return [
        replace(row, ratio=f"{ratio:.1f}", **{name: f"{value:.4f}" for name, value in column.items()})
        for row, column in zip(rows, columns, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a bound is missed or picks differ."""
    given = parser("picks", __doc__, NAMES, REPEATS).parse_args(argv)
    rows: list[Row] = []
    for entry in given.only or NAMES:
        measured = measure(entry, given.repeats)
        print(*measured, sep="\n", flush=True)
        rows += measured
    if given.save:
        save(rows)
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
