"""Held-out masks of images, against a plain loop and captum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime import Explainer, GpulimeError, key
from gpulime.engine.masks import Bernoulli
from gpulime.evaluate import curves, held_out
from gpulime.segments import Grid

LABELS = torch.tensor([[1, 2], [0, 3], [6, 5]])
# Segments of three images of 24 x 20 pixels: 4, 7 and 9 of them.
PARTS = torch.stack([torch.arange(480).view(24, 20) * k // 480 for k in (4, 7, 9)])
COUNTS = torch.tensor([4, 7, 9])
KEYS = torch.tensor([key(name) for name in "abc"])


def explainer(model, **settings):
    if isinstance(model, torch.nn.Module):
        model.double()  # outputs of random maps hardly differ
    return Explainer(model, **{"n_samples": 60, "segments": Grid(2, 3), "fill": 0.25, "batch_size": 7} | settings)


def masks_and_outputs(model, images, i, s, seed):
    """Masks (s, k) of an image that were not fitted, and outputs (1 + s, classes); row 0 is the whole image."""
    k = int(COUNTS[i])
    masks = Bernoulli(seed, s)(KEYS[i], torch.arange(s + 1), torch.tensor(k), k)
    with torch.no_grad():
        rows = [torch.where(mask[PARTS[i]], images[i], 0.25) for mask in masks]
        return masks[1:].numpy(), model(torch.stack(rows).double()).softmax(-1).numpy()


def r2(y, predicted, weights):
    mean = np.average(y, weights=weights)
    return 1 - (weights * (y - predicted) ** 2).sum() / (weights * (y - mean) ** 2).sum()


@pytest.mark.parametrize("kernel", [None, "uniform"])
def test_explanations_predict_masks_that_were_not_fitted(kernel, monkeypatch, cnn, pictures):
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 70})
    images, judge = pictures(3), explainer(cnn, kernel=kernel, seed=3)
    explained = judge.explain(images, LABELS, PARTS, KEYS)
    found = held_out(judge, images, explained, n_samples=50, seed=11, keys=KEYS)
    assert torch.equal(found.labels, LABELS)
    for i, j in np.ndindex(3, 2):
        masks, outputs = masks_and_outputs(cnn, images, i, 50, 11)
        y, values = outputs[:, LABELS[i, j]], explained.coefficients[i, j, : COUNTS[i]].numpy()
        distances = 1 - np.sqrt(masks.mean(1))
        weights = np.ones(50) if kernel else np.exp(-(distances**2) / (2 * 0.25**2))
        predicted = explained.intercepts[i, j].item() + masks @ values
        np.testing.assert_allclose(found.r2[i, j], r2(y[1:], predicted, weights), rtol=1e-6)


def test_maps_predict_by_their_means_and_a_scale(cnn, pictures):
    images, maps = pictures(3), torch.rand(3, 2, 24, 20, dtype=torch.float64)
    found = held_out(explainer(cnn), images, maps, 50, 11, LABELS, PARTS, keys=KEYS)
    for i, j in np.ndindex(3, 2):
        masks, outputs = masks_and_outputs(cnn, images, i, 50, 11)
        y = outputs[:, LABELS[i, j]]
        values = np.array([maps[i, j][PARTS[i] == number].mean().item() for number in range(COUNTS[i])])
        hidden, fall = ~masks @ values, y[0] - y[1:]
        weights = np.exp(-((1 - np.sqrt(masks.mean(1))) ** 2) / (2 * 0.25**2))
        beta = (weights * hidden * fall).sum() / (weights * hidden**2).sum()
        np.testing.assert_allclose(found.r2[i, j], r2(y[1:], y[0] - beta * hidden, weights), rtol=1e-6)
        beta = (hidden * fall).sum() / (hidden**2).sum()
        np.testing.assert_allclose(found.infidelity[i, j], ((beta * hidden - fall) ** 2).mean(), rtol=1e-6)
        np.testing.assert_allclose(found.infidelity_unscaled[i, j], ((hidden - fall) ** 2).mean(), rtol=1e-6)
    scaled = held_out(explainer(cnn), images, 1000 * maps, 50, 11, LABELS, PARTS, keys=KEYS)
    torch.testing.assert_close(scaled.r2, found.r2)
    torch.testing.assert_close(scaled.infidelity, found.infidelity)


def test_infidelity_is_captums(cnn, pictures):
    metrics = pytest.importorskip("captum.metrics")
    image, maps = pictures(1).double(), torch.randn(1, 24, 20).double()
    found = held_out(explainer(cnn), image, maps, 50, 11, 3, PARTS[:1], keys=KEYS[:1])
    masks, _ = masks_and_outputs(cnn, image, 0, 50, 11)
    drawn = iter(masks)

    def hidden(images):
        """Hide segments: captum multiplies the map by the first, and calls the model with the second."""
        masks = torch.from_numpy(np.stack([next(drawn) for _ in images]))
        shown = masks[:, PARTS[0]][:, None]
        # The mean of a segment counts once, so each pixel has its share.
        sizes = torch.stack([(PARTS[0] == number).sum() for number in range(4)])[PARTS[0]]
        return (~shown / sizes).expand_as(images) / 3, torch.where(shown, images, 0.25)

    with torch.no_grad():
        given = {"n_perturb_samples": 50, "max_examples_per_batch": 10}
        forward, attributions = (lambda rows: cnn(rows).softmax(-1)[:, 3]), maps[:, None].expand_as(image)
        for normalise, score in ((True, found.infidelity), (False, found.infidelity_unscaled)):
            drawn = iter(masks)
            expected = metrics.infidelity(forward, hidden, image, attributions, normalize=normalise, **given)
            torch.testing.assert_close(score[0], expected)


def test_a_linear_model_is_predicted_exactly(pictures):
    weights = torch.randn(1440, 7)
    model = Explainer(lambda rows: rows.flatten(1) @ weights / 100, n_samples=200, fill=0.25, activation=None, alpha=1e-9)
    images = pictures(3)
    explained = model.explain(images, LABELS, PARTS)
    found = held_out(model, images, explained)
    ones = torch.ones(3, 2, dtype=torch.float64)
    torch.testing.assert_close(found.r2, ones, atol=1e-5, rtol=0)
    assert found.infidelity.max() < 1e-9
    assert found.infidelity_unscaled.max() < 1e-9


def test_kept_pixels_are_never_hidden(cnn, pictures):
    seen = []

    def model(rows):
        seen.append(rows.clone())
        return cnn(rows)

    images = pictures(3)
    judge = explainer(model, mean=0, std=1)
    explained = judge.explain(images, LABELS, PARTS, keep=2)
    seen.clear()
    held_out(judge, images, explained, n_samples=5)
    rows = torch.cat(seen)
    assert all((rows[:, :, PARTS[i] == 2] == images[i][:, PARTS[i] == 2]).all((1, 2)).any() for i in range(3))
    assert len(rows) == 18
    kept = [[(row[:, PARTS[i] == 2] == images[i][:, PARTS[i] == 2]).all() for i in range(3)] for row in rows]
    assert torch.tensor(kept).any(1).all()


def test_bad_maps_are_nan_and_the_rest_goes_on(cnn, pictures):
    images, maps = pictures(3), torch.rand(3, 2, 24, 20)
    maps[0, 1], maps[2, 0, 5, 5] = 0.3, torch.inf
    found = held_out(explainer(cnn), images, maps, labels=LABELS, segments=PARTS)
    assert found.r2.isnan().tolist() == [[False, True], [False, False], [True, False]]
    assert found.reason("r2", 2, 0) == "the map holds NaN or infinite values"
    assert found.reason("r2", 0, 1) == found.reason("infidelity", 0, 1) == "the map is constant, 0.3 in 4 units"
    assert found.reason("r2", 1, 1) is None


def test_explanations_that_are_0_are_nan_as_in_curves(pictures):
    judge, images = explainer(lambda rows: torch.ones(len(rows), 7)), pictures(3)
    explained = judge.explain(images, LABELS, PARTS)
    found, played = held_out(judge, images, explained), curves(judge, images, explained)
    assert found.r2.isnan().all()
    assert found.reasons == played.reasons
    assert found.reason("r2", 1, 0) == "the map is constant, 0 in 7 units"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"explainer": torch.nn.Identity()},
            "explainer must be an Explainer, TextExplainer or TableExplainer, .* got Identity",
        ),
        ({"explainer": "lime"}, "explainer must be an Explainer, TextExplainer or TableExplainer; got str"),
        ({"seed": 0}, "seed must differ from the explainer's, whose masks were fitted; got 0"),
        ({"n_samples": 1}, "n_samples must be at least 2; got 1"),
        ({"keys": [1]}, r"keys must be 3 whole numbers"),
        ({"labels": 9}, "labels must be below the model's 7 classes; image 0 has 9"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message, cnn, pictures):
    given = {"inputs": pictures(3), "explained": torch.rand(3, 24, 20), "labels": 0, "segments": PARTS} | change
    judge = explainer(cnn)
    judge.count_classes(pictures(1))
    with pytest.raises(GpulimeError, match=message):
        held_out(**{"explainer": judge} | given)
