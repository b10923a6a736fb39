"""Sensitivity to small changes of the images."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from gpulime import Explainer, GpulimeError
from gpulime.evaluate import sensitivity
from gpulime.segments import Grid

LABELS = torch.tensor([[1, 2], [0, 3], [6, 5]])


def explainer(model, **settings):
    return Explainer(model, **{"n_samples": 30, "segments": Grid(2, 3), "fill": 0.25, "mean": 0, "std": 1} | settings)


def gradient(model, images, labels):
    """Maps by the gradient."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        scores = model(images)
        found = [
            torch.autograd.grad(scores.gather(1, label[:, None]).sum(), images, retain_graph=True)[0] for label in labels.T
        ]
    return torch.stack([one.sum(1) for one in found], 1)


@pytest.mark.parametrize("method", [None, gradient])
def test_changes_are_those_of_single_images(method, monkeypatch, cnn, pictures):
    images, keys, moved = pictures(3), [7, 8, 7], []
    moving = explainer(cnn).preparation.__class__.masked

    def masked(self, batch):
        moved.append(batch.images)
        return moving(self, batch)

    monkeypatch.setattr("gpulime.images.preparation.Preparation.masked", masked)
    found = sensitivity(explainer(cnn), images, LABELS, radius=0.1, draws=3, keys=keys, same_class=True, method=method)
    monkeypatch.undo()
    rows = moved[-1].unflatten(0, (3, 4))  # each image and its three draws
    assert torch.equal(rows[:, 0], images)
    assert 0.05 < (rows - images[:, None]).abs().max() < 0.1
    if method is None:
        lime = explainer(cnn, normalized=True)  # without a warning, since noise leaves [0, 1]
        segments = Grid(2, 3).labels(1, 24, 20, images.device)
        given = [(row[None], LABELS[i : i + 1], segments, keys[i : i + 1]) for i in range(3) for row in rows[i]]
        maps = torch.cat([lime.explain(*one).heatmaps() for one in given]).unflatten(0, (3, 4)).flatten(3)
    else:
        maps = gradient(cnn, rows.flatten(0, 1), LABELS.repeat_interleave(4, 0)).double().unflatten(0, (3, 4)).flatten(3)
    change = (maps[:, 1:] - maps[:, :1]).norm(dim=-1) / maps[:, :1].norm(dim=-1)
    known = found.changed == 0
    torch.testing.assert_close(found.sensitivity_max[known], change.amax(1)[known], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sensitivity_mean[known], change.mean(1)[known], rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        best = cnn(rows.flatten(0, 1)).argmax(1).view(3, 4)
    assert torch.equal(found.changed, (best[:, 1:] != best[:, :1]).sum(1))
    assert sorted(found.reasons) == [(i, j) for i in range(3) if not known[i] for j in range(2)]


def test_without_noise_nothing_changes(cnn, pictures):
    images = (255 * pictures(2)).byte()
    found = sensitivity(explainer(cnn), images, 3, radius=0, draws=2)
    assert found.sensitivity_max.max() < 1e-5  # rounding in batches
    assert (found.changed == -1).all()
    assert found.reasons == {}


def test_draws_do_not_depend_on_other_images(monkeypatch, cnn, pictures):
    images, keys = pictures(3), torch.tensor([5, 6, 7])
    together = sensitivity(explainer(cnn), images, LABELS, draws=4, keys=keys)
    monkeypatch.setattr(sys.modules["gpulime.evaluate.sensitivity"], "IMAGES", 1)
    again = sensitivity(explainer(cnn), images.flip(0), LABELS.flip(0), draws=4, keys=keys.flip(0))
    torch.testing.assert_close(again.sensitivity_max.flip(0), together.sensitivity_max, rtol=1e-4, atol=1e-6)
    other = sensitivity(explainer(cnn), images, LABELS, draws=4, keys=keys, seed=1)
    assert (other.sensitivity_max != together.sensitivity_max).all()


def test_fixed_masks_leave_out_the_sampling_noise_of_captum(cnn, pictures):
    metrics = pytest.importorskip("captum.metrics")
    attr = pytest.importorskip("captum.attr")
    image, model = pictures(1), nn.Sequential(cnn, nn.Softmax(-1))
    lime, grid = attr.Lime(model), Grid(2, 3).labels(1, 24, 20, torch.device("cpu")).long()[:, None]

    def attribute(inputs, **given):
        found = [lime.attribute(one[None], feature_mask=grid, n_samples=50, **given) for one in inputs[0]]
        return (torch.cat(found),)

    theirs = metrics.sensitivity_max(attribute, image, target=3, perturb_radius=1e-5, n_perturb_samples=3)
    ours = sensitivity(explainer(cnn, n_samples=50), image, 3, radius=1e-5, draws=3)
    assert theirs.min() > 0.1
    assert ours.sensitivity_max.max() < 0.001


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -1}, "radius must be a number, 0 or more; got -1"),
        ({"radius": "small"}, "radius must be a number, 0 or more; got 'small'"),
        ({"radius": torch.nan}, "radius must be a number, 0 or more; got nan"),
        ({"method": "gradcam"}, r"method must be a callable .* got 'gradcam'; gpulime.evaluate.methods.METHODS has some"),
        ({"explainer": nn.Identity()}, r"explainer must be an Explainer, such as gpulime.Explainer\(model\); got Identity"),
        ({"draws": 0}, "draws must be at least 1; got 0"),
        ({"labels": None}, "labels must be the classes that are explained; got None"),
        ({"images": torch.rand(2, 3)}, r"images must be \(n, c, h, w\)"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message, cnn, pictures):
    with pytest.raises(GpulimeError, match=message):
        sensitivity(**{"explainer": explainer(cnn), "images": pictures(2), "labels": 3} | change)
    with pytest.raises(GpulimeError, match="a method needs a model that is an nn"):
        sensitivity(explainer(lambda rows: cnn(rows)), pictures(2), 3, method=gradient)
