"""Segments of different images in clusters, so that they can be compared: by a model's feature map, or by their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gpulime.engine.eval_mode import evaluating
from gpulime.errors import check
from gpulime.explanations.image import ImageExplanation

Array = np.ndarray[Any, np.dtype[Any]]
Features = Callable[[Tensor], Any]  # images (b, c, h, w) -> feature map (b, d, h', w')

FITTED = 20_000  # segments that centres of clusters are fitted to, at most
AT_ONCE = 16  # images passed to the model


def by_place(explanations: Sequence[ImageExplanation]) -> tuple[Array, Array, Array]:
    """Explanation, segment and positive weight of each weighted segment, (m,) each, for images that share one grid.

    Raises
    ------
    GpulimeError
        If the images have different segments.
    """
    first = explanations[0].segments
    same = all(np.array_equal(one.segments, first) for one in explanations)
    check(same, "images have different segments, which cannot be compared: pass features, or explain them on a shared grid")
    rows, segments, weights = _positive(explanations)
    return rows, np.searchsorted(np.unique(first), segments), weights


def by_features(
    explanations: Sequence[ImageExplanation], features: Features, count: int, seed: int
) -> tuple[Array, Array, Array]:
    """Explanation, cluster and positive weight of each weighted segment, (m,) each; clusters are numbered 0 ... count - 1.

    Segments are the means of the feature map over their pixels, with a length of 1, in clusters by k-means. Fewer segments
    than ``count`` have a cluster each.

    Raises
    ------
    GpulimeError
        If ``features`` does not return a map (b, d, h', w').
    """
    from sklearn.cluster import KMeans

    rows, segments, weights = _positive(explanations)
    wanted = [segments[rows == i] for i in range(len(explanations))]
    maps = _maps([one.image for one in explanations], features)
    points = np.concatenate([_means(one.segments, ids, map) for one, ids, map in zip(explanations, wanted, maps, strict=True)])
    if not len(points):
        return rows, segments, weights
    random = np.random.RandomState(seed)
    fitted = points if len(points) <= FITTED else points[random.choice(len(points), FITTED, replace=False)]
    clusters = KMeans(min(count, len(np.unique(fitted, axis=0))), n_init=4, random_state=random).fit(fitted)
    return rows, clusters.predict(points).astype(np.int64), weights


def _positive(explanations: Sequence[ImageExplanation]) -> tuple[Array, Array, Array]:
    """Explanation, segment and weight of the segments for each label, by explanation; the weights of each sum to 1."""
    found = [
        (i, int(segment), float(weight))
        for i, one in enumerate(explanations)
        for pairs in one.local_exp.values()
        for segment, weight in pairs
        if np.isfinite(weight) and weight > 0
    ]
    rows, segments, weights = (np.array(column) for column in zip(*found, strict=True)) if found else (np.zeros(0),) * 3
    rows = rows.astype(np.int64)
    sums = np.bincount(rows, weights=weights, minlength=len(explanations))
    return rows, segments.astype(np.int64), weights / sums[rows]


def _means(segments: Array, ids: Array, features: Tensor) -> Array:
    """The mean of a feature map (d, h', w') over some segments, in vectors of length 1: (ids, d)."""
    d = features.shape[0]
    here = torch.from_numpy(segments[None] == ids.reshape(-1, 1, 1)).to(features)
    shares = torch.nn.functional.adaptive_avg_pool2d(here, (features.shape[1], features.shape[2])).flatten(1)
    sums = shares @ features.reshape(d, -1).T  # in proportion to the means
    unit: Array = torch.nn.functional.normalize(sums, dim=1).cpu().numpy()
    return unit


def _maps(images: Sequence[Array], features: Features) -> Iterator[Tensor]:
    """The feature map (d, h', w') of each image (h, w, c), float32; images of one size that follow each other go together."""
    for _, some in groupby(images, key=np.shape):
        same = list(some)
        for start in range(0, len(same), AT_ONCE):
            batch = torch.from_numpy(np.stack(same[start : start + AT_ONCE])).permute(0, 3, 1, 2).float()
            with torch.no_grad():
                found = _last_map(features, batch) if isinstance(features, nn.Module) else features(batch)
            fits = isinstance(found, Tensor) and found.ndim == 4 and len(found) == len(batch)
            check(fits, f"features must return a map (b, d, h', w') with b = {len(batch)}; got {_shape(found)}")
            yield from found.detach().float()


def _last_map(model: nn.Module, images: Tensor) -> Any:
    """The last output (b, d, h', w') of any part of a module that has more than one pixel; if none, that of the module."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found[:] = [output]

    hooks = [part.register_forward_hook(keep) for part in model.modules()]
    weights = next(model.parameters(), images)
    try:
        with evaluating(model):
            whole = model(images.to(weights.device, weights.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else whole


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__
