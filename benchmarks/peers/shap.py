"""shap's PartitionExplainer with its image masker, one image at a time."""

from __future__ import annotations

import warnings

import numpy as np

from benchmarks.peers.lime import arrays, at_best
from benchmarks.setups import Setup
from benchmarks.sides import Array, Forward, padded, segment_means


def partition(setup: Setup) -> Forward:
    """Owen values of a hierarchy of rectangles, summed over each segment; hidden pixels show their segment's mean.

    The hierarchy depends only on the image's shape: it is made once, before the clock starts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of matplotlib's, at the import
        import shap

    images, targets = arrays(setup.normalised), setup.targets.tolist()
    masker = shap.maskers.Image(np.zeros_like(images[0]), images[0].shape)
    masker.fixed_background = False  # the fill is each image's own
    explainer = shap.PartitionExplainer(at_best(setup), masker)

    def explain(i: int) -> Array:
        labels = setup.label_map(i)
        masker.mask_value = np.ascontiguousarray(segment_means(setup.normalised[i], labels).permute(1, 2, 0).cpu()).ravel()
        np.random.seed(0)  # for ties
        call = {"max_evals": setup.s, "batch_size": setup.batch, "outputs": [targets[i]], "silent": True}
        values = explainer(images[i][None], **call).values[0, ..., 0]
        return np.bincount(labels.cpu().numpy().ravel(), values.sum(2).ravel())

    return lambda: padded(explain(i) for i in range(setup.n))
