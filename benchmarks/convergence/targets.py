"""Targets: lime's own limit, the weighted least-squares slopes without penalty, from many independent draws.

Everything here is plain NumPy in float64, apart from gpulime's samplers and estimators, which it judges. Targets are kept in
``results/targets``, one file per case, so that nobody needs to repeat the forwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.convergence.games import Array, Case, Game
from benchmarks.rows import HERE

FOLDER = HERE / "results" / "targets"
WIDTH = 0.25  # of lime's kernel for images
CHUNK = 1000  # masks that are drawn together; chunk i of a game has its own seed, so that draws can be extended


def weights(masks: Array) -> Array:
    """Weights (s,) that lime gives masks (s, k): an exponential kernel of the cosine distance to the whole input."""
    return np.exp(-((1 - np.sqrt(masks.mean(1))) ** 2) / (2 * WIDTH**2))


def slopes(masks: Array, outputs: Array) -> tuple[Array, float]:
    """Weighted least-squares slopes (k,) of outputs (s,), and their mean squared standard error by the sandwich formula."""
    w = weights(masks)
    rows = np.c_[np.ones(len(masks)), masks]
    inverse = np.linalg.pinv(rows.T @ (w[:, None] * rows), hermitian=True)
    fitted = inverse @ (rows.T @ (w * outputs))
    scores = (w * (outputs - rows @ fitted))[:, None] * rows @ inverse
    return fitted[1:], float((scores[:, 1:] ** 2).sum(0).mean())


def moments(k: int, largest: int) -> list[float]:
    """Means of lime's weight times the product of +-1 (shown, hidden) of 0, 1, ..., ``largest`` parts over all masks.

    The weight depends only on the number of parts shown, so a mean depends only on the number of factors.
    """
    from scipy.stats import binom  # here, since tables of results need no SciPy

    shown = np.arange(k + 1)
    mass = binom.pmf(shown, k, 0.5) * weights(shown[:, None] > np.arange(k))
    return [float(mass @ mean_product(k, size, shown)) for size in range(max(2, largest) + 1)]


def mean_product(k: int, size: int, shown: Array) -> Array:
    """Mean of a product of ``size`` parts over all masks that show as many of the k parts."""
    from scipy.stats import hypergeom

    if size > k:
        return np.zeros(len(shown))
    inside = np.arange(size + 1)
    return hypergeom.pmf(inside[:, None], k, size, shown).T @ (-1.0) ** (size - inside)


def penalised(target: Array, s: int) -> Array:
    """Limit (k,) of ridge with penalty 1 and s samples, whose target without penalty is given."""
    o0, o1, o2 = moments(len(target), 2)
    gram = s / 4 * ((o0 - o2) * np.eye(len(target)) + o2 - o1**2 / o0)  # centred
    return np.linalg.solve(gram + np.eye(len(target)), gram @ target)


def drawn(game: Game, n_masks: int) -> Iterator[Array]:
    """Masks (CHUNK, k) of a target, independent and uniform."""
    for chunk in range(n_masks // CHUNK):
        yield np.random.default_rng([game.seed, chunk]).integers(0, 2, (CHUNK, game.k), dtype=np.uint8).astype(bool)


def target(game: Game, n_masks: int, kept: Path | None = None) -> tuple[Array, float]:
    """Target (k,) of a game and its mean squared error; outputs of the five highest classes are kept in a folder."""
    path = kept and kept / f"{game.name}.npy"
    masks = np.concatenate(list(drawn(game, n_masks)))
    best = np.argsort(-game.predict(np.ones((1, game.k), bool))[0], kind="stable")[:5]
    labels = [game.label, *(label for label in best if label != game.label)]
    outputs = np.load(path) if path and path.exists() else np.empty((0, len(labels)), np.float32)
    while len(outputs) < n_masks:
        more = game.predict(masks[len(outputs) : len(outputs) + CHUNK])[:, labels]
        outputs = np.concatenate([outputs, more.astype(np.float32)])
        if path:
            written(path, lambda file, outputs=outputs: np.save(file, outputs))
    return slopes(masks, outputs[:n_masks, 0].astype(float))


def written(path: Path, write) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        write(file)
    os.replace(part, path)


def stored(case: Case, folder: Path = FOLDER) -> dict[str, tuple]:
    """Stored targets of a case: name -> (target (k,), its mean squared error, label, checksum of parts, masks)."""
    path = folder / f"{case.name}.npz"
    if not path.exists():
        return {}
    with np.load(path) as file:
        columns = [file[name] for name in ("names", "targets", "errors", "labels", "parts", "masks")]
        ends = np.cumsum(file["sizes"])[:-1]
    columns[1] = np.split(columns[1], ends)
    return {str(name): tuple(rest) for name, *rest in zip(*columns, strict=True)}


def compute(case: Case, folder: Path = FOLDER, kept: Path | None = None, n_masks: int = 0) -> None:
    """Compute the targets that are missing or have fewer masks, game by game; an interrupted call goes on where it was."""
    n_masks = n_masks or case.n_masks
    for game in case.games():
        known = stored(case, folder)
        old = known.get(game.name)
        if old is not None and old[3] == game.parts and old[2] == game.label and old[4] >= n_masks:
            continue
        found, error = target(game, n_masks, kept)
        known[game.name] = (found.astype(np.float32), error, game.label, game.parts, n_masks)
        names, (targets, errors, labels, parts, masks) = list(known), zip(*known.values(), strict=True)
        table = {"names": names, "targets": np.concatenate(targets), "sizes": [len(part) for part in targets]}
        table |= {"errors": errors, "labels": labels, "parts": parts, "masks": masks}
        written(folder / f"{case.name}.npz", lambda file, table=table: np.savez_compressed(file, **table))
        print(f"{case.name}: {game.name}, k = {game.k}, target from {n_masks} masks, error {error**0.5:.2e}", flush=True)
