"""Fills of hidden segments, for any number of channels."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from gpulime.errors import GpulimeError
from gpulime.images import fills

N, C, H, W, K = 3, 3, 9, 7, 5


def fill(spec, images, unit=1.0):
    n, _, h, w = images.shape
    labels = torch.randint(0, K, (n, h, w), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    return fills.fill(fills.resolve(spec), images, labels, K, unit)


@pytest.mark.parametrize("c", [1, 3, 5])
@pytest.mark.parametrize("spec", [*fills.FILLS, 0.25, [0.5], torch.rand(1, 1, H, W).expand(N, -1, H, W)])
def test_any_number_of_channels(spec, c):
    images = torch.rand(N, c, H, W)
    if isinstance(spec, torch.Tensor):
        spec = spec.expand(N, c, H, W)
    filled = fill(spec, images)
    assert (filled.shape, filled.dtype) == (images.shape, images.dtype)
    assert filled.isfinite().all()


@pytest.mark.parametrize(
    ("spec", "unit", "expected"),
    [
        (0.25, 1.0, torch.full((N, C, H, W), 0.25)),
        (51, 255.0, torch.full((N, C, H, W), 0.2)),
        ([0.1, 0.2, 0.3], 1.0, torch.tensor([0.1, 0.2, 0.3])[:, None, None].expand(N, C, H, W)),
        ((255, 0, 51), 255.0, torch.tensor([1.0, 0.0, 0.2])[:, None, None].expand(N, C, H, W)),
        (torch.arange(C * H * W).view(C, H, W), 1.0, torch.arange(C * H * W).float().view(C, H, W).expand(N, C, H, W)),
        (torch.arange(N * C * H * W).view(N, C, H, W), 2.0, torch.arange(N * C * H * W).view(N, C, H, W) / 2),
    ],
    ids=["number", "number of uint8", "colour", "colour of uint8", "image", "images"],
)
def test_numbers_are_in_the_units_of_the_images(spec, unit, expected):
    torch.testing.assert_close(fill(spec, torch.rand(N, C, H, W), unit), expected)


def test_mean_is_that_of_each_segment_and_channel():
    images = torch.arange(16.0).view(1, 2, 2, 4)
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 2]]], dtype=torch.int32)
    expected = torch.tensor([[2.5, 2.5, 11 / 3, 11 / 3], [2.5, 2.5, 11 / 3, 7]])
    torch.testing.assert_close(fills.fill("mean", images, labels, 4)[0], torch.stack([expected, expected + 8]))


def test_mean_of_a_flat_segment_is_its_colour_exactly():
    labels = torch.arange(6, dtype=torch.int32).view(1, 2, 3).repeat_interleave(50, 1).repeat_interleave(50, 2)
    images = torch.rand(1, 3, 6).gather(2, labels.view(1, 1, -1).long().expand(1, 3, -1)).view(1, 3, 100, 150)
    assert torch.equal(fills.segment_means(images, labels, 6), images)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 255.0, 1e30])
def test_a_mean_does_not_depend_on_the_order_of_its_pixels(scale):
    """Atomic additions of a GPU come in any order, and must give the same bits each time."""
    images, labels = torch.randn(2, 3, 63, 65, dtype=torch.float64) * scale, torch.randint(0, 7, (2, 63, 65)).int()
    order = torch.randperm(63 * 65)
    shuffled = fills.segment_means(
        images.flatten(2)[..., order].view_as(images), labels.flatten(1)[:, order].view_as(labels), 7
    )
    means = fills.segment_means(images, labels, 7)
    assert torch.equal(shuffled, means.flatten(2)[..., order].view_as(means))
    own = labels[:, None].expand_as(images) == 3
    expected = (images * own).sum((2, 3)) / own.sum((2, 3))
    torch.testing.assert_close(means[0, :, labels[0] == 3].mean(1), expected[0], rtol=1e-11, atol=1e-14 * scale)
    assert torch.equal(fills.segment_means(images[1:], labels[1:], 7), means[1:])


def test_the_host_waits_for_no_fill(unread):
    images, labels = torch.rand(2, 3, 20, 24), torch.randint(0, 7, (2, 20, 24)).int()
    specs = [fills.resolve(spec) for spec in ("mean", "blur", [0.1, 0.2, 0.3])]
    with unread:
        filled = [fills.fill(spec, images, labels, 7) for spec in specs]
    assert all(found.isfinite().all() for found in filled)


def test_means_of_black_images_and_of_values_next_to_nothing():
    labels = torch.zeros(2, 4, 4, dtype=torch.int32)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        images = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 2.0**-14)]).to(dtype)
        assert torch.equal(fills.segment_means(images, labels, 1), images)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 9), (63, 65), (24, 20)])
def test_blur_keeps_colours_and_loses_shapes(h, w):
    flat = torch.full((2, 3, h, w), 0.25)
    torch.testing.assert_close(fills.blur(flat), flat)
    noise = torch.rand(2, 3, h, w)
    blurred = fills.blur(noise)
    assert blurred.shape == noise.shape
    assert h * w < 10 or blurred.var() < noise.var() / 3
    assert torch.equal(fills.blur(noise[1:]), blurred[1:])


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 9), (63, 65), (24, 20)])
def test_blur_is_torchvisions(h, w):
    images = torch.rand(2, 5, h, w, dtype=torch.float64)
    sigma = max(h, w) / 20
    sizes = [2 * min(int(3 * sigma + 0.5), side - 1) + 1 for side in (w, h)]
    expected = gaussian_blur(images, sizes, [sigma, sigma])
    torch.testing.assert_close(fills.blur(images), expected, rtol=0, atol=1e-6)  # its sigma is a float32
    torch.testing.assert_close(fills.blur(images.float()), expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", [*fills.FILLS, 0.25, [0.1, 0.2, 0.3]])
def test_no_fill_waits_for_the_device(spec, unread):
    resolved, images = fills.resolve(spec), torch.rand(N, C, H, W)
    labels = torch.zeros(N, H, W, dtype=torch.int32)
    with unread:
        filled = fills.fill(resolved, images, labels, K)
    assert filled.shape == images.shape


@pytest.mark.parametrize(
    "waits",
    [
        lambda labels: labels.max().item(),
        lambda labels: int(labels.max()),
        lambda labels: labels.nonzero(),
        lambda labels: labels[labels > 0],
        lambda labels: labels.unique(),
        lambda labels: bool((labels > 0).all()),
        lambda labels: torch.repeat_interleave(labels.flatten()),
    ],
)
def test_what_waits_is_noticed(waits, unread):
    with unread, pytest.raises(AssertionError, match="waits for the device"):
        waits(torch.ones(1, 2, 3, dtype=torch.int32))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("meen", r"fill must be one of 'mean', 'blur', .* got 'meen' \(did you mean 'mean'\?\)"),
        (None, "fill must be 'mean' or 'blur', a number, .* got None"),
        ([[0.1, 0.2]], r"images \(n, c, h, w\); got \[\[0.1, 0.2\]\]"),
        ([], r"got \[\]"),
        ([0.1, "x"], "got .0.1, 'x'"),
        (float("nan"), "fill must be finite"),
        ([0.1, float("inf")], "fill must be finite"),
    ],
)
def test_what_is_no_fill(spec, message):
    with pytest.raises(GpulimeError, match=message):
        fills.resolve(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([0.1, 0.2], "fill must have one entry per channel, c = 3; got 2"),
        (torch.zeros(C, H, W + 1), r"fill must be \(n, c, h, w\) = \(3, 3, 9, 7\); got \(3, 9, 8\)"),
        (torch.zeros(N + 1, C, H, W), r"= \(3, 3, 9, 7\); got \(4, 3, 9, 7\)"),
        (torch.zeros(N, 1, H, W), r"= \(3, 3, 9, 7\); got \(3, 1, 9, 7\)"),
        (torch.zeros(5, 1, 1), r"= \(3, 3, 9, 7\); got \(5, 1, 1\)"),
        (torch.zeros(2, C, 1, 1), r"= \(3, 3, 9, 7\); got \(2, 3, 1, 1\)"),
    ],
)
def test_fills_that_do_not_fit_the_images(spec, message):
    with pytest.raises(GpulimeError, match=message):
        fill(spec, torch.rand(N, C, H, W))


@pytest.mark.parametrize(("fill", "unit", "said"), [(128, 1, True), (0.5, 1, False), (128, 255, False), ("mean", 1, False)])
def test_a_fill_in_other_units_than_the_images_is_noticed(fill, unit, said):
    message = fills.outside(fills.resolve(fill), unit)
    assert (message is not None) == said
    if said:
        assert message.startswith("fill runs from 128 to 128, and the images from 0 to 1")


def test_a_channel_of_large_values_costs_the_others_no_digits():
    images = torch.rand(2, 3, 16, 16) * torch.tensor([1.0, 1e-3, 1e12])[:, None, None]
    labels = torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1).expand(2, 16, 16)
    means = fills.segment_means(images, labels, 16)
    exact = images.double().view(2, 3, 4, 4, 4, 4).mean((3, 5)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(means.double(), exact, rtol=1e-7, atol=0)
