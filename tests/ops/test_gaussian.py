"""Gaussian smoothing: SciPy's, bit for bit."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from gpulime.ops.gaussian import smoothed


@pytest.mark.parametrize("shape", [(2, 3, 63, 65), (1, 1, 1, 1), (1, 5, 1, 50), (3, 2, 4, 3)], ids=str)
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1, 2.5, 9])
def test_is_what_scipy_gives(sigma, shape, device):
    images = torch.rand(shape)
    found = smoothed(images.to(device), sigma).cpu()
    expected = ndimage.gaussian_filter(images.numpy(), [0, 0, sigma, sigma], mode="reflect")
    assert torch.equal(found, torch.from_numpy(expected))


def test_no_sigma_leaves_images_as_they_are():
    images = torch.rand(1, 3, 5, 4)
    assert smoothed(images, 0.0) is images
