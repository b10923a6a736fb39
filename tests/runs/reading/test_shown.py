"""The picture of an image with any channels and range, and a sentence about its making."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from markup import Page
from PIL import Image
from rows import LABELS, at, explained, run

import gpulime
from gpulime.config import DataConfig
from gpulime.errors import GpulimeError
from gpulime.runs import from_config
from gpulime.runs.reading.pixels import shown


def random():
    return torch.Generator().manual_seed(0)


def bytes_of(*shape):
    return torch.randint(0, 256, shape, generator=random(), dtype=torch.uint8)


@pytest.mark.parametrize("c", [1, 2, 3, 4])
def test_eight_bits_are_shown_as_they_are(c):
    pixels = bytes_of(c, 6, 5) // 20  # dark
    for image in (pixels, pixels / 255):
        found = shown(image)
        expected = pixels[:3] if c >= 3 else pixels[:1].expand(3, -1, -1)
        np.testing.assert_array_equal(found.pixels, expected.permute(1, 2, 0).numpy())
        assert found.how == ""


@pytest.mark.parametrize("c", [1, 3])
def test_deep_values_of_a_small_range_get_a_window(c):
    image = 0.02 + 0.03 * torch.rand(c, 40, 40, generator=random())
    found = shown(image)
    assert (found.pixels.min(), found.pixels.max()) == (0, 255)
    assert 110 < found.pixels.mean() < 145
    assert found.how.startswith("values from 0.020")
    assert found.how.endswith("of 1, the 2nd to the 98th percentile")
    if c == 3:  # one window for all three: hues are kept
        tinted = shown(image * torch.tensor([1.0, 0.5, 0.25])[:, None, None]).pixels
        assert tinted[..., 0].mean() > 2 * tinted[..., 2].mean()


@pytest.mark.parametrize(("bands", "order"), [(None, (0, 1, 2)), ([8, 4, 3], (7, 3, 2)), ([1, 1, 1], (0, 0, 0))])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_of_many_bands_three_are_shown_each_with_its_window(bands, order, dtype):
    image = bytes_of(8, 30, 30) // torch.arange(1, 9, dtype=torch.uint8)[:, None, None]
    found = shown(image if dtype == torch.uint8 else image / 255, bands)
    for channel, band in enumerate(order):
        low, high = np.sort(image[band].flatten().numpy())[[round(0.02 * 899), round(0.98 * 899)]].astype(float)
        expected = ((image[band].numpy() - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(found.pixels[..., channel], expected, atol=0.51)
    numbers = ", ".join(str(band + 1) for band in order)
    assert found.how == f"bands {numbers} of 8, each from its 2nd to its 98th percentile"


def test_an_object_in_another_band_can_be_seen():
    image = torch.full((6, 20, 20), 0.01)
    image[4, 5:15, 5:15] = 0.03
    assert np.ptp(shown(image).pixels) == 0
    picture = shown(image, [5, 2, 1]).pixels
    assert (picture[10, 10, 0], picture[0, 0, 0]) == (255, 0)


def test_bands_that_an_image_lacks_change_nothing():
    pixels = bytes_of(3, 6, 5)
    assert shown(pixels, [4, 3, 2]).how == ""
    np.testing.assert_array_equal(shown(pixels, [4, 3, 2]).pixels, shown(pixels).pixels)


@pytest.mark.parametrize("bands", [[1, 2], [0, 1, 2], [1, 2, 3, 4]])
def test_bands_are_three_numbers_from_1(bands):
    with pytest.raises(GpulimeError, match=r"data.bands must be three numbers from 1, such as \[4, 3, 2\]; got"):
        DataConfig(bands=bands)


def test_the_report_of_a_dataset_says_what_its_pictures_show(tmp_path):
    images = [torch.rand(6, 24, 24, generator=random()) * 0.1] * 2

    def said(bands):
        settings = {"n_samples": 20, "segments": gpulime.segments.Grid(2, 2), "top_labels": 1, "model_id": "m"}
        gpulime.runs.explain(lambda rows: rows.mean((2, 3)), images, tmp_path, bands=bands, **settings)
        return [text for text in Page(tmp_path / "report.html").texts("p", **{"class": "quiet"}) if text.startswith("Shown")]

    assert said([6, 5, 4]) == ["Shown: bands 6, 5, 4 of 6, each from its 2nd to its 98th percentile"] * 2
    assert said(None) == ["Shown: bands 1, 2, 3 of 6, each from its 2nd to its 98th percentile"] * 2  # of the same run


def test_the_report_of_files_shows_deep_gray(tmp_path):
    values = np.random.default_rng(0).integers(500, 4000, LABELS.shape).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    folder = run(tmp_path / "run", explained("deep", **at(str(tmp_path / "deep.png").encode())))
    assert "Shown: values from 0.0" in from_config.report(folder).read_text()
