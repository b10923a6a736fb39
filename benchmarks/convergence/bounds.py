"""Bounds of fewer forwards, the numbers that the kept rows reach, and the reasons of those that are missed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks import rows as store
from benchmarks.convergence import shapley, stopping, summary
from benchmarks.convergence.measure import LIME, LIME_S, Pair
from gpulime.engine.quality import QUALITIES

FAST = Pair(*(getattr(QUALITIES["fast"], name) for name in ("sampler", "estimator", "link")))
PRESETS = (FAST, Pair("bernoulli", "ridge"))
CASES = ("fashion", "photographs")
SIDE = "gpulime gp"

TOP = "the smaller error is that of weak parts; the strongest have about lime's, and so are not ordered better"
ONE_BLOCK = (
    "64 independent pairs hardly tell 50 to 60 parts apart, which the process does not see in full; HC3 is a little wide"
)
WIDE = "the logit link adds the variances of its model and of the process of the rest, which is a little more than their error"
SETTLED = "a game ends after whole blocks, later a quarter of its samples, and so takes a little more than it needs"
SURE = "it asks for the right order of close parts at 0.95, which is more than the same mean error"
PAIRED = "half of the masks for sums of odd products, and lime's penalty for any number of masks (below)"
PLAIN = "products of many parts make most of the noise of these games, and the process cannot tell them from noise"


@dataclass(frozen=True)
class Bound:
    """A number that was wanted; ``why`` is shown if it is missed."""

    about: str
    wanted: str
    reached: str
    ok: bool
    why: str = ""


def bounds() -> Iterator[Bound]:
    """All bounds whose rows are kept."""
    of_case = {case: of(case) for case in (*CASES, "synthetic")}
    if not all(of_case.values()):
        return
    for case, most, ratio in (("fashion", 129, 0.05), ("photographs", 385, 0.3)):
        yield from _of_case(case, of_case[case], most, ratio)
    both = [row for case in CASES for row in of_case[case] if row.covered]
    for pair in PRESETS:
        late = [float(row.covered) for row in both if row.pair == pair and int(row.s) >= 256]
        why = WIDE if pair == FAST else ""
        yield _within(f"both, 95 % intervals of {pair}, from 256 masks on, mean", [fmean(late)], (0.93, 0.97), why)
    rest = [float(row.covered) for row in both if row.pair not in PRESETS or row.s == "128"]
    yield _within("both, all others and with 128 masks, least and most", [min(rest), max(rest)], (0.9, 0.99), ONE_BLOCK)
    worst = summary.worst(of_case["synthetic"])
    for most in sorted({bound for _, bound in worst}):
        each = [float(row.ratio) for row, bound in worst if bound == most]
        text = f"{max(each):.2f}; {sum(one > most for one in each)} of {len(each)} pairs above"
        pairs = "the presets" if most == min(bound for _, bound in worst) else "other pairs"
        yield Bound(f"synthetic, {pairs}, largest error ratio", f"at most {most}", text, max(each) <= most, PAIRED)
    yield from _of_stopping(read_all(stopping.Row))
    ours = [row for row in read_all(shapley.Row) if (row.side, row.forwards) == (SIDE, "1024")]
    for row in (row for row in ours if row.game == "all"):
        each = [float(one.ratio) for one in ours if one.game != "all"]
        text = f"{row.ratio}, a geometric mean"
        yield Bound("Shapley values at 1024, error of shap's", "at most 0.333", text, float(row.ratio) <= 1 / 3)
        text = f"{sum(one <= 1 / 3 for one in each)} of {len(each)} games, at most {max(each)}"
        yield Bound("the same in each game", "at most 0.333", text, max(each) <= 1 / 3, PLAIN)


def of(case: str) -> list[summary.Row]:
    """The rows of a case."""
    return store.read(store.RESULTS / summary.Row.FOLDER / summary.path(case).name, summary.Row)


def read_all(kind: type[Any]) -> list[Any]:
    """The rows of all devices."""
    return [row for path in sorted((store.RESULTS / kind.FOLDER).glob("*.csv")) for row in store.read(path, kind)]


def _of_case(case: str, rows: Sequence[summary.Row], most: int, ratio: float) -> Iterator[Bound]:
    curves = summary.curves(rows)
    needed = summary.enough(curves[FAST])
    yield Bound(f"{case}, forwards to lime's error at {LIME_S}", f"at most {most}", f"{needed:.0f}", needed <= most)
    lime = next(row for row in rows if row.pair == LIME and row.s == str(LIME_S))
    fast = sorted((row for row in rows if row.pair == FAST), key=lambda row: int(row.s))
    here = next(row for row in fast if int(row.forwards) >= needed)
    enough = next((row.forwards for row in fast if float(row.top5) >= float(lime.top5)), "more")
    text = f"{here.top5} with {here.forwards}; it takes {enough}"
    held = float(here.top5) >= float(lime.top5)
    yield Bound(f"{case}, top 5 with as many", f"at least {lime.top5}, lime's", text, held, TOP)
    at = next(row for row in fast if row.s == "256")
    yield Bound(f"{case}, error ratio at 256", f"at most {ratio}", at.ratio, float(at.ratio) <= ratio)


def _of_stopping(rows: Sequence[stopping.Row]) -> Iterator[Bound]:
    for case in dict.fromkeys(row.case for row in rows):
        for of_top, why in ((False, SETTLED), (True, SURE)):
            some = [row for row in rows if row.case == case and row.rule.startswith("top") == of_top and row.fixed.isdigit()]
            if some:
                each = [float(row.forwards) / float(row.fixed) for row in some]
                text = f"{min(each):.2f} to {max(each):.2f}" if len(each) > 1 else f"{each[0]:.2f}"
                rule = "the five strongest parts" if of_top else "a tolerance"
                yield Bound(f"{case}, forwards until {rule}, of one number for all", "at most 1", text, max(each) <= 1, why)


def _within(about: str, values: Sequence[float], limits: tuple[float, float], why: str = "") -> Bound:
    low, high = limits
    text = " to ".join(f"{value:.3f}" for value in values)
    return Bound(about, f"{low:g} to {high:g}", text, low <= min(values) and max(values) <= high, why)
