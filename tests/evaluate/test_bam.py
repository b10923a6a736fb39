"""BAM: scores are those of plain loops, wrong models get wrong scores, and patches change no output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gpulime.errors import GpulimeError
from gpulime.evaluate import bam
from gpulime.evaluate.object_attributions import prepared
from gpulime.evaluate.patches import insignificant_patches

N, SIDE = 6, 20
BRIGHT = [0.3, 0.5, 0.7, 0.3, 0.5, 0.7]  # scenes of three classes
OBJECT = [0, 1, 0, 1, 0, 1]  # objects of two classes: upper or lower half of the patch is white


class Brightness(nn.Module):
    """Scenes of 0.3, 0.5 and 0.7 in the first row; objects do not reach it."""

    def forward(self, images):
        level = images[:, :, 0].mean((1, 2))[:, None]
        return -40 * (level - torch.tensor([0.3, 0.5, 0.7])) ** 2


class Halves(nn.Module):
    """Objects: the sign of the difference of two rows in their place."""

    def forward(self, images):
        difference = images[:, :, 6].mean((1, 2)) - images[:, :, 12].mean((1, 2))
        return torch.stack([difference, -difference], 1)


def problem():
    scenes = torch.tensor(BRIGHT)[:, None, None, None].expand(N, 2, SIDE, SIDE).clone()
    scenes += 0.01 * torch.randn(scenes.shape, generator=torch.Generator().manual_seed(2))
    objects = torch.zeros(N, SIDE, SIDE, dtype=torch.bool)
    images = scenes.clone()
    for i, kind in enumerate(OBJECT):
        objects[i, 5:14, 4 + i : 10 + i] = True
        images[i, :, 5:14, 4 + i : 10 + i] = 0
        images[i, :, slice(5, 9) if kind == 0 else slice(10, 14), 4 + i : 10 + i] = 1
    return images, scenes, objects


def gradient(model, images, labels):
    images = images.clone().requires_grad_()
    chosen = model(images).gather(1, labels)
    return torch.stack([torch.autograd.grad(one.sum(), images, retain_graph=True)[0].sum(1) for one in chosen.unbind(1)], 1)


def loud(model, images, labels):
    """Maps that point at bright pixels for one model, and at the first rows for the other; with some noise."""
    rng = torch.Generator().manual_seed(len(images) + int(labels.sum()))
    maps = (
        images.mean(1) * 3
        if isinstance(model, Halves)
        else torch.linspace(1, -0.5, SIDE)[:, None].expand(len(images), -1, SIDE)
    )
    return (maps + 0.3 * torch.randn(maps.shape, generator=rng))[:, None]


def plain(values, mask):
    """The mean over a mask of the positive part, clipped at the 99th percentile and scaled."""
    positive = np.maximum(values.double().numpy(), 0)
    low, high = positive.min(), np.percentile(positive, 99)
    total = 0.0
    for y, x in zip(*np.nonzero(mask.numpy()), strict=True):
        total += min(max((positive[y, x] - low) / (high - low), 0), 1)
    return total / int(mask.sum())


def attributed(model, images, objects, labels, method=loud):
    maps = method(model, images, torch.tensor(labels)[:, None])[:, 0]
    return [plain(*pair) for pair in zip(maps, objects, strict=True)]


SCENE = [0, 1, 2, 0, 1, 2]


def test_the_model_contrast_score_is_that_of_a_plain_loop():
    images, _, objects = problem()
    found = bam.mcs(Halves(), Brightness(), images, objects, OBJECT, SCENE, loud)
    first, second = attributed(Halves(), images, objects, OBJECT), attributed(Brightness(), images, objects, SCENE)
    np.testing.assert_allclose(found.values, np.array(first) - np.array(second), atol=1e-6)
    assert found.mean == pytest.approx(np.mean(np.array(first) - np.array(second)), abs=1e-6)
    assert (found.count, found.reasons) == (N, {})
    assert str(found).startswith(f"{found.mean:.3f} over 6 of 6 images")


def test_models_in_the_wrong_places_have_no_contrast():
    images, _, objects = problem()
    assert bam.mcs(Halves(), Brightness(), images, objects, OBJECT, SCENE, gradient).mean > 0.05
    assert bam.mcs(Brightness(), Halves(), images, objects, SCENE, OBJECT, gradient).mean < -0.05


def test_the_relative_score_compares_with_the_largest_k():
    images, _, objects = problem()

    class Other(Brightness):
        pass

    def method(model, images, labels):
        return loud(Halves() if type(model) is Other else model, images, labels)

    models = {10: Brightness(), 1: Other(), 5: Brightness()}
    found = bam.relative_mcs(models, images, objects, SCENE, method)
    rare, common = attributed(Other(), images, objects, SCENE, method), attributed(Brightness(), images, objects, SCENE, method)
    assert list(found) == [1, 5]
    assert found[1].mean == pytest.approx(np.mean(np.array(rare) - np.array(common)), abs=1e-6)
    assert found[5].mean == 0
    with pytest.raises(GpulimeError, match=r"at least two, by their commonality k; got \[1\]"):
        bam.relative_mcs({1: Brightness()}, images, objects, SCENE, method)


def test_the_input_dependence_rate_is_that_of_a_plain_loop():
    images, scenes, objects = problem()

    def bright(model, images, labels):
        return 0.1 * images.mean(1) + torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(int(images.sum())))

    found = bam.idr(Brightness(), images, scenes, objects, SCENE, bright)
    method = lambda *given: bright(*given)[:, None]  # noqa: E731
    shown, hidden = (attributed(Brightness(), one, objects, SCENE, method) for one in (images, scenes))
    expected = [float(b > a) for a, b in zip(shown, hidden, strict=True)]
    assert found.values.tolist() == expected
    assert 0 < found.mean < 1
    shown_first = bam.idr(Brightness(), scenes, images, objects, SCENE, bright)  # with and without are exchanged
    assert shown_first.values.tolist() == [1 - one for one in expected]


def test_the_input_independence_rate_is_that_of_a_plain_loop():
    images, scenes, objects = problem()
    method = lambda model, images, labels: images.mean(1)[:, None] ** 2  # noqa: E731
    patched = bam.insignificant_patches(Brightness(), images, scenes, objects, bounds=(0.0, 1.0), steps=3)
    found = bam.iir(Brightness(), patched, scenes, objects, SCENE, method)
    before, after = (attributed(Brightness(), one, objects, SCENE, method) for one in (scenes, patched))
    assert found.values.tolist() == [float(abs(a - b) < 0.1 * a) for a, b in zip(before, after, strict=True)]
    assert found.mean < 1
    assert bam.iir(Brightness(), patched, scenes, objects, SCENE, method, least_change=1e9).mean == 1
    assert bam.iir(Brightness(), scenes, scenes, objects, SCENE, method).mean == 1  # nothing changes


def test_images_that_a_model_gets_wrong_do_not_count():
    images, scenes, objects = problem()
    wrong_scene, wrong_object = [1, *SCENE[1:]], [*OBJECT[:5], 0]
    found = bam.mcs(Halves(), Brightness(), images, objects, wrong_object, wrong_scene, loud)
    assert found.values.isnan().tolist() == [True, False, False, False, False, True]
    assert found.reasons == {0: "the scene model classifies it wrong", 5: "the object model classifies it wrong"}
    assert found.mean == pytest.approx(float(found.values[1:5].mean()))
    assert "1 left out: the scene model classifies it wrong" in str(found)
    none = bam.idr(Brightness(), images, scenes, objects, [1, 2, 0, 1, 2, 0], loud)
    assert np.isnan(none.mean)
    assert none.count == 0
    assert set(none.reasons.values()) == {"the model without the object classifies it wrong"}


def test_maps_without_positive_parts_and_empty_objects_do_not_count():
    images, scenes, objects = problem()
    objects[2] = False

    def negative(model, images, labels):
        maps = loud(model, images, labels)
        maps[3] = -1.0
        return maps

    found = bam.idr(Brightness(), images, scenes, objects, SCENE, negative)
    assert found.reasons[2] == "the object has no pixel"
    assert "no spread among its positive parts" in found.reasons[3]
    assert found.count == N - 2


def test_maps_are_prepared_as_numpy_does():
    maps = torch.randn(2, 3, 15, 11)
    expected = np.maximum(maps.double().numpy(), 0)
    low, high = expected.min((2, 3), keepdims=True), np.percentile(expected, 99, axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(prepared(maps), np.clip((expected - low) / (high - low), 0, 1), atol=1e-12)
    assert prepared(-maps.abs()).isnan().all()


def test_a_step_of_the_descent_is_that_of_the_formula():
    """For a linear model the gradient is known."""
    images, scenes, objects = problem()
    weights = torch.randn(3, 2 * SIDE * SIDE) / 100
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * SIDE * SIDE, 3, bias=False))
    model[1].weight.data = weights
    bounds = (0.2, 0.9)
    found = insignificant_patches(model, images, scenes, objects, bounds, steps=1, rate=30.0, weight=0.02)
    unit = (bounds[1] - bounds[0]) / 255
    for i in range(N):
        d = ((images[i] - scenes[i]) * objects[i]).flatten().double().numpy() / unit
        x, w = scenes[i].flatten().double().numpy(), weights.double().numpy() * unit
        slope = w.T @ (w @ d) / np.linalg.norm(w @ d) - 0.02 * d / np.linalg.norm(d)
        value = x + unit * d
        slope += 0.02 * ((value > bounds[1]).astype(float) - (value < bounds[0]))
        expected = x + unit * (d - 30.0 * slope) * objects[i].expand(2, -1, -1).flatten().numpy()
        outside = ~objects[i].expand(2, -1, -1).flatten().numpy()
        expected[outside] = x[outside]
        np.testing.assert_allclose(found[i].flatten(), expected, atol=2e-5)


def test_patches_change_the_outputs_less_than_the_object():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))
    model[-1].weight.data *= 3000  # the change must weigh more than the terms of size and range
    images, scenes, objects = problem()
    patched = insignificant_patches(model, images, scenes, objects, steps=60)
    assert torch.equal(patched[~objects[:, None].expand_as(patched)], scenes[~objects[:, None].expand_as(scenes)])
    with torch.no_grad():
        before, pasted, after = (model(one) for one in (scenes, images, patched))
    assert (after - before).norm(dim=1).mean() < 0.5 * (pasted - before).norm(dim=1).mean()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_invalid_arguments():
    images, scenes, objects = problem()
    with pytest.raises(GpulimeError, match=r"objects must be \(n, h, w\) = \(6, 20, 20\) bool, .*float32"):
        bam.mcs(Halves(), Brightness(), images, objects.float(), OBJECT, SCENE, loud)
    with pytest.raises(GpulimeError, match=r"scenes must be \(6, 2, 20, 20\), as images are; got \(5, 2, 20, 20\)"):
        bam.idr(Brightness(), images, scenes[:5], objects, SCENE, loud)
    with pytest.raises(GpulimeError, match=r"method must be a callable .* got 'gradcam'; gpulime.evaluate.methods.METHODS"):
        bam.mcs(Halves(), Brightness(), images, objects, OBJECT, SCENE, "gradcam")
    with pytest.raises(GpulimeError, match=r"labels must be \(n,\), the right class"):
        bam.idr(Brightness(), images, scenes, objects, [[0, 1]] * N, loud)
    with pytest.raises(GpulimeError, match="labels must be integers"):
        bam.idr(Brightness(), images, scenes, objects, [0, 1], loud)
