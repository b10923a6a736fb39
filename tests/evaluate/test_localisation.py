"""Localisation of maps."""

from __future__ import annotations

import pytest
import torch

from gpulime import Explainer, GpulimeError
from gpulime.evaluate import localisation
from gpulime.segments import Grid

MAP = torch.tensor([[-1.0, 0.0, 2.0, 4.0], [0.0, 1.0, 4.0, 3.0], [0.0, 0.0, 0.0, -5.0]])


def test_by_hand():
    found = localisation(MAP[None], [[2, 0, 4, 1]])  # the last two pixels of the first row
    assert found.pointing.tolist() == [[0.5]]
    torch.testing.assert_close(found.share, torch.tensor([[6 / 14]], dtype=torch.float64))
    torch.testing.assert_close(found.iou, torch.tensor([[2 / 4]], dtype=torch.float64))
    assert localisation(MAP[None], [[2, 0, 4, 1]], threshold=0.75).iou.tolist() == [[1 / 4]]
    assert localisation(MAP[None], [[3, 0, 4, 1]], tolerance=1).pointing.tolist() == [[1]]


def test_boxes_are_masks():
    maps, boxes = torch.randn(4, 2, 9, 7), torch.tensor([[[0, 0, 7, 9], [2, 3, 4, 8]]] * 4)
    masks = torch.zeros(4, 2, 9, 7, dtype=torch.bool)
    masks[:, 0] = True
    masks[:, 1, 3:8, 2:4] = True
    by_box, by_mask = localisation(maps, boxes), localisation(maps, masks)
    for name, values in by_box.values().items():
        torch.testing.assert_close(getattr(by_mask, name), values)
    assert (by_box.pointing[:, 0] == 1).all()
    assert (by_box.share[:, 0] == 1).all()
    one = localisation(maps, masks[:, 1])
    torch.testing.assert_close(one.share[:, 0], localisation(maps[:, 0], masks[:, 1]).share[:, 0])


def test_explanations_have_maps(cnn, pictures):
    explained = Explainer(cnn, n_samples=30, segments=Grid(2, 3), fill=0.25).explain(pictures(2), [[1, 2], [3, 4]])
    found = localisation(explained, [[0, 0, 10, 12]] * 2)
    expected = localisation(explained.heatmaps(), [[0, 0, 10, 12]] * 2)
    torch.testing.assert_close(found.share, expected.share)
    assert torch.equal(found.labels, explained.labels)


def test_maps_without_a_place_are_nan_and_the_rest_goes_on():
    maps = torch.randn(5, 3, 4)
    maps[0, 0, 0], maps[1], maps[2] = torch.nan, 0.3, -maps[2].abs()
    boxes = torch.tensor([[0, 0, 2, 2]] * 3 + [[1, 1, 1, 3]] + [[0, 0, 2, 2]])
    found = localisation(maps, boxes)
    assert found.pointing.isnan()[:, 0].tolist() == [True, True, False, True, False]
    assert found.share.isnan()[:, 0].tolist() == found.iou.isnan()[:, 0].tolist() == [True, True, True, True, False]
    reasons = [found.reason("share", i, 0) for i in range(5)]
    assert reasons == [
        "the map holds NaN or infinite values",
        "the map is constant, the same in all pixels",
        "the map has no positive value",
        "the region is empty",
        None,
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": [[0, 0, 2]]}, r"regions must be .* = 1, 1, 3, 4; got \(1, 3\) torch.int64"),
        ({"regions": torch.ones(1, 4, 3, dtype=torch.bool)}, r"got \(1, 4, 3\)"),
        ({"regions": "box"}, "got str"),
        ({"explained": MAP}, r"maps must be \(n, h, w\) or .*; got \(3, 4\)"),
        ({"explained": "map"}, "got str"),
        ({"threshold": 0}, r"threshold must be a number in \(0, 1\]; got 0"),
        ({"threshold": "half"}, r"threshold must be a number in \(0, 1\]; got 'half'"),
        ({"threshold": None}, r"threshold must be a number in \(0, 1\]; got None"),
        ({"tolerance": -1}, "tolerance must be at least 0 pixels; got -1"),
        ({"tolerance": 1.5}, "tolerance must be a whole number, at least 0 pixels; got 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(GpulimeError, match=message):
        localisation(**{"explained": MAP[None], "regions": [[0, 0, 2, 2]]} | change)
