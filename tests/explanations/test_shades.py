"""Colours of explanations: any image becomes a picture, any ids a map, and the hue shows the sign."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor

from gpulime.explanations import shades
from gpulime.explanations.image import ImageExplanation

IDS = (1, 4, 9, 40)  # from 1, with gaps
WEIGHTS = {7: [(9, 0.5), (1, -0.25), (4, 0.125), (40, 0.0)], 3: [(1, 0.3), (40, -0.1)]}
RANGES = {"uint8": 255, "float32": 1.0, "float64": 255.0, "uint16": 65535}


def single(dtype="uint8", c=3, h=16, w=12, segments_dtype=np.int64):
    """As `gpulime.lime_image` makes one, in quarters."""
    image = (np.random.default_rng(0).random((h, w, c)) * RANGES[dtype]).astype(dtype)
    segments = np.array(IDS, segments_dtype).reshape(2, 2).repeat(h // 2, 0).repeat(w // 2, 1)
    one = ImageExplanation(image, segments)
    one.local_exp, one.top_labels = dict(WEIGHTS), [7, 3]
    one.predictions, one.scores = {7: np.float64(0.75), 3: 0.25}, {7: 0.5, 3: float("nan")}
    return one


RAMP = np.arange(0, 256, 51).reshape(2, 3, 1).repeat(3, 2)


@pytest.mark.parametrize(
    "image",
    [
        RAMP.astype(np.uint8),
        RAMP.astype(np.int64),
        RAMP.astype(np.float32),
        RAMP / 255,
        (RAMP / 255).astype(np.float32) * (1 + 1e-6) - 1e-7,
        RAMP.astype(np.uint16) * 257,
        4 * RAMP / 255 - 2,
        RAMP[..., :1] / 255,
        RAMP[..., 0],
        RAMP[..., :2],
        np.concatenate([RAMP, 0 * RAMP], 2)[..., :4],
        np.concatenate([RAMP, 0 * RAMP], 2)[..., :5],
    ],
    ids=["uint8", "int64", "float255", "unit", "rounding", "uint16", "normalised", "gray", "flat", "two", "rgba", "five"],
)
def test_any_image_becomes_a_picture(image):
    picture = shades.rgb(image)
    assert (picture.dtype, picture.shape) == (np.uint8, (2, 3, 3))
    np.testing.assert_array_equal(picture, RAMP)


def test_bands_and_deep_images_of_a_small_range_are_shown_in_a_window():
    """Twelve bits in sixteen, and reflectances of five bands, would be a black square."""
    deep = np.random.default_rng(0).random((20, 30, 1)) / 16
    bands = np.concatenate([deep, 0.5 + deep, deep / 2, 0 * deep, 0 * deep], 2)
    for image, c in ((deep, 1), (bands, 3)):
        low, high = (np.percentile(image[..., :c], q, axis=(0, 1), method="nearest") for q in (2, 98))
        expected = np.broadcast_to(((image[..., :c] - low) / (high - low)).clip(0, 1), (20, 30, 3))
        np.testing.assert_allclose(shades.rgb(image), 255 * expected, atol=0.51)


def test_a_dark_image_stays_dark_and_odd_values_do_no_harm():
    assert shades.rgb(np.full((2, 2, 3), 3, np.uint8)).max() == 3
    assert shades.rgb(np.full((2, 2, 3), -5.0)).max() == 0
    assert shades.rgb(np.array([[[np.nan, np.inf, 0.5]]])).tolist() == [[[0, 0, 128]]]
    assert shades.rgb(np.ones((2, 2), bool)).min() == 255


def test_heat_finds_ids_of_any_kind():
    segments = np.array([[40, 1], [9, -3]])
    weights = [(9, 0.5), (1, -0.25), (40, float("nan")), (777, 9.0)]
    np.testing.assert_array_equal(shades.heat(segments, weights), [[0, -0.25], [0.5, 0]])


def test_the_strongest_come_first_without_zeros_and_what_is_not_finite():
    weights = [(1, 0.1), (2, -0.4), (3, 0.0), (4, float("nan")), (5, 0.2)]
    assert shades.strongest(weights, 2) == [(2, -0.4), (5, 0.2)]
    assert shades.strongest(weights, 9) == [(2, -0.4), (5, 0.2), (1, 0.1)]
    assert shades.strongest(weights, 0) == []
    assert shades.scale(weights) == 0.4
    assert shades.scale([(3, 0.0)]) == 1.0


def test_rounding_noise_is_no_coefficient():
    noise = [(1, 4e-13), (4, -1e-16)]
    assert shades.strongest(noise, 9) == []
    assert shades.scale(noise) == 1.0
    assert not shades.heat(np.array([[1, 4]]), noise).any()
    assert shades.strongest([(1, 1e-12)], 9) == [(1, 1e-12)]


def test_blend_has_the_hue_of_the_sign_and_the_depth_of_the_size():
    segments = np.array([[0, 1, 2, 3]]).repeat(6, 0).repeat(6, 1)
    blended = shades.blend(shades.blank(segments.shape), segments, np.array([0.2, -0.2, 0.1, 0.0])[segments], 0.2).astype(int)
    full, against, weak, none = (blended[2, column] for column in (2, 8, 14, 20))
    ground = 138 + shades.LIGHTER * (255 - 138)
    for shown, colour in ((full, shades.FOR), (against, shades.AGAINST)):
        expected = ground + shades.DEEPEST * (np.array(ImageColor.getrgb(colour)) - ground)
        np.testing.assert_allclose(shown, expected, atol=1)
    np.testing.assert_allclose(weak - ground, (full - ground) / 2, atol=1)
    np.testing.assert_allclose(none, ground, atol=1)
    assert (blended[2, 5] > blended[2, 4]).all()  # the outline


@pytest.mark.parametrize(("h", "w", "expected"), [(8, 4, (16, 8)), (20, 10, (20, 10)), (64, 16, (32, 8)), (1, 640, (1, 32))])
def test_resized_brings_the_longer_side_between_bounds(h, w, expected):
    picture, labels = shades.resized([np.zeros((h, w, 3), np.uint8), np.arange(h * w).reshape(h, w)], 16, 32)
    assert picture.shape == (*expected, 3)
    assert labels.shape == expected


def test_a_coefficient_has_three_figures_of_its_scale():
    assert shades.signed(-0.0303, 0.046) == "\N{MINUS SIGN}0.0303"
    assert shades.signed(0.5, 0.5) == "+0.500"
    assert shades.signed(1234.5, 2000.0) == "+1234"


ERRORS = {7: {9: 0.1, 1: 0.2, 4: 0.0, 40: 1.0}, 3: {1: 0.3 / 1.97, 40: 0.1}}  # of segment 9 the sign is certain, of 1 it is not


def with_errors(**changes):
    one = single(**changes)
    one.standard_errors = ERRORS
    return one


def test_the_sign_is_not_certain_if_the_interval_holds_0():
    one = with_errors()
    assert shades.unsure(WEIGHTS[7], shades.errors(one, 7)) == [1]  # 40 has no colour
    assert shades.unsure(WEIGHTS[3], shades.errors(one, 3)) == [40]
    one.standard_errors = {7: ERRORS[7] | {9: float("nan")}}
    assert shades.errors(one, 7) == {}
    assert shades.errors(one, 3) == {}
    assert shades.unsure(WEIGHTS[7], {}) == []


@pytest.mark.parametrize("draw", [lambda *how: shades.blend(np.full((64, 48, 3), 128, np.uint8), *how), shades.transparent])
def test_uncertain_segments_are_hatched_and_faded(draw):
    segments = single(h=64, w=48).segments
    how = segments, shades.heat(segments, WEIGHTS[7]), 0.5
    plain, hatched = draw(*how).astype(int), draw(*how, [1]).astype(int)
    changed = (plain != hatched).any(-1)
    inside = (segments == 1) & ~shades.outlines(segments)
    assert not changed[segments != 1].any()
    assert changed[inside].all()
    white, dark = (lines & inside for lines in shades.stripes(segments.shape))
    rest = inside & ~white & ~dark
    assert 0.1 < white[inside].mean() < 0.3
    assert hatched[white, :3].mean() > hatched[rest, :3].mean() + 20
    assert hatched[dark, :3].mean() < hatched[rest, :3].mean() - 20
    if plain.shape[-1] == 4:
        np.testing.assert_allclose(hatched[rest, 3], plain[rest, 3] * shades.FADED, atol=1)
    else:
        assert np.ptp(hatched[rest][0]) < np.ptp(plain[rest][0]) * 0.6
