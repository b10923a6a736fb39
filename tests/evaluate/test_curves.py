"""Deletion and insertion curves against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime import Explainer, GpulimeError
from gpulime.evaluate import curves
from gpulime.segments import Grid

LABELS = torch.tensor([[1, 2], [0, 3], [6, 5]])
# Segments of three images of 24 x 20 pixels: 1, 2 and 9 of them, of different sizes.
PARTS = torch.stack([torch.arange(480).view(24, 20) * k // 481 % k for k in (1, 2, 9)])


def explainer(model, **settings):
    return Explainer(model, **{"n_samples": 40, "segments": Grid(2, 3), "fill": 0.25, "batch_size": 7} | settings)


def looped(model, image, unit, values, label, deletion_fill, insertion_fill):
    """The definition: unit by unit, the most important first, equal ones by number; outputs, areas and highest classes."""
    ranked = sorted(range(len(values)), key=lambda number: -values[number])
    deleted, inserted = image.clone(), insertion_fill.clone()
    found = []
    for j in range(len(values) + 1):
        if j:
            where = unit == ranked[j - 1]
            deleted[:, where], inserted[:, where] = deletion_fill[:, where], image[:, where]
        with torch.no_grad():
            outputs = model(torch.stack([deleted, inserted])).softmax(-1)
        area = sum(int((unit == number).sum()) for number in ranked[:j]) / unit.numel()
        found.append((outputs[0, label].item(), outputs[1, label].item(), area, int(outputs[0].argmax())))
    return [np.array(column) for column in zip(*found, strict=True)]


def means(image, unit):
    """Each pixel's mean over its segment."""
    picture = image.clone()
    for number in unit.unique():
        picture[:, unit == number] = image[:, unit == number].mean(1, keepdim=True)
    return picture


@pytest.mark.parametrize("fills", [(0.25, 0.25), ("mean", "mean"), (0.0, "mean")])
def test_curves_by_segments_are_those_of_a_loop(fills, cnn, pictures):
    images, maps = pictures(3), torch.rand(3, 2, 24, 20, dtype=torch.float64)
    fill = fills[0] if fills[0] == fills[1] else dict(zip(("deletion", "insertion"), fills, strict=True))
    found = curves(explainer(cnn), images, maps, labels=LABELS, segments=PARTS, fill=fill)
    assert found.deletion.shape == found.insertion.shape == found.area.shape == (3, 2, 10)
    assert found.reasons == {}
    for i, j in np.ndindex(3, 2):
        k = int(PARTS[i].max()) + 1
        values = [maps[i, j][PARTS[i] == number].mean().item() for number in range(k)]
        pictured = [means(images[i], PARTS[i]) if one == "mean" else torch.full_like(images[i], one) for one in fills]
        label = int(LABELS[i, j])
        deletion, insertion, area, best = looped(cnn, images[i], PARTS[i], values, label, *pictured)
        for name, expected in (("deletion", deletion), ("insertion", insertion), ("area", area)):
            actual = getattr(found, name)[i, j].numpy()
            np.testing.assert_allclose(actual[: k + 1], expected, atol=1e-5)
            np.testing.assert_allclose(actual[k + 1 :], expected[-1], atol=1e-5)
        np.testing.assert_allclose(found.deletion_auc[i, j], np.trapezoid(deletion, area), atol=1e-5)
        np.testing.assert_allclose(found.insertion_auc[i, j], np.trapezoid(insertion, area), atol=1e-5)
        relative = deletion / deletion[0]
        np.testing.assert_allclose(found.irof[i, j], 1 - np.trapezoid(relative, np.arange(k + 1) / k), atol=1e-5)
        np.testing.assert_allclose(found.irof_quantus[i, j], k - np.trapezoid(relative[1:]), atol=1e-5)
        changed = [share for share, one in zip(area, best, strict=True) if one != label]
        least = (changed[0] if changed else 1) if best[0] == label else np.nan
        np.testing.assert_allclose(found.minimal_deletion[i, j], least, atol=1e-5)


def test_an_explanation_orders_segments_by_its_coefficients(cnn, pictures):
    images = pictures(3)
    explained = explainer(cnn, top_labels=3).explain(images)
    found = curves(explainer(cnn), images, explained)
    assert torch.equal(found.labels, explained.labels)
    grid = Grid(2, 3).labels(1, 24, 20, images.device)[0].long()
    fill = torch.full_like(images[0], 0.25)
    for i, j in np.ndindex(3, 3):
        values, label = explained.coefficients[i, j].tolist(), int(explained.labels[i, j])
        deletion, insertion, area, _ = looped(cnn, images[i], grid, values, label, fill, fill)
        np.testing.assert_allclose(found.deletion[i, j], deletion, atol=1e-5)
        np.testing.assert_allclose(found.insertion[i, j], insertion, atol=1e-5)
        np.testing.assert_allclose(found.area[i, j], area)
    torch.testing.assert_close(found.gap, found.insertion_auc - found.deletion_auc)


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("fill", [0.25, "mean"])
def test_curves_by_pixels_are_those_of_a_loop(steps, fill, monkeypatch, cnn, pictures):
    monkeypatch.setattr("gpulime.evaluate.pixels.PAIRS", 4)
    images, maps = pictures(3), torch.rand(3, 2, 24, 20).round(decimals=2)
    found = curves(explainer(cnn), images, maps, "pixels", steps, fill, LABELS, PARTS if fill == "mean" else None)
    assert found.deletion.shape == (3, 2, steps + 1)
    for i, j in np.ndindex(3, 2):
        ranked = np.argsort(-maps[i, j].flatten().numpy(), kind="stable")
        unit = np.empty(480, int)
        unit[ranked] = np.arange(480) * steps // 480
        picture = means(images[i], PARTS[i]) if fill == "mean" else torch.full_like(images[i], fill)
        given = torch.from_numpy(unit).view(24, 20), -np.arange(steps), int(LABELS[i, j]), picture, picture
        deletion, insertion, area, _ = looped(cnn, images[i], *given)
        np.testing.assert_allclose(found.deletion[i, j], deletion, atol=1e-5)
        np.testing.assert_allclose(found.insertion[i, j], insertion, atol=1e-5)
        np.testing.assert_allclose(found.area[i, j], area)


def test_every_mask_is_predicted_once(calls, cnn, pictures):
    maps, labels = torch.rand(3, 2, 24, 20), torch.tensor([[1, 2], [4, 4], [3, 5]])
    curves(explainer(cnn, batch_size=1000), pictures(3), maps, labels=labels, segments=PARTS)
    # The whole and the empty image, and for each different label both curves without their ends.
    assert sum(map(len, calls)) == 3 * 2 + 2 * (2 * 0 + 1 * 1 + 2 * 8)
    calls.clear()
    found = curves(explainer(cnn, batch_size=1000), pictures(3), maps, "pixels", 7, labels=labels)
    assert sum(map(len, calls)) == 5 * (2 + 2 * 6)  # pairs of an image and a label
    torch.testing.assert_close(found.deletion[1, 0], found.deletion[1, 1])


def test_fills_may_be_pictures_and_arrays(cnn, pictures):
    images, maps, fill = pictures(3), torch.rand(3, 2, 24, 20), pictures(3, seed=5)
    for unit in ("segments", "pixels"):
        given = {"unit": unit, "steps": 5, "labels": LABELS, "segments": PARTS}
        found = curves(explainer(cnn), images, maps, fill=fill.numpy(), **given)
        mixed = curves(explainer(cnn), images, maps, fill={"deletion": fill, "insertion": "blur"}, **given)
        torch.testing.assert_close(mixed.deletion, found.deletion)
        for i in range(3):
            where = slice(i, i + 1)
            own = given | {"labels": LABELS[where], "segments": PARTS[where]}
            alone = curves(explainer(cnn), images[where], maps[where], fill=fill[where], **own)
            torch.testing.assert_close(found.gap[where], alone.gap)
            alone = curves(explainer(cnn), images[where], maps[where], fill="blur", **own)
            torch.testing.assert_close(mixed.insertion_auc[where], alone.insertion_auc)


def test_fewer_steps_hide_several_segments_at_once(cnn, pictures):
    images, maps = pictures(3), torch.rand(3, 24, 20)
    every = curves(explainer(cnn), images, maps, labels=0, segments=PARTS)
    some = curves(explainer(cnn), images, maps, labels=0, segments=PARTS, steps=4)
    assert some.hidden.tolist() == [[0, 1, 1, 1, 1], [0, 1, 2, 2, 2], [0, 2, 5, 7, 9]]
    for name in ("deletion", "insertion", "area"):
        expected = getattr(every, name).gather(2, some.hidden[:, None])
        torch.testing.assert_close(getattr(some, name), expected)


def test_kept_pixels_are_never_hidden(cnn, pictures):
    images, maps = pictures(3), torch.rand(3, 24, 20)
    segments = Grid(2, 3).labels(3, 24, 20, images.device).long()
    segments[0, 5:] = 4
    segments[1, :, :4] = 99
    found = curves(explainer(cnn), images, maps, labels=0, segments=segments, keep=[99, 4])
    torch.testing.assert_close(found.area[:, 0, -1], torch.ones(3, dtype=torch.float64))
    kept = (segments == 99) | (segments == 4)
    with torch.no_grad():
        empty = cnn(torch.where(kept[:, None], images, 0.25)).softmax(-1)[:, 0]
    torch.testing.assert_close(found.deletion[:, 0, -1], empty)
    explained = explainer(cnn).explain(images, labels=0, segments=segments, keep=[99, 4])
    again = curves(explainer(cnn), images, explained)
    torch.testing.assert_close(again.deletion[:, 0, -1], empty)


def test_images_in_bytes_have_the_same_curves(cnn, pictures):
    images, maps = (255 * pictures(3)).byte(), torch.rand(3, 24, 20)
    for unit in ("segments", "pixels"):
        given = {"labels": 0, "segments": PARTS, "unit": unit, "fill": "mean"}
        found, floats = (curves(explainer(cnn), one, maps, **given) for one in (images, images / 255))
        torch.testing.assert_close(found.deletion, floats.deletion)


def test_extra_inputs_go_with_their_images(cnn, pictures):
    class Scaled(torch.nn.Module):
        def forward(self, rows, scale):
            return cnn(rows) * scale[:, None]

    images, maps, scale = pictures(3), torch.rand(3, 24, 20), torch.tensor([1.0, 0.5, 0.1])
    model = Scaled().eval()
    for unit in ("segments", "pixels"):
        found = curves(explainer(model), images, maps, unit, 4, labels=2, segments=PARTS, extra=(scale,))
        for i in range(3):
            where = slice(i, i + 1)
            alone = explainer(lambda rows, i=i: cnn(rows) * scale[i])
            one = curves(alone, images[where], maps[where], unit, 4, labels=2, segments=PARTS[where])
            torch.testing.assert_close(found.deletion[i, :, : one.deletion.shape[2]], one.deletion[0])


def test_maps_without_an_order_are_nan_and_the_rest_goes_on(cnn, pictures):
    images, maps = pictures(3), torch.rand(3, 2, 24, 20)
    maps[1, 0], maps[2, 1, 3, 3], maps[0] = 0.5, torch.nan, 1.0  # image 0 has one segment, which needs no order
    for unit in ("segments", "pixels"):
        found = curves(explainer(cnn), images, maps, unit, labels=LABELS, segments=PARTS)
        known = ~found.gap.isnan()
        assert known.tolist() == [[unit == "segments"] * 2, [False, True], [True, False]]
        assert found.reasons[2, 1] == found.reason("gap", 2, 1) == "the map holds NaN or infinite values"
        assert found.reason("irof", 1, 0).startswith("the map is constant, ")
        assert found.reason("gap", 1, 1) is None
        assert all((value.isnan() | known).all() for value in found.values().values())


COLUMNS = torch.arange(20).expand(3, 24, 20) // 5  # four segments, hidden from left to right


class Left(torch.nn.Module):
    """Class 0 while as many of four columns are shown as ``least`` says, then class 1; ``broken`` from some on."""

    def __init__(self, least, broken=-1, value=torch.nan):
        super().__init__()
        self.least, self.broken, self.value = least, broken, value

    def forward(self, rows):
        shown = (rows[:, 0, 0, ::5] == 1).sum(1)
        outputs = torch.where((shown >= self.least)[:, None], torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8]))
        return outputs.masked_fill((shown <= self.broken)[:, None], self.value)


@pytest.mark.parametrize("unit", ["segments", "pixels"])
@pytest.mark.parametrize(
    ("model", "label", "expected", "reason"),
    [
        (Left(3), 0, 0.5, None),
        (Left(0), 0, 1, None),  # it never changes
        (Left(1), 0, 1, None),  # only with everything hidden
        (Left(3), 1, np.nan, "the label is not the predicted class of the whole input"),
        (Left(3, 3), 1, np.nan, "the label is not the predicted class of the whole input"),
        (Left(0, 2), 0, np.nan, "the model's output is NaN or infinite"),
        (Left(0, 2, torch.inf), 0, np.nan, "the model's output is NaN or infinite"),
        (Left(0, 4), 0, np.nan, "the model's output is NaN or infinite"),
        (Left(0, 4), 1, np.nan, "the model's output is NaN or infinite"),
        (Left(3, 1), 0, 0.5, None),  # the class changes before
    ],
)
def test_minimal_deletion_is_1_without_a_change_and_nan_with_its_reason(unit, model, label, expected, reason):
    judge, images = explainer(model, fill=0, activation=None, mean=0, std=1), torch.ones(3, 3, 24, 20)
    found = curves(judge, images, -COLUMNS.float(), unit, 4, labels=label, segments=COLUMNS if unit == "segments" else None)
    np.testing.assert_allclose(found.minimal_deletion[:, 0], expected)
    assert found.reason("minimal_deletion", 2, 0) == reason
    assert found.reason("gap", 0, 0) == (None if model.broken < 0 else "the model's output is NaN or infinite")


def test_a_model_with_one_output_has_no_minimal_deletion(pictures):
    judge = explainer(lambda rows: rows.mean((1, 2, 3))[:, None], activation=None)
    found = curves(judge, pictures(3), torch.rand(3, 24, 20), labels=0, segments=PARTS)
    assert found.minimal_deletion.isnan().all()
    assert found.reason("minimal_deletion", 0, 0) == "the model has one output, so no other class can take its place"
    assert not found.gap.isnan().any()


def test_irof_divides_by_the_output_for_the_whole_input():
    judge = explainer(lambda rows: rows[:, :2].mean((2, 3)) - 1, fill=0, activation=None, mean=0, std=1)
    found = curves(judge, torch.ones(3, 3, 24, 20), -COLUMNS.float(), labels=0, segments=COLUMNS)
    assert found.irof.isnan().all()
    assert found.reason("irof", 1, 0) == "the output for the whole input is 0, so no share of it can be given"


def test_labels_that_were_not_explained_are_nan(cnn, pictures):
    images = pictures(3)
    explained = explainer(cnn).explain(images, labels=LABELS)
    found = curves(explainer(cnn), images, explained, labels=[[2, 1], [3], [6, 4]])
    assert found.gap.isnan().tolist() == [[False, False], [False, False], [False, True]]
    assert found.reasons == {(2, 1): "class 4 was not explained"}
    every = curves(explainer(cnn), images, explained)
    torch.testing.assert_close(found.gap[0], every.gap[0].flip(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"explained": torch.rand(3, 24, 21)}, r"\(n, l, h, w\) with n, h, w = 3, 24, 20.*; got \(3, 24, 21\)"),
        ({"explained": torch.rand(2, 24, 20)}, r"got \(2, 24, 20\)"),
        ({"explained": "map"}, "got str"),
        (
            {"explainer": torch.nn.Identity()},
            "explainer must be an Explainer, TextExplainer or TableExplainer, .* got Identity",
        ),
        ({"explainer": torch.nn.Identity(), "unit": "pixels"}, "explainer must be an Explainer, .* got Identity"),
        ({"labels": None}, "labels must be the classes that the maps are for; got None"),
        ({"labels": LABELS}, r"labels must be \(n, l\) with l = 1 maps; got \(3, 2\)"),
        ({"labels": 7}, "labels must be below the model's 7 classes; image 0 has 7"),
        ({"labels": -3}, "labels must not be negative; got -3"),
        ({"unit": "superpixels"}, "unit must be one of 'segments', 'pixels'; got 'superpixels'"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"steps": 481, "unit": "pixels"}, r"steps must be at most h \* w = 480 pixels; got 481"),
        ({"fill": "white"}, "fill must be one of"),
        ({"fill": {"deletion": 0}}, r"fill must map 'deletion' and 'insertion' to a fill each; got \['deletion'\]"),
        ({"keep": 3, "unit": "pixels"}, "keep needs unit='segments'"),
        ({"inputs": torch.rand(3, 24, 20)}, r"images must be \(n, c, h, w\); got \(3, 24, 20\)"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message, cnn, pictures):
    given = {"inputs": pictures(3), "explained": torch.rand(3, 24, 20), "labels": 0, "segments": PARTS} | change
    with pytest.raises(GpulimeError, match=message):
        curves(**{"explainer": explainer(cnn)} | given)


def test_explanations_of_other_images_and_labels_are_refused(cnn, pictures):
    images = pictures(3)
    explained = explainer(cnn).explain(images, labels=[0, 1, 2])
    with pytest.raises(GpulimeError, match=r"explanations must be of the images, .* = \(2, 24, 20\); got \(3, 24, 20\)"):
        curves(explainer(cnn), images[:2], explained)
    with pytest.raises(GpulimeError, match=r"none of the labels was explained; explained are \[0, 1, 2\]"):
        curves(explainer(cnn), images, explained, labels=5)
    with pytest.raises(GpulimeError, match="explanations bring their own segments"):
        curves(explainer(cnn), images, explained, segments=PARTS)


def test_a_constant_map_is_found_in_spite_of_rounding(cnn, pictures):
    found = curves(explainer(cnn), pictures(3), torch.full((3, 24, 20), 0.1), labels=0, segments=PARTS)
    assert sorted(found.reasons) == [(1, 0), (2, 0)]
