"""``python -m benchmarks.convergence.shapley``: errors of Shapley values, and of shap's KernelExplainer, at equal forwards.

The games have known values: products of +-1 and of shown parts, a maximum, and games of groups of equal parts, whose values are
sums over the numbers of shown parts of each group.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.convergence.games import Array, Game
from benchmarks.convergence.measure import Memory, OneGame
from benchmarks.convergence.synthetic import SHARES, Term, products
from benchmarks.rows import columns, parser, save, where
from gpulime.engine import masks as samplers
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.engine import Engine
from gpulime.engine.model import Predictor
from gpulime.engine.settings import Settings

K, FORWARDS = 50, (512, 1024)
Values = tuple[Array, Array | None]  # values (k,) and their standard errors


class Row(columns("game side forwards repeats mse ratio covered")):
    """Mean squared error of one side; ``ratio`` is that to shap's, and its geometric mean in the rows of the game "all"."""

    FOLDER = "shapley"
    KEY = ("game", "side", "forwards")


def of_signs(masks: Array, terms: Sequence[Term]) -> Array:
    """Sum of products of +-1."""
    signs = np.where(masks, 1.0, -1.0).T
    return sum(factor * signs[parts].prod(0) for factor, parts in terms)


def of_shown(masks: Array, terms: Sequence[Term]) -> Array:
    """Sum of products of 0 and 1."""
    return sum(factor * masks[:, parts].all(1) for factor, parts in terms)


def grouped(masks: Array, sizes: Sequence[int], function: Callable[[Array], Array]) -> Array:
    """Function of the numbers (s, groups) of shown parts in groups of these sizes."""
    return function(np.add.reduceat(masks.astype(float), np.cumsum([0, *sizes[:-1]]), axis=1))


def of_groups(sizes: Sequence[int], function: Callable[[Array], Array]) -> Array:
    """Shapley values (k,) of `grouped`."""
    k, values = sum(sizes), []
    log_factorials = np.array([math.lgamma(i + 1) for i in range(k + 1)])
    for group in range(len(sizes)):
        others = np.array(sizes) - (np.arange(len(sizes)) == group)
        shown = np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, others + 1), indexing="ij")], 1)
        count = shown.sum(1)
        ways = (log_factorials[others] - log_factorials[shown] - log_factorials[others - shown]).sum(1)
        weight = np.exp(ways + log_factorials[count] + log_factorials[k - 1 - count] - log_factorials[k])
        more = shown + (np.arange(len(sizes)) == group)
        values.append(weight @ (function(more.astype(float)) - function(shown.astype(float))))
    return np.repeat(values, sizes)


def sigmoid(counts: Array, slopes: Sequence[float], middle: float) -> Array:
    """Saturating function of a sum over groups."""
    return 1 / (1 + np.exp(middle - counts @ np.array(slopes)))


def threshold(counts: Array) -> Array:
    """Weighted vote."""
    return (counts @ np.array([4.0, 2.0, 1.0]) >= 40).astype(float)


def or_and(counts: Array) -> Array:
    """Any of one group with all of another, and most of a third."""
    return ((counts[:, 0] > 0) & (counts[:, 1] == 2)) + 0.5 * (counts[:, 2] >= 3) + 0.01 * counts[:, 3]


GROUPS: dict[str, tuple[Sequence[int], Callable[[Array], Array]]] = {
    "saturated": ((2, 4, 8, 12, 20, 4), partial(sigmoid, slopes=(3.0, 1.5, 0.6, 0.2, 0.0, -0.8), middle=4.8)),
    "nearly sure": ((2, 3, 10, 30, 5), partial(sigmoid, slopes=(4.0, 2.0, 0.5, 0.0, -1.5), middle=6.0)),
    "late": ((5, 15, 30), partial(sigmoid, slopes=(2.0, 1.0, 0.5), middle=35.0)),
    "vote": ((5, 15, 30), threshold),
    "or, and": ((3, 2, 5, 40), or_and),
}


def games() -> Iterator[Game]:
    """All games of K parts."""

    def game(name: str, function: Callable[[Array], Array], truth: Array) -> Game:
        return Game(name, K, 0, lambda masks: function(masks)[:, None].astype(float), truth=truth)

    for seed, name in enumerate(("linear", "high order")):
        terms = products(K, SHARES[name], seed)
        truth = np.zeros(K)
        for factor, parts in terms:
            truth[parts] += factor * (1 - (-1) ** len(parts)) / len(parts)
        yield game(name, partial(of_signs, terms=terms), truth)
    random = np.random.default_rng(2)
    shown = [(random.normal(), random.choice(K, random.integers(1, 7), replace=False)) for _ in range(150)]
    truth = np.zeros(K)
    for factor, parts in shown:
        truth[parts] += factor / len(parts)
    yield game("shown together", partial(of_shown, terms=shown), truth)
    heights = np.sort(random.exponential(size=K))
    steps = np.diff(heights, prepend=0) / np.arange(K, 0, -1)  # a step is shared by all parts that are as high
    yield game("maximum", lambda masks: (masks * heights).max(1), np.cumsum(steps))
    for name, (sizes, function) in GROUPS.items():
        yield game(name, partial(grouped, sizes=sizes, function=function), of_groups(sizes, function))


def ours(estimator: str, game: Game, forwards: int, seed: int) -> Values:
    """Values of gpulime."""
    one = OneGame(game)
    predictor, settings = Predictor(Memory(game), None, "float32", None), Settings(kernel="shapley", estimator=estimator)
    sampler = samplers.resolve("antithetic", seed, forwards)
    [found] = Engine(predictor, BatchSize(1024), one, sampler, forwards, 1, settings).explained([game])
    return found.coefficients[0, 0].double().numpy(), found.standard_errors[0, 0].numpy()


def shaps(game: Game, forwards: int, seed: int) -> Values:
    """Values of shap's KernelExplainer without its selection of features; it also predicts the whole and the empty input."""
    import shap

    logging.getLogger("shap").setLevel(logging.ERROR)
    np.random.seed(seed)
    explainer = shap.KernelExplainer(lambda rows: game.predict(rows > 0.5)[:, 0], np.zeros((1, game.k)))
    values = explainer.shap_values(np.ones((1, game.k)), nsamples=forwards - 2, l1_reg=0, silent=True)
    return np.asarray(values).ravel(), None


SIDES: dict[str, Callable[[Game, int, int], Values]] = {
    "shap": shaps,
    "gpulime wls": partial(ours, "wls"),
    "gpulime gp": partial(ours, "gp"),
}


def measured(game: Game, side: str, forwards: int, repeats: int) -> tuple[float, float]:
    """Mean squared error, and the share of values in 95 % intervals."""
    squared, covered = [], []
    for seed in range(repeats):
        values, errors = SIDES[side](game, forwards, seed)
        squared.append(((values - game.truth) ** 2).mean())
        covered.append(np.nan if errors is None else (abs(values - game.truth) <= 1.96 * errors).mean())
    return float(np.mean(squared)), float(np.mean(covered))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all games."""
    given = parser("convergence.shapley", __doc__, repeats=10).parse_args(argv)
    found, ratios = [], {}
    for game in games():
        for forwards in FORWARDS:
            base = measured(game, "shap", forwards, given.repeats)[0]
            for side in SIDES:
                error, covered = measured(game, side, forwards, given.repeats) if side != "shap" else (base, np.nan)
                ratios.setdefault((side, forwards), []).append(error / base)
                text = f"{error:.3g}", f"{error / base:.3g}", "" if np.isnan(covered) else f"{covered:.3f}"
                found.append(Row(game.name, side, str(forwards), str(given.repeats), *text, **where()))
                print(game.name, side, forwards, *text, flush=True)
    for (side, forwards), each in ratios.items():
        mean = f"{np.exp(np.mean(np.log(each))):.3g}"
        found.append(Row("all", side, str(forwards), str(given.repeats), "", mean, **where()))
        print("all", side, forwards, mean)
    if given.save:
        save(found)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
