"""RISE against a plain loop over masks; its masks are a function of seed, key and row."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models import model, synthetic
from gpulime import GpulimeError
from gpulime.engine.masked import Wanted
from gpulime.evaluate.methods import METHODS, Rise
from gpulime.evaluate.methods.rise import SHIFT_BITS, SmoothMasked
from gpulime.ops.bernoulli import bernoulli

IMAGES = (synthetic(3, 17, 22) - 0.5) / 0.25
LABELS = torch.tensor([[0, 1], [3, 2], [2, 2]])
KEYS = torch.tensor([5, -7, 2**40])


@pytest.fixture
def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 4)
    ).eval()


def smooth_mask(bits, cells, h, w):
    """One mask (h, w) as the paper's code makes it: upsample to (cells + 1) cells, crop at a random shift."""
    shifts = []
    for side, group in zip((h, w), bits[cells**2 :].split(SHIFT_BITS), strict=True):
        cell = -(-side // cells)
        number = sum(2**i * int(bit) for i, bit in enumerate(group))
        shifts.append((number * cell // 2**SHIFT_BITS, (cells + 1) * cell))
    (down, height), (across, width) = shifts
    grid = bits[: cells**2].view(1, 1, cells, cells).float()
    large = F.interpolate(grid, (height, width), mode="bilinear")[0, 0]
    return large[down : down + h, across : across + w]


def rise(model, images, labels, keys, n_masks, cells, seed):
    """Maps of a plain loop over images and masks."""
    maps = torch.zeros(len(images), labels.shape[1], *images.shape[2:])
    for i, image in enumerate(images):
        for row in range(1, 1 + n_masks):
            bits = bernoulli(keys[i], torch.tensor(row), cells**2 + 2 * SHIFT_BITS, seed)
            mask = smooth_mask(bits, cells, *image.shape[1:])
            probabilities = model((image * mask)[None]).softmax(1)[0]
            for j, label in enumerate(labels[i].tolist()):
                maps[i, j] += probabilities[label].detach() * mask / (0.5 * n_masks)
    return maps


@pytest.mark.parametrize(("cells", "n_masks", "batch_size"), [(7, 25, 4), (3, 9, 32), (40, 5, "auto")])
def test_maps_equal_a_plain_loop(cells, n_masks, batch_size, small):
    found = Rise(n_masks, cells, seed=11, batch_size=batch_size)(small, IMAGES, LABELS, KEYS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rise(small, IMAGES, LABELS, KEYS, n_masks, cells, 11), rtol=1e-5, atol=1e-6)


def test_an_image_has_the_same_masks_alone_and_in_any_batch(small):
    method = Rise(20, batch_size=3)
    together = method(small, IMAGES, LABELS, KEYS)
    torch.testing.assert_close(method(small, IMAGES[1:2], LABELS[1:2], KEYS[1:2]), together[1:2])
    same = method(small, IMAGES[:1].expand(2, -1, -1, -1), LABELS[:1].expand(2, -1), KEYS[:2])
    assert (same[0] - same[1]).abs().max() > 1e-3
    assert (Rise(20, seed=1)(small, IMAGES, LABELS, KEYS) - together).abs().max() > 1e-3


def test_masks_are_smooth_half_shown_and_shifted_over_a_whole_cell():
    masked = SmoothMasked(torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64), Wanted())
    smooth = masked.smooth(bernoulli(torch.tensor(0), torch.arange(1, 4001), masked.k, 0))
    assert smooth.min() >= 0
    assert smooth.max() <= 1
    assert (smooth.mean(0) - 0.5).abs().max() < 0.03
    assert (smooth[:, 1:] - smooth[:, :-1]).abs().max() <= 7 / 32 + 1e-6  # 8 cells of 4 pixels hold 7
    one = torch.zeros(1, masked.k, dtype=torch.bool)
    one[0, 24] = True  # the cell in the middle
    peaks = set()
    for shift in range(4):
        bits = one.clone()
        bits[0, 49:65] = torch.tensor([int(bit) for bit in f"{shift * 2**14 + 5:016b}"[::-1]]).bool()
        peaks.add(float((masked.smooth(bits)[0].sum(1) * torch.arange(28)).sum() / masked.smooth(bits).sum()))
    assert sorted(peaks) == pytest.approx([12.5, 13.5, 14.5, 15.5])


def test_the_planted_object_has_the_largest_values():
    class Bright(nn.Module):
        def forward(self, x):
            score = x[:, 0, 4:9, 10:16].mean((1, 2))
            return torch.stack([score, torch.zeros_like(score)], 1)

    image = torch.zeros(1, 3, 21, 28)
    image[:, :, 4:9, 10:16] = 1
    found = Rise(2000, activation=None)(Bright(), image, 0)[0, 0]
    y, x = divmod(int(found.argmax()), 28)
    assert 4 <= y < 9
    assert 10 <= x < 16
    assert found[4:9, 10:16].mean() > 1.2 * found.mean()


def test_bad_settings(small):
    for method, message in [(Rise(0), "n_masks must be at least 1; got 0"), (Rise(5, 0), "cells must be at least 1; got 0")]:
        with pytest.raises(GpulimeError, match=message):
            method(small, IMAGES, LABELS)
    with pytest.raises(GpulimeError, match="softmax makes it 1 for every input; use activation='sigmoid'"):
        Rise(5)(nn.Sequential(nn.Flatten(), nn.Linear(1122, 1)), IMAGES, 0)


def test_resnet_in_channels_last():
    images = synthetic(1, 32, 32)
    assert METHODS["rise"].n_masks == 4000
    found = Rise(4)(model("ResNet-18"), images, 3)
    torch.testing.assert_close(found, rise(model("ResNet-18"), images, torch.tensor([[3]]), torch.tensor([0]), 4, 7, 0))
