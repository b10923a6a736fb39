"""One decoder for pictures and arrays: the levels of each mode, and as many channels as the model takes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from gpulime.runs.reading.pixels import ChannelsError, DecodeError, stacked, tensor
from gpulime.runs.reading.transform import Transform

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
@pytest.mark.parametrize("value", [0, 3000, 65535])
def test_deep_gray_keeps_its_levels(mode, value):
    picture = Image.new(mode, (5, 4), value)
    found = tensor(picture)
    assert (found.dtype, tuple(found.shape)) == (torch.float32, (1, 4, 5))
    assert torch.equal(found, torch.full((1, 4, 5), value / 65535))
    assert torch.equal(tensor(picture, 3), found.expand(3, 4, 5))


def test_floats_are_taken_as_they_are_or_refused():
    picture = Image.fromarray(np.array([[0.0, 0.25, 1.0]], np.float32))
    assert tensor(picture).tolist() == [[[0.0, 0.25, 1.0]]]
    for low, high in ((0, 4095), (-1, 0.5)):
        with pytest.raises(DecodeError, match=rf"values from {low} to {high}; they must lie in 0\.\.1"):
            tensor(Image.fromarray(np.array([[low, high]], np.float32)))


MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("channels", "as_mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_eight_bits_become_what_pillow_makes_of_them(mode, channels, as_mode):
    picture = RGB.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
    straight = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))
    expected = np.asarray(picture if (mode, channels) == ("RGBX", 4) else straight.convert(as_mode)).reshape(4, 5, channels)
    found = tensor(picture, channels)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.permute(1, 2, 0), expected)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_palette_with_transparency(as_bytes):
    picture = RGB.convert("P")
    transparency = bytes(range(256)) if as_bytes else picture.getpixel((0, 0))
    expected = np.asarray(picture.convert("RGB"))
    picture.info["transparency"] = transparency
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(tensor(picture).permute(1, 2, 0), expected)
    assert tensor(picture, 4)[3].min() < 255
    assert picture.info["transparency"] == transparency  # it is the user's own


def test_lab_becomes_rgb():
    lab = Image.new("LAB", (3, 2), (255, 128, 128))
    assert (tensor(lab).int() - 255).abs().max() <= 1


def test_gray_stays_gray_by_default():
    assert [len(tensor(RGB.convert(mode))) for mode in ("L", "I", "1", "LA", "RGBA")] == [1, 1, 3, 3, 3]
    assert len(tensor(RGB.convert("LA"), 2)) == 2


@pytest.mark.parametrize(
    ("image", "channels", "message"),
    [
        (RGB, 13, "has 3 channels; the model takes 13"),
        (RGB.convert("L"), 2, "has 1 channel; the model takes 2"),
        (np.zeros((4, 5, 13), np.uint8), 3, r"has 13 channels, as an array \(4, 5, 13\); the model takes 3"),
        (np.zeros((4, 5, 3), np.uint8), 4, "has 3 channels"),
        (np.zeros((3, 64, 64), np.uint8), 3, r"Is that \(c, h, w\)\? It must be \(h, w, c\)"),
    ],
)
def test_channels_that_do_not_fit_are_refused(image, channels, message):
    with pytest.raises(ChannelsError, match=message) as caught:
        tensor(image, channels)
    assert caught.value.kind == "channels"


def test_deep_colour_becomes_gray_as_eight_bits_do():
    deep = np.asarray(RGB).astype(np.uint16) * 257
    gray = tensor(deep, 1)
    assert gray.dtype == torch.float32
    np.testing.assert_allclose(gray[0] * 255, np.asarray(RGB.convert("L")), atol=1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"])
def test_each_channel_is_resized_and_cropped_as_rgb_is(interpolation):
    array = np.random.default_rng(1).integers(80, 170, (31, 47, 3), dtype=np.uint8)  # what overshoots is not cut off
    transform = Transform(20, 16, interpolation)
    rgb = transform(Image.fromarray(array))
    assert np.array_equal(rgb, transform(array))
    many = transform(np.concatenate([array, array, array[:, :, :1]], axis=2))
    np.testing.assert_array_equal(many, np.concatenate([rgb, rgb, rgb[:, :, :1]], axis=2))
    deep = transform(array.astype(np.float32) / 255)
    assert deep.dtype == np.float32
    np.testing.assert_allclose(deep, rgb / 255, atol=2 / 255)


def test_deep_pixels_stay_in_their_range():
    steps = np.indices((32, 32)).sum(0) // 8 % 2
    found = Transform(24, 24, "lanczos")(steps.astype(np.float32))
    assert (found.min(), found.max()) == (0, 1)


def test_a_crop_larger_than_the_picture_is_filled_up_with_black():
    deep = Transform(crop=4)(np.ones((2, 2, 5), np.float32))
    assert deep.shape == (4, 4, 5)
    assert deep.sum() == 2 * 2 * 5


def test_stacked_is_writable():
    assert stacked([RGB]).flags.writeable
