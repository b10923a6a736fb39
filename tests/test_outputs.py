"""Outputs for given masks, without a fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime import Explainer, GpulimeError
from gpulime.segments import Grid


def explainer(model, **settings):
    return Explainer(model, **{"n_samples": 40, "segments": Grid(2, 3), "fill": 0.25, "batch_size": 7} | settings)


def expected(model, images, masks, labels, maps):
    """The definition: image by image and mask by mask."""
    found = []
    for image, of_image, classes, segments in zip(images, masks, labels, maps, strict=True):
        shown = torch.stack([mask[segments] for mask in of_image])[:, None]
        with torch.no_grad():
            found.append(model(torch.where(shown, image, 0.25)).softmax(-1)[:, classes])
    return torch.stack(found)


@pytest.mark.parametrize("s", [1, 2, 9])
def test_outputs_are_those_of_the_masked_images(s, cnn, pictures):
    images, labels = pictures(5), [[1, 2], [0, 3], [6, 5], [2, 2], [4, 0]]
    masks = torch.rand(5, s, 6) < 0.5
    maps = Grid(2, 3).labels(5, 24, 20, images.device).long()
    actual = explainer(cnn).outputs(images, masks, labels)
    assert actual.shape == (5, s, 2)
    torch.testing.assert_close(actual, expected(cnn, images, masks, labels, maps))


def test_masks_may_be_arrays_and_images_may_have_other_numbers_of_segments(cnn, pictures):
    images = pictures(3)
    maps = torch.stack([torch.arange(480).view(24, 20) * k // 480 for k in (2, 5, 3)])
    masks = torch.rand(3, 8, 5) < 0.5
    actual = explainer(cnn).outputs(images, masks.numpy(), 3, segments=maps)
    torch.testing.assert_close(actual, expected(cnn, images, masks, [[3]] * 3, maps))


def test_many_images_pass_in_pieces(monkeypatch, cnn, pictures):
    images, masks = pictures(5), torch.rand(5, 9, 6) < 0.5
    whole = explainer(cnn).outputs(images, masks, 1)
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 18})
    monkeypatch.setattr("gpulime.images.preparation.AT_ONCE_IMAGES", 3)
    torch.testing.assert_close(explainer(cnn).outputs(images, masks, 1), whole)


def test_deleting_segments_of_an_explanation(cnn, pictures):
    """The curve of a deletion game: the strongest segments go first."""
    images = pictures(2)
    explained = explainer(cnn, n_samples=200).explain(images, labels=4)
    order = explained.coefficients[:, 0].argsort(-1, descending=True)
    ranks = order.argsort(-1)
    masks = ranks[:, None] >= torch.arange(7)[:, None]
    curve = explainer(cnn).outputs(images, masks, 4)[..., 0]
    torch.testing.assert_close(curve[:, 0], explained.predictions[:, 0])
    assert (curve[:, 1] < curve[:, 0]).all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            torch.ones(2, 3, 6),
            r"masks must be \(n, s, k\) bool with n = 2 images, none of them 0; got \(2, 3, 6\) torch.float32",
        ),
        (torch.ones(3, 6, dtype=torch.bool), r"got \(3, 6\) torch.bool"),
        (np.ones((3, 3, 6), bool), r"with n = 2 images, none of them 0; got \(3, 3, 6\)"),
        (torch.ones(2, 3, 5, dtype=torch.bool), r"with k of 6 segments or more; got \(2, 3, 5\)"),
        ("all", "got str"),
        (torch.ones(2, 0, 6, dtype=torch.bool), r"none of them 0; got \(2, 0, 6\)"),
    ],
)
def test_what_makes_no_sense_is_refused(masks, message, cnn, pictures):
    with pytest.raises(GpulimeError, match=message):
        explainer(cnn).outputs(pictures(2), masks, 0)


def test_images_and_labels_must_be_given(cnn):
    masks = torch.ones(1, 2, 6, dtype=torch.bool)
    with pytest.raises(GpulimeError, match="images must be a tensor"):
        explainer(cnn).outputs(None, masks, 0)
    with pytest.raises(GpulimeError, match="labels must be the classes whose outputs are returned; got None"):
        explainer(cnn).outputs(torch.rand(1, 3, 24, 20), masks, None)
