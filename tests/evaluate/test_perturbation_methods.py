"""Occlusion and KernelSHAP against plain loops."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.models import synthetic
from gpulime.evaluate.methods import KernelShap, Occlusion

IMAGES = (synthetic(2, 12, 14) - 0.5) / 0.25
LABELS = torch.tensor([[0, 1], [3, 2]])


@pytest.fixture
def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(720, 4)).eval()


@pytest.mark.parametrize("activation", ["softmax", None])
def test_occlusion(activation, small):
    pytest.importorskip("captum")
    found = Occlusion(windows=3, activation=activation)(small, IMAGES, LABELS)

    @torch.no_grad()
    def output(image):
        scores = small(image[None])[0]
        return scores.softmax(0) if activation else scores

    for i, image in enumerate(IMAGES):
        total, times = torch.zeros(4, 12, 14), torch.zeros(12, 14)
        for y, x in product(range(0, 10, 2), range(0, 12, 2)):  # windows of 4 x 4
            hidden = image.clone()
            hidden[:, y : y + 4, x : x + 4] = 0
            total[:, y : y + 4, x : x + 4] += (output(image) - output(hidden))[:, None, None]
            times[y : y + 4, x : x + 4] += 1
        torch.testing.assert_close(found[i], (total / times)[LABELS[i]], rtol=1e-4, atol=1e-6)


SEGMENTS = torch.arange(6).view(2, 3).repeat_interleave(6, 0).repeat_interleave(5, 1)[:, :14].expand(2, -1, -1)


@torch.no_grad()
def shapley(model, image, label):
    """Shapley values of the six segments by their definition."""
    worth = {}
    for shown in product([0, 1], repeat=6):
        mask = torch.tensor(shown)[SEGMENTS[0]]
        worth[shown] = float(model((image * mask)[None]).softmax(1)[0, label])
    values = np.zeros(6)
    for shown, output in worth.items():
        for part in range(6):
            others = sum(shown) - shown[part]
            sign = 1 if shown[part] else -1
            values[part] += sign * output / (6 * comb(5, others))
    return values


def test_kernelshap_of_all_masks_are_shapley_values(small):
    found = KernelShap(n_samples=64, segments=SEGMENTS)(small, IMAGES, LABELS)
    for i, j in product(range(2), range(2)):
        values = torch.tensor(shapley(small, IMAGES[i], int(LABELS[i, j]))).float()
        torch.testing.assert_close(found[i, j], values[SEGMENTS[i]], rtol=1e-4, atol=1e-6)


def test_kernelshap_with_a_grid_adds_up(small):
    found = KernelShap(n_samples=300, segments={"grid": {"rows": 6}})(small, IMAGES, LABELS)
    assert len(found[0, 0].unique()) == 42
    with torch.no_grad():
        change = small(IMAGES).softmax(1) - small(torch.zeros_like(IMAGES)).softmax(1)
    cells = found.unfold(2, 2, 2).unfold(3, 2, 2)[..., 0, 0]
    torch.testing.assert_close(cells.sum((2, 3)), change.gather(1, LABELS), rtol=1e-4, atol=1e-5)
