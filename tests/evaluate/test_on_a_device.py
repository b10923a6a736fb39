"""Evaluation on a device gives the numbers of the CPU."""

from __future__ import annotations

import pytest
import torch

from gpulime import Explainer
from gpulime.evaluate import curves, held_out, localisation, sensitivity, stability
from gpulime.evaluate.baselines import centre_maps, random_maps

LABELS = torch.tensor([[1, 2], [0, 0], [6, 5]])
PARTS = torch.stack([torch.arange(480).view(24, 20) * k // 481 % k for k in (1, 4, 9)])


def explainer(model):
    return Explainer(model, n_samples=40, fill=0.25, batch_size=16)


def scores(model, images, kind):
    """All scores of one metric."""
    judge = explainer(model)
    explained = judge.explain(images, LABELS, PARTS, keep=3)
    if kind == "sensitivity":
        return sensitivity(judge, images, LABELS, draws=2, same_class=True, segments=PARTS).values()
    if kind == "localisation":
        return localisation(explained, [[0, 0, 10, 12]] * 3).values()
    if kind in ("random", "centre"):
        maps = {"random": random_maps, "centre": centre_maps}[kind](explained.segments, LABELS)
        return curves(judge, images, maps, labels=LABELS, segments=PARTS.to(images.device)).values()
    if kind == "pixels":
        return curves(judge, images, explained, "pixels", 5, {"deletion": "mean", "insertion": "blur"}).values()
    return {"segments": curves, "held out": held_out, "stability": stability}[kind](judge, images, explained).values()


KINDS = ["segments", "pixels", "random", "centre", "held out", "stability", "sensitivity", "localisation"]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_cpu(kind, device, cnn, pictures):
    images = pictures(3)
    expected = scores(cnn, images, kind)
    found = scores(cnn.to(device), images.to(device), kind)
    for name, values in expected.items():
        assert found[name].device.type == device.type
        torch.testing.assert_close(found[name].cpu(), values, equal_nan=True, rtol=1e-3, atol=1e-4)
