"""``python -m benchmarks.tutorials``: the explanations of the scripts in examples/, by gpulime and by lime in turns.

Each script is run up to its explanation, once as it is and once with lime's import. Times are CPU milliseconds of the call
that explains. The error is the largest difference of the first explanations' weights, relative to the largest weight.
"""

from __future__ import annotations

import ast
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows import HERE, columns, parser, save, where, yes
from gpulime.bench.clock import Quantiles, in_turns, timed

EXAMPLES = HERE.parent / "examples"
SCRIPTS = {path.stem: path for path in sorted(EXAMPLES.glob("*.py"))}
NOT_SLOWER, EXACT = 1, 1e-8
LIMITS = {"recurrent_series": 1e-5, "tiny_bert": 1e-4}  # networks in float32
REPEATS = 9


class Row(columns("entry side ms q20 q80 ratio bound ok error error_limit repeats")):
    """One side of a script; ``ratio`` is lime's time over ours."""

    FOLDER = "tutorials"

    def __str__(self) -> str:
        found = f", ratio {self.ratio} ({self.bound}), error {self.error}: {self.ok}" if self.ok else ""
        return f"{self.entry}, {self.side}: {self.ms} ms ({self.q20} to {self.q80}){found}"


def explaining(source: str) -> Callable[[], Any]:
    """Run a script up to its explanation, in the current folder; return the call that explains."""
    tree = ast.parse(source)
    number, call = next(
        (i, node.value)
        for i, node in enumerate(tree.body)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "explanation"
    )
    names: dict[str, Any] = {}
    exec(compile(ast.Module(tree.body[:number], []), "script", "exec"), names)
    code = compile(ast.Expression(call), "script", "eval")
    return lambda: eval(code, names)


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of weights, relative to the largest weight; infinite for other labels."""
    if list(ours.local_exp) != list(theirs.local_exp):
        return float("inf")
    most = 0.0
    for label in ours.local_exp:
        one, other = (dict(explanation.local_exp[label]) for explanation in (ours, theirs))
        largest = max(map(abs, other.values()))
        most = max(most, *(abs(one.get(part, np.inf) - weight) / largest for part, weight in other.items()))
    return most


def measured(name: str, repeats: int, place: dict[str, str]) -> list[Row]:
    """A row for each side; a wrong answer gets no time."""
    source = SCRIPTS[name].read_text(encoding="utf-8")
    calls, first = {}, {}
    for side, script in (("gpulime", source), ("lime", source.replace("from gpulime.", "from lime."))):
        calls[side] = explaining(script)
        first[side] = calls[side]()  # at once: scripts without random_state draw from NumPy's global one
    error, limit = difference(first["gpulime"], first["lime"]), LIMITS.get(name, EXACT)
    same = {"entry": name, "repeats": str(repeats), **place}
    judged = {"bound": f"at least {NOT_SLOWER:g}", "error": f"{error:.2g}", "error_limit": f"{limit:g}"}
    if error > limit:
        return [Row(side="gpulime", ok="no", **judged, **same)]
    cpu = torch.device("cpu")
    each = {side: lambda call=call: 1e3 * timed(call, cpu).cpu for side, call in calls.items()}
    found, _ = in_turns(each, each, cpu, repeats)
    times = {side: Quantiles.of(values) for side, values in found.items()}
    ratio = times["lime"].median / times["gpulime"].median
    shown = {
        side: {"ms": f"{one.median:.3g}", "q20": f"{one.low:.3g}", "q80": f"{one.high:.3g}"} for side, one in times.items()
    }
    ours = Row(side="gpulime", ratio=f"{ratio:.2f}", ok=yes(ratio >= NOT_SLOWER), **shown["gpulime"], **judged, **same)
    return [ours, Row(side="lime", **shown["lime"], **same)]


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a bound is missed or an error is too large."""
    given = parser("tutorials", __doc__, SCRIPTS).parse_args(argv)
    place, rows, before = where(), [], Path.cwd()
    warnings.filterwarnings("ignore", module="sklearn")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # scripts write files
        try:
            for name in given.only or SCRIPTS:
                try:
                    rows += measured(name, given.repeats or REPEATS, place)
                except SystemExit as missing:  # the texts of a package are not there
                    print(f"{name}: skipped, {missing}", flush=True)
                    continue
                print(*(row for row in rows if row.entry == name), sep="\n", flush=True)
        finally:
            os.chdir(before)
    if given.save and rows:
        save(rows)
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
