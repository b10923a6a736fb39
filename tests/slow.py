"""LIME as defined by its paper and lime's code, in plain NumPy loops: the reference for the engine.

Nothing here is fast, batched or shared with the engine. Arguments have the engine's names and shapes.
"""

from __future__ import annotations

import math

import numpy as np
from replicates import replicates

from gpulime.engine import masks, surrogate
from gpulime.engine.proximity import proximity
from gpulime.images import fills
from gpulime.ops import bernoulli as draws
from gpulime.ops import masked_images as op

SEED = 2**64 - 5


def philox_block(counter, key):
    """One block of Philox4x32-10 for four and two Python ints."""
    x, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [
            (second >> 32) ^ x[1] ^ k[0],
            second % 2**32,
            (first >> 32) ^ x[3] ^ k[1],
            first % 2**32,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return x


@replicates(draws.philox4x32)
def philox4x32(counter, key):
    blocks = [philox_block([int(word[i]) for word in counter], key) for i in range(len(counter[0]))]
    return np.array(blocks).T


@replicates(masks.Bernoulli(SEED, n_samples=0))
def bernoulli(keys, rows, counts, k):
    drawn = np.ones((*rows.shape, k), dtype=bool)
    for place in np.ndindex(rows.shape):
        row, name = int(rows[place]), int(keys[place]) % 2**64
        if row == 0:
            continue
        for j in range(k):
            block = philox_block([j // 128, row, name % 2**32, name >> 32], [SEED % 2**32, SEED >> 32])
            drawn[place][j] = block[j % 128 // 32] >> j % 32 & 1
    return drawn


@replicates(op.masked_images)
@replicates(op.masked_images_reference)
def masked_images(images, fills, labels, index, masks):
    rows = images[index]
    for r, i in enumerate(index):
        for y, x in np.ndindex(labels.shape[1:]):
            if not masks[r, labels[i, y, x]]:
                rows[r, :, y, x] = fills[i, :, y, x]
    return rows


@replicates(fills.segment_means)
def segment_means(images, labels, k):
    means = images.copy()
    for i in range(len(images)):
        for j in range(k):
            inside = labels[i] == j
            if inside.any():
                means[i][:, inside] = images[i][:, inside].mean(axis=1, keepdims=True)
    return means


@replicates(proximity)
@replicates(proximity, kernel_width=None)
def proximity(regressors, counts, kernel_width=0.25):
    weights = np.zeros(regressors.shape[:2])
    for i, s in np.ndindex(weights.shape):
        row, whole = regressors[i, s, : counts[i]].astype(float), np.ones(counts[i])
        width = kernel_width or 0.75 * math.sqrt(counts[i])
        norms = np.linalg.norm(row) * np.linalg.norm(whole)
        distance = 1 - row @ whole / norms if norms else 1.0
        weights[i, s] = math.sqrt(math.exp(-(distance**2) / width**2))
    return weights


def ridge(x, y, w, alpha):
    """Weighted ridge by the normal equations of [1, x]; the intercept is not penalised."""
    ones = np.column_stack([np.ones(len(x)), x])
    penalty = alpha * np.eye(ones.shape[1])
    penalty[0, 0] = 0
    solution = np.linalg.solve(ones.T @ np.diag(w) @ ones + penalty, ones.T @ np.diag(w) @ y)
    return solution[1:], solution[0]


def r2(y, predicted, w):
    mean = np.average(y, weights=w)
    return 1 - (w * (y - predicted) ** 2).sum() / (w * (y - mean) ** 2).sum()


def left_out(x, y, w, alpha):
    """Each sample predicted by a model that is fitted to all others."""
    predicted = np.zeros_like(y)
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        beta, intercept = ridge(x[others], y[others], w[others], alpha)
        predicted[i] = intercept + x[i] @ beta
    return predicted


def forward_selection(x, y, w, wanted):
    """Refit without a penalty with every candidate added; keep the best, the first of equals."""
    used, root = [], np.sqrt(w)
    while len(used) < min(wanted, x.shape[1]):
        scores = {}
        for j in set(range(x.shape[1])) - set(used):
            design = np.column_stack([np.ones(len(x)), x[:, [*used, j]]])
            solution = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
            scores[j] = r2(y, design @ solution, w)
        used.append(max(sorted(scores), key=scores.get))
    return used


def highest_weights(x, y, w, wanted):
    beta, _ = ridge(x, y, w, 0.01)
    return sorted(range(x.shape[1]), key=lambda j: -abs(beta[j]))[:wanted]


@replicates(surrogate.fit)
@replicates(surrogate.fit, alpha=0.0)
@replicates(surrogate.fit, alpha=0.01, kernel_width=None)
@replicates(surrogate.fit, num_features=3)
@replicates(surrogate.fit, num_features=6, feature_selection="highest_weights")
@replicates(surrogate.fit, num_features=7, feature_selection="forward_selection")
def fit(masks, outputs, counts, alpha=1.0, kernel_width=0.25, num_features=None, feature_selection="auto"):
    (n, _, k), l = masks.shape, outputs.shape[2]
    weights = proximity(masks, counts, kernel_width)
    fitted = {
        "coefficients": np.zeros((n, l, k)),
        "standard_errors": np.zeros((n, l, k)),
        "intercepts": np.zeros((n, l)),
        "scores": np.zeros((n, l)),
        "scores_loo": np.zeros((n, l)),
        "spreads": np.zeros((n, l)),
        "local_predictions": np.zeros((n, l)),
        "ranks": np.full((n, l, k), -1),
    }
    for i, j in np.ndindex(n, l):
        x, y, w = masks[i, :, : counts[i]].astype(float), outputs[i, :, j], weights[i]
        if num_features is None:
            used = list(range(counts[i]))
        elif feature_selection == "highest_weights":
            used = highest_weights(x, y, w, num_features)
        else:
            used = forward_selection(x, y, w, num_features)
        beta, intercept = ridge(x[:, used], y, w, alpha)
        fitted["coefficients"][i, j, used] = beta
        without = [
            ridge(np.delete(x[:, used], one, 0), np.delete(y, one), np.delete(w, one), alpha)[0] for one in range(len(y))
        ]
        fitted["standard_errors"][i, j, used] = np.sqrt(((beta - np.array(without)) ** 2).sum(0))
        fitted["intercepts"][i, j] = intercept
        fitted["scores"][i, j] = r2(y, intercept + x[:, used] @ beta, w)
        fitted["scores_loo"][i, j] = r2(y, left_out(x[:, used], y, w, alpha), w)
        fitted["spreads"][i, j] = np.sqrt((w * (y - np.average(y, weights=w)) ** 2).sum() / w[1:].sum())
        fitted["local_predictions"][i, j] = intercept + x[0, used] @ beta
        fitted["ranks"][i, j, used] = range(len(used))
    return fitted


def explain(image, fill, labels, key, model, n_samples):
    """All of it for one (c, h, w) image and a model of NumPy rows: every class's coefficients (classes, k)."""
    k = labels.max() + 1
    samples = np.arange(n_samples)
    shown = bernoulli(np.full(n_samples, key), samples, None, k)
    rows = masked_images(image[None], fill[None], labels[None], np.zeros(n_samples, dtype=int), shown)
    return fit(shown[None], model(rows)[None], [k])["coefficients"][0]
