"""Pick the few explanations that show most of a model: SP-LIME, for rows, texts and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from gpulime.errors import GpulimeError, check, whole
from gpulime.explanations.batch import Explanations
from gpulime.explanations.cover import Array, Picked, by_name, cover, incidence
from gpulime.explanations.explanation import Explanation
from gpulime.explanations.image import ImageExplanation
from gpulime.explanations.images import ExplainedImages
from gpulime.images.clusters import by_features, by_place

CLUSTERS = 32
RIGHT = "pick needs the explanations of several inputs, as explain returns them, or a list of explanations"


def pick(
    explanations: Explanations | Sequence[Explanation] | Sequence[ImageExplanation],
    count: int = 5,
    *,
    num_features: int = 10,
    features: Any = None,
    clusters: int = CLUSTERS,
    seed: int = 0,
) -> Picked:
    """Pick the explanations that together show most of what a model uses.

    Features of rows and texts are names of parts, as in `Explanation.as_list`: bins of columns, words. A feature's importance
    is the root of the sum of its weights' sizes over all explanations and labels. Each pick adds the most importance; of
    equal ones the explanation with the largest weights is picked. If all features are shown, the next picks show them again.

    Segments of different images are no features. With ``features`` they are put into clusters by the model's own feature map,
    of which a cluster is a feature; without, images must share one grid of segments, of which a place is a feature. Only
    weights for a label count, and those of an image sum to 1.

    Parameters
    ----------
    explanations : Explanations or sequence of Explanation or of ImageExplanation
        The explanations of n inputs.
    count : int
        The number to pick; n or more picks all.
    num_features : int
        The strongest parts of each label of a row or text that count.
    features : callable or nn.Module, optional
        Only for images. Pictures (b, c, h, w) in their own range, those of a batch in [0, 1] -> a feature map (b, d, h', w').
        Of a module the last output of any of its parts that is such a map, as in a classifier with convolutions.
    clusters : int
        The number of clusters, with ``features``.
    seed : int
        Seed of the clusters. Nothing else is random.

    Returns
    -------
    Picked
        ``indices``, the most important first, and the ``coverage`` up to each.

    Raises
    ------
    GpulimeError
        If there are no explanations, an argument is invalid, or images cannot be compared.
    """
    count, num_features = whole("count", count, 1), whole("num_features", num_features, 1)
    several = isinstance(explanations, Explanations | Sequence)
    check(several, f"{RIGHT}; got {type(explanations).__name__}")
    n = len(explanations)
    check(n > 0, "there are no explanations to pick from")
    whole("clusters", clusters, 1)
    listed: list[Any] = [] if _named(explanations) else list(cast(Sequence[Any], explanations))
    of_images = bool(listed) and isinstance(listed[0], ImageExplanation)
    for one in listed:
        fits = isinstance(one, ImageExplanation) == of_images and hasattr(one, "as_list")  # as lime's own
        check(fits, f"{RIGHT}, all of one kind; got {type(one).__name__} among them")
    check(of_images or features is None, "features are only for images; parts of rows and texts are compared by name")
    if of_images:
        found = by_place(listed) if features is None else by_features(listed, features, clusters, seed)
    else:
        found = by_name(listed, num_features) if listed else _of_batch(cast(Explanations, explanations), num_features)
    rows, columns, weights = found
    return cover(incidence(rows, columns, weights, (n, int(columns.max(initial=-1)) + 1)), count)


def _named(explanations: Any) -> bool:
    """True if these are the tensors of rows or texts."""
    return isinstance(explanations, Explanations) and not isinstance(explanations, ExplainedImages)


def _of_batch(explanations: Explanations, num_features: int) -> tuple[Array, Array, Array]:
    """Explanation, feature and weight of the strongest parts of each label, (m,) each, as `by_name` finds them in a list."""
    names = explanations._names()
    if names is None:
        raise GpulimeError("parts must have names, as words and columns do; these explanations have none")
    labels, sizes = explanations.labels.cpu(), explanations.coefficients.cpu().abs().nan_to_num(0, 0)
    again = torch.stack([(labels[:, :j] == labels[:, j : j + 1]).any(1) for j in range(labels.shape[1])], 1)
    sizes = sizes.masked_fill(again[..., None], 0)  # a label that an input repeats
    strongest = sizes.topk(min(num_features, sizes.shape[2]), 2).indices
    kept = torch.zeros_like(sizes).scatter_(2, strongest, sizes.gather(2, strongest)).sum(1)
    rows, parts = kept.nonzero(as_tuple=True)
    numbers: dict[str, int] = {}
    named = (names[i][part] for i, part in zip(rows.tolist(), parts.tolist(), strict=True))
    columns = np.array([numbers.setdefault(name, len(numbers)) for name in named], dtype=np.int64)
    return rows.numpy(), columns, kept[rows, parts].numpy()
