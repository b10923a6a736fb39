"""Synthetic games whose target is known: sums of products of +-1 in closed form, anything else up to 16 parts by enumeration.

A part that is shown counts as +1, one that is hidden as -1. Every game is a classifier of probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from benchmarks.convergence.games import Array, Case, Game
from benchmarks.convergence.targets import moments, slopes

Term = tuple[float, Array]  # a factor, and the parts whose +-1 are multiplied


def closed_form(k: int, terms: Sequence[Term]) -> Array:
    """Target (k,) of a sum of products, from the normal equations in the limit."""
    omega = moments(k, max(len(parts) for _, parts in terms) + 1)
    gram = np.full((k + 1, k + 1), omega[2])
    np.fill_diagonal(gram, omega[0])
    gram[0, 1:] = gram[1:, 0] = omega[1]
    right = np.zeros(k + 1)
    for factor, parts in terms:
        each = np.full(k + 1, omega[len(parts) + 1])
        each[0], each[1 + parts] = omega[len(parts)], omega[len(parts) - 1]
        right += factor * each
    return 2 * np.linalg.solve(gram, right)[1:]  # a step from hidden to shown is 2


def everything(k: int) -> Array:
    """All masks (2^k, k)."""
    return (np.arange(2**k)[:, None] >> np.arange(k) & 1).astype(bool)


def enumerated(k: int, predict: Callable[[Array], Array]) -> Array:
    """Target (k,) of class 0 from all masks."""
    masks = everything(k)
    return slopes(masks, predict(masks)[:, 0])[0]


def products(k: int, shares: dict[int, float], seed: int, least: int = 200) -> list[Term]:
    """Random terms: a share of the variance for each order, with factors that differ in size as parts of pictures do."""
    random, terms = np.random.default_rng(seed), []
    for order, share in shares.items():
        count = k if order == 1 else min(math.comb(k, order), least)
        chosen = {tuple(np.sort(random.choice(k, order, replace=False))) for _ in range(count)} if order > 1 else range(k)
        chosen = [np.atleast_1d(parts) for parts in sorted(chosen)]
        factors = random.laplace(size=len(chosen)) * np.exp(random.normal(size=len(chosen)))
        factors *= math.sqrt(share / (factors**2).sum())
        terms += zip(factors.tolist(), chosen, strict=True)
    return terms


def of_products(masks: Array, terms: Sequence[Term], scale: float) -> Array:
    """Probabilities (s, 2) of a sum of products."""
    signs = np.where(masks, 1.0, -1.0).T
    first = 0.5 + scale * sum(factor * signs[parts].prod(0) for factor, parts in terms)
    return np.stack([first, 1 - first], 1)


def of_logits(masks: Array, slopes_: Array) -> Array:
    """Probabilities (s, classes) of a softmax of linear functions."""
    logits = np.where(masks, 1.0, -1.0) @ slopes_
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def constant(masks: Array) -> Array:
    """Probabilities (s, 2) that no part changes."""
    return np.tile([0.7, 0.3], (len(masks), 1))


SHARES = {
    "linear": {1: 0.97, 2: 0.01, 3: 0.01, 5: 0.01},
    "second order": {1: 0.5, 2: 0.5},
    "high order": {1: 0.2, 2: 0.1, 3: 0.2, 4: 0.2, 6: 0.3},
}
SIZES = {"linear": (8, 50, 400), "second order": (8, 50, 100), "high order": (12, 50, 100)}


def games() -> Iterator[Game]:
    """All games."""
    for i, (name, sizes) in enumerate(SIZES.items()):
        for k in sizes:
            terms = products(k, SHARES[name], seed=1000 * i + k)
            scale = 0.5 / sum(abs(factor) for factor, _ in terms)
            truth = scale * closed_form(k, terms)
            yield Game(f"{name}, {k}", k, 0, partial(of_products, terms=terms, scale=scale), truth=truth)
    for k, strength in ((8, 2.0), (12, 1.0), (16, 0.5), (16, 2.0)):
        slopes_ = strength * np.random.default_rng(k).laplace(size=(k, 5))
        predict = partial(of_logits, slopes_=slopes_)
        yield Game(f"softmax x {strength:g}, {k}", k, 0, predict, truth=enumerated(k, predict))
    yield Game("constant, 50", 50, 0, constant, truth=np.zeros(50))


CASE = Case("synthetic", games, repeats=20)
