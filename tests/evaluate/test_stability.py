"""Stability over seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from gpulime import Explainer, GpulimeError, TableExplainer, TextExplainer
from gpulime.evaluate import similarities, stability
from tests.texts import tiny

LABELS = torch.tensor([[1, 2], [0, 3], [6, 5]])
PARTS = torch.stack([torch.arange(480).view(24, 20) * k // 480 for k in (4, 7, 9)])


@pytest.mark.parametrize("sampler", ["bernoulli", "lime", "blocks"])
def test_similarities_are_those_of_explainers_with_other_seeds(sampler, cnn, pictures):
    images = pictures(3)

    def explained(seed):
        judge = Explainer(cnn, n_samples=30, fill=0.25, sampler=sampler, seed=seed)
        return judge, judge.explain(images, LABELS, PARTS, [1, 2, 3])

    (judge, first), (_, second), (_, third) = (explained(seed) for seed in (4, 5, 6))
    found = stability(judge, images, first, seeds=3, keys=[1, 2, 3])
    maps = [one.heatmaps() for one in (first, second, third)]
    pairs = [similarities(*pair) for pair in (maps[:2], maps[::2], maps[1:])]
    for name in ("spearman", "spearman_abs", "ssim", "hog"):
        expected = torch.stack([pair[name] for pair in pairs]).mean(0)
        torch.testing.assert_close(getattr(found, name), expected, equal_nan=True)
    two = stability(judge, images, first, labels=LABELS[:, :1], keys=[1, 2, 3])
    assert two.spearman.shape == (3, 1)
    torch.testing.assert_close(two.spearman, pairs[0]["spearman"][:, :1])
    for i, j in np.ndindex(3, 2):
        shares = []
        for a, b in ((first, second), (first, third), (second, third)):
            k = int(first.counts[i])
            tops = [set(one.coefficients[i, j, :k].abs().argsort(descending=True)[:5].tolist()) for one in (a, b)]
            shares.append(len(tops[0] & tops[1]) / min(5, k))
        np.testing.assert_allclose(found.top5[i, j], np.mean(shares))
    assert found.spearman.min() < 0.999


def test_all_masks_give_the_same_explanation(cnn, pictures):
    judge = Explainer(cnn, n_samples=512, fill=0.25, sampler="blocks", estimator="wls")
    explained = judge.explain(pictures(3), LABELS, PARTS, keep=0)
    found = stability(judge, pictures(3), explained)
    ones = torch.ones(3, 2, dtype=torch.float64)
    for name in ("spearman", "spearman_abs", "ssim", "top5"):
        torch.testing.assert_close(getattr(found, name), ones)


def test_texts_and_rows_compare_coefficients():
    judge = TextExplainer(lambda strings: np.array([[0.1 * len(text), len(text) % 3] for text in strings]), n_samples=40)
    explained = judge.explain(tiny.TEXTS)
    found = stability(judge, tiny.TEXTS, explained)
    other = judge.redrawn(1).explain(tiny.TEXTS, explained.labels)
    for i, j in np.ndindex(len(tiny.TEXTS), 2):
        k = int(explained.counts[i])
        both = [one.coefficients[i, j, :k] for one in (explained, other)]
        np.testing.assert_allclose(found.spearman[i, j], spearmanr(*both).statistic)
        np.testing.assert_allclose(found.spearman_abs[i, j], spearmanr(*(one.abs() for one in both)).statistic)
    assert found.reason("ssim", 0, 0) == "it needs images with sides of 11 or more, and maps that are not constant"
    data, target = load_iris(return_X_y=True)
    rows = TableExplainer(LogisticRegression(max_iter=1000).fit(data, target), data, n_samples=200)
    explained = rows.explain(data[[3, 70]])
    found = stability(rows, data[[3, 70]], explained, keys=[1, 2])
    other = rows.redrawn(1).explain(data[[3, 70]], explained.labels, keys=[1, 2])
    for i, j in np.ndindex(2, 3):
        expected = spearmanr(explained.coefficients[i, j], other.coefficients[i, j]).statistic
        np.testing.assert_allclose(found.spearman[i, j], expected)
    assert (found.top5 == 1).all()


def test_labels_that_were_not_explained_are_nan(cnn, pictures):
    judge = Explainer(cnn, n_samples=30, fill=0.25)
    explained = judge.explain(pictures(3), LABELS, PARTS)
    found = stability(judge, pictures(3), explained, labels=[1, 1, 6])
    assert found.spearman.isnan().tolist() == [[False], [True], [False]]
    assert found.reason("top5", 1, 0) == "class 1 was not explained"
    with pytest.raises(GpulimeError, match="seeds must be at least 2; got 1"):
        stability(judge, pictures(3), explained, seeds=1)
    with pytest.raises(GpulimeError, match="explained must be explanations, since maps have no seed; got Tensor"):
        stability(judge, pictures(3), torch.rand(3, 24, 20), labels=0)
    kinds = r"explainer must be an Explainer, TextExplainer or TableExplainer, such as gpulime.Explainer\(model\); got "
    with pytest.raises(GpulimeError, match=f"{kinds}{type(cnn).__name__}$"):
        stability(cnn, pictures(3), explained)
