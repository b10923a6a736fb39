"""FGVis finds a planted object, and its defence keeps it from false evidence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.models import model, synthetic
from gpulime.evaluate.methods import METHODS, Fgvis, NotAvailableError, NotCoveredWarning
from gpulime.evaluate.methods.fgvis import defended
from gpulime.evaluate.methods.method import Classifier

OBJECT = (slice(5, 10), slice(8, 14))


class Planted(nn.Module):
    """Looks for bright surfaces; edges, of which the image has few, speak against the class."""

    def __init__(self):
        super().__init__()
        self.bright, self.edges, self.relu = nn.Conv2d(3, 1, 3), nn.Conv2d(3, 1, 3), nn.ReLU()
        self.bright.weight.data.fill_(1 / 27)
        self.bright.bias.data.fill_(-0.7)
        laplace = torch.tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 3
        self.edges.weight.data = laplace.expand(1, 3, 3, 3).clone()
        self.edges.bias.data.zero_()

    def forward(self, x):
        for_it = self.relu(self.bright(x)).sum((1, 2, 3))
        against = self.relu(self.edges(x)).sum((1, 2, 3))
        return torch.stack([2 * for_it - 0.3 * against, torch.zeros_like(for_it)], 1)


def pictures(n):
    images = 0.4 + 0.02 * torch.randn(n, 3, 16, 20)
    images[:, :, OBJECT[0], OBJECT[1]] += 0.6
    return images


def shares(maps):
    """Share of the map inside the object, and at more than two pixels from it."""
    inside, near = (maps[..., 5 - k : 10 + k, 8 - k : 14 + k].sum((-1, -2)) / maps.sum((-1, -2)) for k in (0, 2))
    return inside, 1 - near


def test_it_finds_the_planted_object_and_the_defence_matters():
    torch.manual_seed(0)
    images = pictures(4)
    with_defence, without = (Fgvis(defence=defence)(Planted(), images, 0) for defence in (True, False))
    assert with_defence.shape == (4, 1, 16, 20)
    (inside, far), (inside_without, far_without) = shares(with_defence), shares(without)
    assert inside.min() > 0.65
    assert inside_without.max() < 0.55
    assert far.max() < 0.2
    assert far_without.min() > 0.3


def test_images_are_optimised_each_for_itself_until_the_label_s_probability_is_a_tenth():
    torch.manual_seed(1)
    planted, images = Planted(), pictures(3)
    images[1, :, OBJECT[0], OBJECT[1]] -= 0.1  # it takes fewer steps
    method = Fgvis(steps=60)
    together = method(planted, images, 0)
    alone = torch.cat([method(planted, image[None], 0) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    whole = planted(images).softmax(1)[:, 0]
    assert Fgvis(steps=0)(planted, images, 0).abs().max() == 0
    few = Fgvis(steps=1, step=0.25)(planted, images, 0)
    assert few.max() <= 3 * 0.25 + 1e-6
    assert whole[0] > 0.9


def test_the_probability_falls_to_a_tenth():
    torch.manual_seed(2)
    planted, images = Planted(), pictures(2)
    attribute = Fgvis().attributor(Classifier(planted), images[:1])
    mask = 1 - attribute(images, torch.tensor([0, 0]))
    before, after = (planted(x).softmax(1)[:, 0] for x in (images, mask * images))
    assert (after <= 0.1 * before).all()
    assert ((mask >= 0) & (mask <= 1)).all()


def test_the_defence_zeroes_the_gradient_of_units_beyond_their_activation():
    relu, images = nn.Sequential(nn.ReLU()), torch.tensor([[-1.0, 1.0, 2.0, 3.0]])
    with defended(relu, images):
        x = torch.tensor([[0.5, 0.5, 2.5, 3.0]], requires_grad=True)
        (slope,) = torch.autograd.grad(relu(x).sum(), x)
    assert slope.tolist() == [[0, 1, 0, 1]]
    (slope,) = torch.autograd.grad(relu(x).sum(), x)
    assert slope.tolist() == [[1, 1, 1, 1]]


def test_a_model_without_a_relu_is_not_available():
    with pytest.raises(NotAvailableError, match="no ReLU, for which FGVis defines its defence"):
        METHODS["fgvis"](nn.Sequential(nn.Flatten(), nn.Linear(960, 2)), pictures(1), 0)


def test_activations_without_a_defence_are_named():
    layers = nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Hardtanh(-1, 1), nn.Flatten(), nn.Linear(252, 2)
    with pytest.warns(NotCoveredWarning, match="FGVis' defence has a rule for ReLUs alone.*the model's Hardtanh$"):
        Fgvis(steps=1)(nn.Sequential(*layers), pictures(1), 0)
    with pytest.raises(NotAvailableError, match="no ReLU"):
        Fgvis(steps=1)(nn.Sequential(layers[0], *layers[2:]), pictures(1), 0)


def test_one_output_is_a_probability_by_a_sigmoid():
    found = Fgvis(steps=5)(nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(252, 1)), pictures(1), 0)
    assert found.std() > 0


def test_labels_of_resnet_differ():
    found = Fgvis(steps=3)(model("ResNet-18"), synthetic(1, 40, 40), torch.tensor([[1, 2]]))
    assert (found[0, 0] - found[0, 1]).abs().max() > 0.01
