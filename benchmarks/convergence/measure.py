"""Explain games by every sampler and estimator, and compare with their targets.

A pair's forwards are remembered, so estimators that share a sampler share its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from benchmarks.convergence.games import Array, Game
from benchmarks.convergence.targets import penalised, slopes, written
from gpulime import Explanations, key
from gpulime.engine import masks as samplers
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.engine import Engine
from gpulime.engine.flight import Flight
from gpulime.engine.masked import Masked, Wanted
from gpulime.engine.model import Predictor
from gpulime.engine.settings import Settings
from gpulime.errors import GpulimeError

ESTIMATORS = (("ridge", ""), ("wls", ""), ("gp", "identity"), ("gp", "logit"), ("gp", "auto"))
UNPAIRED = ("bernoulli", "lime")  # without complement pairs "gp" is "wls"
PAIRED = ("antithetic", "blocks")  # they take all masks by themselves where "exhaustive" can


@dataclass(frozen=True)
class Pair:
    """A sampler and an estimator; ``numpy`` is this benchmark's own least squares, which errors are divided by."""

    sampler: str
    estimator: str
    link: str = ""

    def __str__(self) -> str:
        return " / ".join(part for part in (self.sampler, self.estimator, self.link) if part)


ROUNDING = 1e-7  # of coefficients, which are kept in float32; errors of exhaustive masks are 0
LIME_S = 1000  # lime's own default
INDEPENDENT, LIME = Pair("bernoulli", "numpy"), Pair("lime", "ridge")
PAIRS = (
    INDEPENDENT,
    *(
        Pair(sampler, *one)
        for sampler in (*UNPAIRED, *PAIRED)
        for one in ESTIMATORS
        if not (sampler in UNPAIRED and one[0] == "gp")
    ),
)


@dataclass
class Found:
    """One pair on one game with s design rows, the means over repeats."""

    pair: Pair
    s: int
    squared: float  # mean squared error over parts, less that of the target
    top5: float  # share of the five strongest parts that the target has, too
    covered: float  # share of targets in the 95 % intervals; NaN without standard errors
    seconds: float  # of the estimate alone


class OneGame(Masked):
    """A game as the engine sees it; a row of its model is a mask."""

    def __init__(self, game: Game) -> None:
        self.k = self.most = game.k
        self.counts, self.keys = torch.tensor([game.k]), torch.tensor([key(game.name)])
        self.kind = (game.k,), torch.float32, torch.device("cpu")
        self.wanted = Wanted(torch.tensor([[game.label]]), top=False)

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        return masks.float()

    def masked(self, batch: object) -> Iterator[Masked]:
        """Be the engine's masker, too: every batch is this game."""
        yield self


@dataclass
class Memory:
    """A game's model that remembers its outputs, in a file if a folder is given."""

    game: Game
    folder: Path | None = None
    known: dict[bytes, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = self.folder and self.folder / f"{self.game.name}.npz"
        if self.path and self.path.exists():
            with np.load(self.path) as file:
                self.known = dict(zip(map(bytes, file["masks"]), file["outputs"], strict=True))
        self.size = len(self.known)

    def __call__(self, rows: Tensor) -> Tensor:
        """(b, k) -> (b, classes)."""
        masks = rows.numpy() > 0.5
        names = list(map(bytes, np.packbits(masks, axis=1)))
        fresh = {name: i for i, name in enumerate(names) if name not in self.known}
        if fresh:
            self.known.update(zip(fresh, self.game.predict(masks[list(fresh.values())]), strict=True))
        return torch.from_numpy(np.stack([self.known[name] for name in names]))

    def save(self) -> None:
        """Write the file if there is more to remember."""
        if self.path and len(self.known) > self.size:
            table = {
                "masks": np.array([list(name) for name in self.known], np.uint8),
                "outputs": np.stack(list(self.known.values())),
            }
            written(self.path, lambda file: np.savez(file, **table))


class Timed(Engine[Explanations]):
    """Engine that times its estimates."""

    seconds = 0.0

    def solve(self, flight: Flight) -> Explanations:
        """Fit the surrogates of a flight."""
        start = perf_counter()
        explained = super().solve(flight)
        self.seconds += perf_counter() - start
        return explained


def explained(pair: Pair, game: Game, model: Memory, s: int, seed: int) -> tuple[Array, Array | None, float]:
    """Coefficients (k,), their standard errors if there are any, and seconds of the estimate."""
    n_samples = s if pair == LIME else s + 1  # row 0, the whole input, is no row of a design
    sampler, one = samplers.resolve(pair.sampler, seed, n_samples), OneGame(game)
    if pair == INDEPENDENT:
        masks = one.draw(sampler, torch.zeros(1, dtype=torch.int64), torch.arange(1, n_samples))
        start = perf_counter()
        found = slopes(masks.numpy(), model(masks.float())[:, game.label].numpy().astype(float))
        return found[0], None, perf_counter() - start
    settings = Settings(feature_selection="none", estimator=pair.estimator, link=pair.link or "identity")
    engine = Timed(Predictor(model, None, "float32", None), BatchSize(1024), one, sampler, n_samples, 1, settings)
    [explanations] = engine.explained([game])
    found = explanations.coefficients[0, 0].double().numpy()
    return found, explanations.standard_errors[0, 0].double().numpy(), engine.seconds


def measured(pair: Pair, game: Game, model: Memory, s: int, seeds: Sequence[int], target: Array, error: float) -> Found:
    """Compare a pair with a target (k,) that has the mean squared error ``error`` itself."""
    squared, top5, covered, seconds = [], [], [], []
    best = set(np.argsort(-abs(target))[:5])
    whole = pair.sampler in PAIRED and 2**game.k <= s + 1  # all masks, which stand for s + 1 samples
    aim = penalised(target, s + whole) if pair.estimator == "ridge" else target  # of the intervals
    for seed in seeds:
        found, errors, time = explained(pair, game, model, s, seed)
        squared.append(((found - target) ** 2).mean() - error)
        top5.append(len(best & set(np.argsort(-abs(found))[:5])) / len(best))
        inside = np.nan if errors is None else (abs(found - aim) <= 1.96 * np.sqrt(errors**2 + error) + ROUNDING).mean()
        covered.append(inside)
        seconds.append(time)
    return Found(pair, s, *(float(np.mean(values)) for values in (squared, top5, covered)), float(np.median(seconds)))


@cache
def say(text: str) -> None:
    """Print a text once."""
    print(text, flush=True)


def of_game(game: Game, model: Memory, sizes: Sequence[int], repeats: int, target: Array, error: float) -> list[Found]:
    """All pairs that exist, the largest size first, since smaller ones take a part of its rows."""
    found, impossible = [], set()
    for s in sorted({*sizes, LIME_S}, reverse=True):
        for pair in PAIRS:
            if pair in impossible or not (s in sizes or pair == LIME):
                continue
            try:
                found.append(measured(pair, game, model, s, range(repeats), target, error))
            except GpulimeError as refused:  # no such sampler, estimator or link, or not for this game
                impossible.add(pair)
                say(f"{pair} is left out: {refused}")
    return found
