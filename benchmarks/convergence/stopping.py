"""``python -m benchmarks.convergence.stopping``: adaptive stopping beside one number of samples for all, at the same error.

Each rule explains the games of a case by the presets' sampler and estimator until they are settled. ``fixed`` are the forwards
that the same pair takes for the same mean squared error of the same games if all of them get equally many, between `SIZES` on
logarithmic scales. Tolerances are multiples of the root mean square of lime's error at 1000 samples in
``results/convergence``: 1 asks of every game what lime has on average.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.convergence import measure, summary, targets
from benchmarks.convergence.games import Array, Case, Game
from benchmarks.convergence.measure import LIME, LIME_S, Memory, OneGame, Pair
from benchmarks.rows import columns, parser, read, save, where
from gpulime.engine import masks as samplers
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.engine import Engine
from gpulime.engine.model import Predictor
from gpulime.engine.quality import QUALITIES
from gpulime.engine.settings import Settings
from gpulime.engine.stopping import SMALL, TOP, Stopping

CASES = ("fashion", "photographs", "texts")
FAST = QUALITIES["fast"]
PAIR = Pair(FAST.sampler, FAST.estimator, FAST.link)
TOLERANCES = (2.0, 1.4, 1.0, 0.7, 0.5)
MOST = 2049  # samples of a game
SIZES = (128, 256, 384, 512, 1024, 2048)  # design rows of games that all get equally many


class Row(columns("case rule games repeats forwards most mse to_lime fixed top5 wrong")):
    """A rule on all games of a case: mean and most forwards, and the mean squared error.

    ``wrong`` is the share of games that ended before the most samples with other five strongest parts than the target, or
    other signs, where differences below a twentieth of the largest coefficient do not count. "top 5" promises at most 0.05;
    tolerances promise nothing about it.
    """

    FOLDER = "convergence/stopping"
    KEY = ("case", "rule")


def rules(rms: float) -> dict[str, Stopping]:
    """Rules by name; tolerances are multiples of ``rms``."""
    found = {f"tolerance {share:g}": Stopping(tolerance=share * rms, max_samples=MOST) for share in TOLERANCES}
    return found | {"top 5, confidence 0.95": Stopping(max_samples=MOST)}


def explained(game: Game, model: Memory, rule: Stopping, seed: int) -> tuple[Array, int]:
    """Coefficients (k,) of a game's label, and the forwards until the rule ended them."""
    settings = Settings(feature_selection="none", estimator=PAIR.estimator, link=PAIR.link)
    sampler, predictor = samplers.resolve(PAIR.sampler, seed, FAST.expected), Predictor(model, None, "float32", None)
    engine = Engine(predictor, BatchSize(1024), OneGame(game), sampler, FAST.expected, 1, settings, rule)
    [found] = engine.explained([game])
    return found.coefficients[0, 0].double().numpy(), int(found.samples[0])


def right(found: Array, target: Array) -> bool:
    """Tell if the five strongest parts and their signs are those of the target, up to differences that do not matter."""
    best, small = np.argsort(-abs(found))[:TOP], SMALL * abs(target).max()
    signs = (np.sign(found) == np.sign(target)) | (abs(target) <= small)
    return bool((signs & (abs(target) >= np.sort(abs(target))[-TOP:][0] - small))[best].all())


def fixed(alike: Mapping[int, Sequence[float]], mse: float) -> float:
    """Forwards with which all games have this mean squared error, from their errors with equally many design rows each."""
    return summary.enough([(s + 1, float(np.mean(errors)) / max(mse, 1e-300)) for s, errors in sorted(alike.items())])


def run(case: Case, rms: float, repeats: int, most: int, kept: Path | None = None) -> list[Row]:
    """Measure each rule on the first games of a case, and beside it one number of samples for all of them.

    ``rms`` is the unit of tolerances.
    """
    known, all_rules = targets.stored(case), rules(rms)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in all_rules}
    alike: dict[int, list[float]] = {s: [] for s in SIZES}
    of_lime: list[float] = []
    for game in islice((game for game in case.games() if game.name in known), most):
        target, error, *_ = known[game.name]
        model = Memory(game, kept and kept / case.name)
        for seed in range(repeats):

            def squared(coefficients: Array, target: Array = target, error: float = error) -> float:
                return float(((coefficients - target) ** 2).mean() - error)

            for s, errors in alike.items():
                errors.append(squared(measure.explained(PAIR, game, model, s, seed)[0]))
            of_lime.append(squared(measure.explained(LIME, game, model, LIME_S, seed)[0]))
            for name, rule in all_rules.items():
                coefficients, forwards = explained(game, model, rule, seed)
                best = np.argsort(-abs(target))[:TOP], np.argsort(-abs(coefficients))[:TOP]
                wrong = forwards < MOST and not right(coefficients, target)
                found[name].append((forwards, squared(coefficients), len(np.intersect1d(*best)) / TOP, wrong))
        model.save()
        print(f"{case.name}: {game.name}", flush=True)
    return [_row(case, name, np.array(one), repeats, float(np.mean(of_lime)), alike) for name, one in found.items()]


def _row(case: Case, rule: str, found: Array, repeats: int, lime: float, alike: Mapping[int, Sequence[float]]) -> Row:
    forwards, mse, top5, wrong = found.mean(0)
    values = f"{forwards:.0f}", f"{found[:, 0].max():.0f}", f"{mse:.3g}", f"{mse / lime:.3g}", _count(fixed(alike, mse))
    row = Row(case.name, rule, str(len(found) // repeats), str(repeats), *values, f"{top5:.3f}", f"{wrong:.3f}", **where())
    print(
        f"{case.name}, {rule}: {row.forwards} forwards, {row.most} at most; fixed {row.fixed} for the same error, "
        f"{row.to_lime} of lime's; top 5 {row.top5}, wrong {row.wrong}",
        flush=True,
    )
    return row


def _count(forwards: float) -> str:
    return f"{forwards:.0f}" if forwards < math.inf else f"more than {SIZES[-1] + 1}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the cases that have rows."""
    made = parser("convergence.stopping", __doc__, CASES)
    made.add_argument("--most", type=int, help="games of each case; by default those of its rows")
    made.add_argument("--kept", type=Path, help="folder for outputs of models, so that no forward is done twice")
    given = made.parse_args(argv)
    for name in given.only or CASES:
        rows = read(summary.path(name), summary.Row)
        if not rows:
            print(f"{name}: skipped, it has no rows: python -m benchmarks.convergence --only {name} --save", flush=True)
            continue
        try:
            case = import_module(f"benchmarks.convergence.{name}").CASE  # here, since tables of results need no torchvision
            rms = next(float(row.mse) for row in rows if row.pair == LIME and int(row.s) == LIME_S) ** 0.5
            found = run(case, rms, given.repeats or case.repeats, given.most or int(rows[0].games), given.kept)
        except (FileNotFoundError, ModuleNotFoundError) as missing:
            print(f"{name}: skipped, {missing}", flush=True)
            continue
        if given.save:
            save(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
