"""Similarities of maps: scipy's and scikit-image's numbers, one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from skimage.feature import hog
from skimage.metrics import structural_similarity

from gpulime.errors import GpulimeError
from gpulime.evaluate.similarity import average_ranks, similarities


def scaled(one):
    return (one - one.min()) / (one.max() - one.min())


@pytest.mark.parametrize(("h", "w", "cell"), [(64, 49, 16), (33, 70, 11), (17, 31, 5)])
def test_similarities_are_those_of_scipy_and_scikit_image(h, w, cell, device):
    maps, others = torch.randn(2, 3, h, w), torch.randn(2, 3, h, w)
    others[0] += maps[0]
    maps[1, 2] = (maps[1, 2] > 0).float()  # many equal values
    found = similarities(maps.to(device), others.to(device))
    for i in range(2):
        for j in range(3):
            a, b = (one[i, j].double().numpy() for one in (maps, others))
            hogs = [hog(scaled(one), pixels_per_cell=(cell, cell), cells_per_block=(3, 3)) for one in (a, b)]
            expected = {
                "spearman_abs": spearmanr(abs(a).ravel(), abs(b).ravel())[0],
                "spearman": spearmanr(a.ravel(), b.ravel())[0],
                "ssim": structural_similarity(scaled(a), scaled(b), gaussian_weights=True, data_range=1.0),
                "hog": spearmanr(*hogs)[0],
            }
            assert {name: float(values[i, j]) for name, values in found.items()} == pytest.approx(expected, abs=1e-9)


def test_equal_values_share_a_rank():
    values = torch.randint(0, 4, (5, 3, 20)).float()
    np.testing.assert_array_equal(average_ranks(values) + 1, rankdata(values.numpy(), axis=-1))


def test_a_map_is_like_itself_and_unlike_its_negative():
    maps = torch.randn(1, 1, 32, 32)
    assert {float(one) for one in similarities(maps, 3 * maps + 1).values()} - {1.0} != set()  # absolute values differ
    same = similarities(maps, maps)
    assert all(float(one) == pytest.approx(1, abs=1e-12) for one in same.values())
    negative = similarities(maps, -maps)
    assert float(negative["spearman"]) == pytest.approx(-1)
    assert float(negative["spearman_abs"]) == pytest.approx(1)


def test_constant_and_infinite_maps_have_no_similarity():
    maps = torch.randn(4, 16, 16)
    others = maps.clone()
    others[1], maps[2], maps[3, 0, 0] = 1.0, 0.0, torch.nan
    assert all(one.isnan().tolist() == [False, True, True, True] for one in similarities(maps, others).values())
    small = similarities(maps[0, :10], others[0, :10])
    assert small["ssim"].isnan()
    assert float(small["hog"]) == pytest.approx(1)


def test_shapes_must_be_equal():
    with pytest.raises(GpulimeError, match=r"got \(2, 8, 8\) and \(2, 8, 9\)"):
        similarities(torch.rand(2, 8, 8), torch.rand(2, 8, 9))
