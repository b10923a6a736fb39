"""rgb2lab: equal to scikit-image's up to the last bits, which differ between processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import color, data

from gpulime.errors import GpulimeError
from gpulime.ops.lab import WHITE, XYZ_FROM_RGB, rgb2lab, rgb2lab_reference


def every_level():
    """(1, 3, 64, 12) float32: the 256 values of 8 bits in each channel, alone and together."""
    levels = (torch.arange(256) / 255).view(1, 1, 64, 4)
    alone = [torch.zeros(1, 3, 64, 4).index_copy_(1, torch.tensor([c]), levels) for c in range(2)]
    return torch.cat([*alone, levels.expand(1, 3, 64, 4)], 3)


def photograph():
    return torch.from_numpy(data.astronaut()[::8, ::8] / np.float32(255)).permute(2, 0, 1)[None]


IMAGES = {"every level": every_level, "photograph": photograph, "random": lambda: torch.rand(3, 3, 63, 65)}


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_is_what_scikit_image_gives(make, device):
    images = make()
    expected = torch.from_numpy(color.rgb2lab(images.numpy(), channel_axis=1))
    found = rgb2lab(images.to(device)).cpu()
    assert (found.shape, found.dtype) == (images.shape, torch.float32)
    # 500 times the difference of two numbers up to 1.04, each of which may be off by a bit or two: 2**-23
    assert (found - expected).abs().max() <= 500 * 2**-22
    assert (found - expected).abs().mean() < 2e-5


def test_each_value_is_the_nearest_float32_of_its_step():
    """The same steps one pixel at a time, in NumPy: float64 for what scikit-image leaves to a library, then rounded."""
    f = np.float32

    def linear(value):
        return f(float((value + f(0.055)) / f(1.055)) ** float(f(2.4))) if value > f(0.04045) else value / f(12.92)

    def slow(*pixel):
        light, responses = [linear(value) for value in pixel], []
        for row, white in zip(XYZ_FROM_RGB, WHITE, strict=True):
            total = light[0] * f(row[0])
            for value, weight in zip(light[1:], row[1:], strict=True):
                total = f(float(value) * float(f(weight)) + float(total))
            total /= f(white)
            responses.append(f(np.cbrt(float(total))) if total > f(0.008856) else f(7.787) * total + f(16 / 116))
        x, y, z = responses
        return f(116) * y - f(16), f(500) * (x - y), f(200) * (y - z)

    images = torch.rand(1, 3, 9, 7)
    found = rgb2lab_reference(images)[0].permute(1, 2, 0).reshape(-1, 3)
    expected = np.array([slow(*pixel) for pixel in images[0].permute(1, 2, 0).reshape(-1, 3).numpy()])
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("make", [*IMAGES.values(), lambda: torch.rand(1, 3, 1, 1)], ids=[*IMAGES, "1x1"])
def test_the_kernel_equals_its_reference(make, host):
    images = make()
    assert torch.equal(rgb2lab(images), rgb2lab_reference(images))
    strided = images[:1].expand(2, -1, -1, -1).permute(0, 1, 3, 2)
    assert torch.equal(rgb2lab(strided), rgb2lab_reference(strided))


def test_the_kernel_under_sanitizers(sanitized):
    images = torch.rand(2, 3, 17, 19)
    assert torch.equal(rgb2lab(images), rgb2lab_reference(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(1, 4, 2, 2), r"images must be \(n, 3, h, w\); got \(1, 4, 2, 2\)"),
        (torch.rand(3, 2, 2), r"images must be \(n, 3, h, w\); got \(3, 2, 2\)"),
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "images must be float32; got torch.uint8"),
    ],
)
def test_images_that_do_not_fit(images, message):
    with pytest.raises(GpulimeError, match=message):
        rgb2lab(images)
