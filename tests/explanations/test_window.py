"""Window for deep pictures: used for display and segmenters, never for the model or for eight bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gpulime
from gpulime.explanations.window import bounds, stretched
from gpulime.segments import Felzenszwalb

H = W = 40


def deep(n=2, c=1, peak=4095 / 65535, seed=0):
    """12 bits in 16: a bright square on a dark ground with noise, which a screen shows black."""
    random = torch.Generator().manual_seed(seed)
    images = 0.2 + 0.05 * torch.rand(n, c, H, W, generator=random)
    images[..., 10:25, 10:25] += 0.6
    return images * peak


def uniform(c):
    return torch.rand(2, c, H, W, generator=torch.Generator().manual_seed(1))


def test_a_narrow_deep_picture_gets_its_percentiles():
    images = deep()
    found = stretched(images)
    for image, one in zip(images, found, strict=True):
        values = image.flatten().sort().values
        low, high = values[round(0.02 * 1599)], values[round(0.98 * 1599)]
        torch.testing.assert_close(one, ((image - low) / (high - low)).clamp(0, 1))
    assert (found.amin(), found.amax()) == (0, 1)


@pytest.mark.parametrize(
    "images",
    [
        (uniform(3) * 20).round() / 255,
        ((uniform(3) * 20).round() / 255 - 0.45) / 0.22 * 0.22 + 0.45,
        uniform(3),
        uniform(3) * 0.2,
        torch.full((2, 3, H, W), 0.0123),
        uniform(3) * 4 - 2,
    ],
    ids=["dark", "dark, normalised and back", "wide", "wide enough", "flat", "outside"],
)
def test_other_pictures_stay_as_they_are(images):
    assert stretched(images) is images


def test_each_picture_is_looked_at_alone():
    mixed = torch.cat([uniform(1)[:1], deep(1), torch.full((1, 1, H, W), 0.01)])
    found = stretched(mixed)
    assert torch.equal(found[::2], mixed[::2])
    torch.testing.assert_close(found[1:2], stretched(mixed[1:2]), rtol=0, atol=0)
    low, high = bounds(found)
    assert (low[1], high[1]) == (0, 1)


@pytest.fixture
def seen():
    """A model, and the rows of its calls."""
    rows = []

    def model(images):
        rows.append(images.clone())
        mean = images.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)

    return model, rows


def test_the_model_sees_the_values_and_the_segmenter_the_window(seen):
    model, rows = seen
    pictures = []

    def segmenter(image):
        pictures.append(image)
        return np.arange(H * W).reshape(H, W) // (H * W // 4)

    images = deep()
    before = images.clone()
    explanations = gpulime.Explainer(model, 20, segmenter, activation=None).explain(images)
    assert torch.equal(images, before)
    assert max(float(batch.max()) for batch in rows) <= images.max()
    np.testing.assert_array_equal(np.stack(pictures)[..., 0], stretched(images)[:, 0].numpy())
    torch.testing.assert_close(explanations.images[:, 0], (stretched(images)[:, 0] * 255).round().byte())


def test_a_segmenter_finds_what_is_in_a_deep_picture(seen):
    model, _ = seen
    narrow = gpulime.Explainer(model, 600, Felzenszwalb(scale=100), activation=None).explain(deep())
    assert narrow.counts.min() > 1
    assert len(square := narrow.segments[0, 12:23, 12:23].unique()) == 1
    assert square not in narrow.segments[0, :8].unique()
