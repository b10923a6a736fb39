"""Segments that are never hidden: their pixels are always shown, and they are no part of the fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime import Explainer, Explanations
from gpulime.engine.masks import Bernoulli
from gpulime.engine.surrogate import fit
from gpulime.errors import GpulimeError
from gpulime.images.batch import Batch
from gpulime.images.segments import from_labels
from gpulime.segments import Grid

S, H, W = 40, 24, 20


@pytest.fixture
def maps():
    """Three label maps (3, 24, 20) with 5, 3 and 4 parts; -1 and 255 are kept pixels, absent from the second map."""
    maps = torch.arange(H * W).view(H, W) * 6 // (H * W)
    bordered = maps.clone()
    bordered[:3], bordered[-3:] = -1, 255
    return torch.stack([maps.where(maps != 2, 255), maps // 2, bordered.where(bordered != 3, 1000)])


def explain(model, images, maps, keep, **settings):
    settings = {"n_samples": S, "segments": Grid(2, 2), "batch_size": 16, "top_labels": 3} | settings
    return Explainer(model, **settings).explain(images, segments=maps, keep=keep)


def by_hand(model, image, parts, labels, fill=0.5):
    """Coefficients (l, k) from rows in which pixels of part -1 are shown by every mask."""
    k = int(parts.max()) + 1
    masks = Bernoulli(0, S)(torch.zeros(S, dtype=torch.int64), torch.arange(S), torch.tensor(k), k)
    shown = masks[:, parts.clamp(min=0)] | (parts < 0)
    rows = torch.where(shown[:, None], image, torch.tensor(fill))
    with torch.no_grad():
        outputs = model(rows).softmax(1)[:, labels]
    return fit(masks[None], outputs[None]).coefficients[0]


def assert_near(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    largest = float(expected.abs().max())
    assert largest > 1e-3
    assert float((actual - expected).abs().max()) <= tolerance * largest


def test_is_masking_by_hand_with_the_kept_pixels_restored(cnn, pictures, maps, device):
    images = pictures(3)
    actual = explain(cnn.to(device), images.to(device), maps.to(device), (-1, 255), fill=0.5).cpu()
    assert actual.counts.tolist() == [5, 3, 6]
    assert actual.segment_ids.tolist() == [[0, 1, 3, 4, 5, -1, -1], [0, 1, 2, -1, -1, -1, -1], [0, 1, 2, 4, 5, 1000, -1]]
    for i, k in enumerate([5, 3, 6]):
        kept = (maps[i] == -1) | (maps[i] == 255)
        parts = actual.segments[i].where(~kept, -1)
        assert torch.equal(actual.segment_ids[i][parts[~kept]], maps[i][~kept])
        assert torch.equal(actual.segments[i] == k, kept)
        expected = by_hand(cnn.cpu(), images[i], parts, actual.labels[i])
        assert_near(actual.coefficients[i, :, :k], expected)
        assert not actual.coefficients[i, :, k:].any()
        assert not actual.heatmaps()[i, :, kept].any()
        assert actual.heatmaps()[i, :, ~kept].all()


@pytest.mark.parametrize("fill", ["mean", "blur"])
@pytest.mark.parametrize("sampler", ["bernoulli", "lime"])
def test_kept_pixels_are_those_of_the_image_in_each_row(fill, sampler, pictures, maps, counted):
    images, kept = pictures(1), (maps[:1] == -1) | (maps[:1] == 255)
    seen = []

    def model(rows):
        seen.append(rows.clone())
        return rows.mean((2, 3))

    explain(model, images, maps[:1], [255, -1], fill=fill, sampler=sampler)
    rows = torch.cat(seen)
    assert torch.equal(rows[:, :, kept[0]], images[:, :, kept[0]].expand(len(rows), -1, -1))
    assert (rows[1:] != images).any()


@pytest.mark.parametrize("keep", [0, np.int64(0), [0], (0,), {0}, torch.tensor(0), np.array([0])])
def test_one_id_or_several(keep, cnn, pictures):
    images, maps = pictures(2), (torch.arange(H * W) * 4 // (H * W)).view(1, H, W).expand(2, H, W)
    explanations = explain(cnn, images, maps, keep)
    assert explanations.counts.tolist() == [3, 3]
    assert explanations.segment_ids[:, :3].tolist() == [[1, 2, 3]] * 2


@pytest.mark.parametrize("keep", [None, (), [], 17, (99, -5)])
def test_without_such_pixels_nothing_changes(keep, cnn, pictures, maps):
    images = pictures(3)
    actual, expected = explain(cnn, images, maps, keep), explain(cnn, images, maps, None)
    assert torch.equal(actual.segments, expected.segments)
    assert torch.equal(actual.counts, expected.counts)
    k = expected.coefficients.shape[2]
    assert_near(actual.coefficients[..., :k], expected.coefficients, 1e-12)


def test_segments_of_a_segmenter_are_kept_too(cnn, pictures):
    def segmenter(image):
        labels = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2]) % 4
        return np.where(labels == 3, -1, labels)

    assert explain(cnn, pictures(2), None, -1, segments=segmenter).counts.tolist() == [3, 3]
    assert explain(cnn, pictures(2), None, 0, segments=Grid(2, 3)).counts.tolist() == [5, 5]


def test_flights_and_a_stream(monkeypatch, cnn, pictures, maps):
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": S})
    images = pictures(3)
    expected = explain(cnn, images, maps, (-1, 255))
    explainer = Explainer(cnn, S, Grid(2, 2), batch_size=16, top_labels=3)
    batches = [Batch(images[:2], segments=maps[:2], keep=(-1, 255)), Batch(images[2:], segments=maps[2:], keep=(-1, 255))]
    actual = Explanations.cat(list(explainer.stream(batches)))
    assert_near(actual.coefficients, expected.coefficients)
    assert torch.equal(actual.heatmaps() == 0, expected.heatmaps() == 0)


def test_one_id_in_a_batch(cnn, pictures, maps):
    [piece] = Explainer(cnn, S, Grid(2, 2)).stream([Batch(pictures(1), segments=maps[:1], keep=0)])
    assert piece.counts.tolist() == [5]


def test_the_host_reads_nothing_between_a_flights_first_batch_and_its_fit(unread, cnn, pictures, maps):
    explainer = Explainer(cnn, S, Grid(2, 2), batch_size=16, top_labels=3)
    explainer.explain(pictures(1))  # it looks once whether the outputs are probabilities
    queue, flights = explainer.queue(), list(explainer.prepare(Batch(pictures(3), segments=maps, keep=(-1, 255))))
    with unread:
        pieces = [piece for flight in flights for piece in queue.put(flight)] + list(queue.finish())
    expected = explain(cnn, pictures(3), maps, (-1, 255))
    assert_near(Explanations.cat(pieces).coefficients, expected.coefficients)


def test_the_number_of_samples_is_held_against_the_parts_alone(cnn, pictures, maps):
    images = pictures(3)
    explain(cnn, images, maps, (-1, 255), n_samples=7, alpha=0)  # 6 parts at most
    with pytest.raises(GpulimeError, match="n_samples = 6 cannot fit k = 6 segments"):
        explain(cnn, images, maps, (-1, 255), n_samples=6, alpha=0)


def test_one_image_in_limes_terms(cnn, pictures, maps):
    images = pictures(3)
    explanations = explain(cnn, images, maps, (-1, 255))
    for i, one in enumerate(explanations):
        kept = ((maps[i] == -1) | (maps[i] == 255)).numpy()
        assert np.array_equal(one.segments, maps[i].masked_fill(torch.from_numpy(kept), -1).numpy())
        label = one.top_labels[0]
        assert {segment for segment, _ in one.local_exp[label]} == set(maps[i].numpy()[~kept].tolist())
        for flags in ({}, {"positive_only": False}, {"hide_rest": True}):
            _, mask = one.get_image_and_mask(label, num_features=99, **flags)
            assert mask.any()
            assert not mask[kept].any()
        assert "<table" in one._repr_html_()


def test_a_kept_pixel_is_told_from_the_part_that_is_called_minus_one(cnn, pictures):
    maps = torch.arange(H * W).view(1, H, W) * 4 // (H * W) - 1
    [one] = explain(cnn, pictures(1), maps, 0)
    assert set(np.unique(one.segments).tolist()) == {-2, -1, 1, 2}
    assert np.array_equal(one.segments == -2, maps[0].numpy() == 0)


def test_are_drawn_without_colour(cnn, pictures, maps):
    pytest.importorskip("matplotlib")
    explanations = explain(cnn, pictures(3), maps, (-1, 255))
    figure = explanations.plot()
    heat = figure.axes[0].images[1].get_array()
    assert np.array_equal(heat == 0, (maps[0] == 255).numpy())


def test_saved_and_loaded(tmp_path, cnn, pictures, maps):
    explanations = explain(cnn, pictures(3), maps, (-1, 255))
    explanations.save(tmp_path / "kept.npz")
    assert torch.equal(Explanations.load(tmp_path / "kept.npz").heatmaps(), explanations.heatmaps())


def test_an_image_without_any_part_is_refused(cnn, pictures, maps):
    with pytest.raises(GpulimeError, match=r"image 1: keep = \[0, 1, 2\] leaves no segment that could be hidden"):
        explain(cnn, pictures(3), maps, (0, 1, 2))


@pytest.mark.parametrize("keep", [0.5, True, "background", [0, None], torch.tensor([0.0])])
def test_other_things_are_no_ids(keep, cnn, pictures):
    with pytest.raises(GpulimeError, match="keep must be a segment id or several, whole numbers"):
        explain(cnn, pictures(1), None, keep)


def test_numbering_of_sparse_ids():
    """Ids beyond the table are sorted, with the same result."""
    maps = torch.tensor([[[7, 9, 7, 2]], [[2, 2, 2, 2]]])
    near, far = from_labels(maps, (9,)), from_labels(maps * 10**6, (9 * 10**6,))
    assert near.labels.tolist() == far.labels.tolist() == [[[1, 2, 1, 0]], [[0, 0, 0, 0]]]
    assert near.counts.tolist() == far.counts.tolist() == [2, 1]
    assert near.ids.tolist() == [[2, 7, -1], [2, -1, -1]]
