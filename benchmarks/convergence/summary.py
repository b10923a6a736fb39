"""Rows of ``results/convergence``: each pair's error by design rows, over all games of a case.

Errors are compared game by game: ``ratio`` is the geometric mean of a pair's squared error over that of independent draws with
plain least squares and equally many rows, ``to_lime`` the same over lime's own error at 1000 samples. The columns that end in
``_of_means`` are ratios of the mean squared errors. A squared error below a tenth of the target's own counts as that tenth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.convergence.measure import INDEPENDENT, LIME, LIME_S, Found, Pair
from benchmarks.rows import RESULTS, columns, where
from gpulime.engine.quality import QUALITIES

LEAST = 1e-20  # squared errors below are rounding
OF_PRESETS, OF_OTHERS = 1.1, 1.35  # bounds of ratios on synthetic games
LEAST_RATIO = 1e-4  # ratios below count as this, since exhaustive masks leave no error

Games = dict[str, tuple[float, list[Found]]]  # by name: the target's mean squared error, and what was found


class Row(
    columns(
        "case games sampler estimator link s forwards repeats mse ratio ratio_of_means to_lime to_lime_of_means top5 covered ms"
    )
):
    """One pair and number of design rows; ``games`` is their number, or the name of a synthetic one."""

    FOLDER = "convergence"

    @property
    def pair(self) -> Pair:
        """Sampler and estimator."""
        return Pair(self.sampler, self.estimator, self.link)


def rows(case: str, games: Games, repeats: int, name: str = "") -> Iterator[Row]:
    """The rows of a case's games; ``name`` stands in place of their number."""
    by_pair: dict[tuple[Pair, int], dict[str, Found]] = {}
    for game, (_, found) in games.items():
        for one in found:
            by_pair.setdefault((one.pair, one.s), {})[game] = one
    for (pair, s), found in sorted(by_pair.items(), key=lambda item: (str(item[0][0]), item[0][1])):
        if len(found) < len(games):
            continue
        values = {"mse": np.mean([one.squared for one in found.values()])}
        independent = by_pair.get((INDEPENDENT, s))
        values["ratio"], values["ratio_of_means"] = ratios(games, found, independent) if independent else (np.nan, np.nan)
        values["to_lime"], values["to_lime_of_means"] = ratios(games, found, by_pair[LIME, LIME_S])
        values |= {column: np.mean([getattr(one, column) for one in found.values()]) for column in ("top5", "covered")}
        values["ms"] = 1e3 * np.median([one.seconds for one in found.values()])
        text = {column: "" if np.isnan(value) else f"{value:.3g}" for column, value in values.items()}
        forwards = s if pair == LIME else s + 1
        given = (name or str(len(games)), pair.sampler, pair.estimator, pair.link, str(s), str(forwards), str(repeats))
        yield Row(case, *given, **text, **where())


def ratios(games: Games, found: dict[str, Found], base: dict[str, Found]) -> tuple[float, float]:
    """Geometric mean of the games' ratios of squared errors, and the ratio of means; NaN if there is nothing to divide by."""
    pairs = np.array([[max(side[name].squared, 0.1 * error) for side in (found, base)] for name, (error, _) in games.items()])
    if (pairs[:, 1] < LEAST).any():
        return np.nan, np.nan
    over, under = pairs.T
    return float(np.exp(np.log(np.maximum(over / under, LEAST_RATIO)).mean())), float(over.mean() / under.mean())


def curves(rows: Sequence[Row]) -> dict[Pair, list[tuple[int, float]]]:
    """Forwards and squared error over lime's at 1000 of each pair; the geometric mean if a case has several games."""
    found: dict[Pair, dict[int, list[float]]] = {}
    for row in rows:
        if row.to_lime and int(row.s) <= LIME_S:
            found.setdefault(row.pair, {}).setdefault(int(row.forwards), []).append(float(row.to_lime))
    return {
        pair: sorted((forwards, float(np.exp(np.log(values).mean()))) for forwards, values in points.items())
        for pair, points in found.items()
    }


def enough(points: Sequence[tuple[int, float]]) -> float:
    """Forwards of a curve that reach lime's error at 1000, between sizes on logarithmic scales; infinite if none do."""
    if not points or points[-1][1] > 1:
        return np.inf
    above = [i for i, (_, ratio) in enumerate(points) if ratio > 1]
    if not above:
        return points[0][0]
    (s0, r0), (s1, r1) = (np.log(point) for point in points[above[-1] : above[-1] + 2])
    return float(np.exp(s0 + (s1 - s0) * r0 / (r0 - r1)))


def worst(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Of each pair on games with names and at least four rows for each part: the row with the largest ratio, and its bound."""
    found: dict[Pair, Row] = {}
    for row in rows:
        k = row.games.rpartition(", ")[2] if "," in row.games else ""
        if k and row.ratio and int(row.s) >= 4 * int(k) and row.pair != INDEPENDENT:
            found[row.pair] = max(found.get(row.pair, row), row, key=lambda one: float(one.ratio))
    presets = {Pair(one.sampler, one.estimator, one.link if one.estimator == "gp" else "") for one in QUALITIES.values()}
    each = [(row, OF_PRESETS if pair in presets else OF_OTHERS) for pair, row in found.items()]
    return sorted(each, key=lambda one: (one[1], float(one[0].ratio)))


def path(case: str) -> Path:
    """File of a case's rows."""
    return RESULTS / Row.FOLDER / f"{case}.csv"
