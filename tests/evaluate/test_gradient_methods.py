"""Methods of gradients against plain PyTorch, on networks that captum alone explains wrongly."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models import model, synthetic
from gpulime import GpulimeError
from gpulime.evaluate.methods import METHODS, GradCam, Gradient, GuidedBackprop, Noisy, NotAvailableError, NotCoveredWarning


class Guided(torch.autograd.Function):
    """``min(max(x, 0), top)``, which passes back only positive gradients."""

    @staticmethod
    def forward(ctx, x, top):
        ctx.save_for_backward(x)
        ctx.top = top
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0) * ((x > 0) & (x <= ctx.top)), None


class Small(nn.Module):
    """One ReLU and one ReLU6 for all calls, in place; ``guided`` replaces both."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6)])
        self.relu, self.relu6, self.head, self.guided = nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.Linear(6, 4), False

    def clipped(self, x, top):
        if self.guided:
            return Guided.apply(x, top)
        return self.relu(x) if top == float("inf") else self.relu6(x)

    def forward(self, x):
        x = self.clipped(self.convolutions[0](x), float("inf"))
        x = self.clipped(8 * self.convolutions[1](x), 6.0)
        x = self.clipped(x - 1, float("inf"))
        self.last = self.convolutions[2](x)
        return (
            self.head(F.relu(self.last.clone()).mean((2, 3)))
            if not self.guided
            else self.head(Guided.apply(self.last, 1e9).mean((2, 3)))
        )


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small().eval()


IMAGES = synthetic(5, 13, 15)
LABELS = torch.tensor([[0, 1], [1, 2], [3, 0], [2, 2], [3, 1]])


def gradient_of(network, image, label):
    image = image[None].clone().requires_grad_()
    return torch.autograd.grad(network(image)[0, label], image)[0][0]


def each(explain):
    """Maps of a plain loop over images and labels."""
    return torch.stack(
        [
            torch.stack([explain(*pair) for pair in zip([image] * 2, labels, strict=True)])
            for image, labels in zip(IMAGES, LABELS.tolist(), strict=True)
        ]
    )


def test_gradient_of_each_label_in_batches(small):
    found = Gradient(at_once=2)(small, IMAGES, LABELS)
    assert found.shape == (5, 2, 13, 15)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, each(lambda image, label: gradient_of(small, image, label).abs().sum(0)))


@pytest.mark.parametrize(("channels", "reduce"), [("sum", lambda g: g.sum(0)), ("positive", lambda g: g.clamp(min=0).sum(0))])
def test_channels_become_one_number(channels, reduce, small):
    expected = each(lambda image, label: reduce(gradient_of(small, image, label)))
    torch.testing.assert_close(Gradient(channels)(small, IMAGES, LABELS), expected)


def test_guided_backprop_holds_for_shared_relus_functions_and_relu6(small):
    pytest.importorskip("captum")
    found = GuidedBackprop("sum", at_once=2)(small, IMAGES, LABELS)
    plain = Gradient("sum")(small, IMAGES, LABELS)
    small.guided = True
    torch.testing.assert_close(found, each(lambda image, label: gradient_of(small, image, label).sum(0)))
    assert (found - plain).abs().max() > 0.1 * plain.abs().max()


def test_guided_backprop_without_a_relu_is_not_available():
    pytest.importorskip("captum")
    linear = nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(3 * 13 * 15, 4))
    with pytest.raises(NotAvailableError, match="no ReLU among its activations, GELU: Guided Backprop would be the gradient"):
        METHODS["guided_backprop"](linear, IMAGES, LABELS)
    with pytest.raises(NotAvailableError, match="no ReLU: Guided Backprop would be the gradient"):
        METHODS["guided_backprop"](linear[::2], IMAGES, LABELS)


def test_guided_backprop_guides_a_clamp_and_names_what_it_does_not_guide(small):
    pytest.importorskip("captum")
    expected = METHODS["guided_backprop"](small, IMAGES, LABELS)
    small.clipped = lambda x, top: x.clamp_min(0) if top == float("inf") else F.hardtanh(x, 0, top)
    torch.testing.assert_close(METHODS["guided_backprop"](small, IMAGES, LABELS), expected)
    small.clipped = lambda x, top: F.silu(x) if top == float("inf") else x * torch.sigmoid(x)
    with pytest.warns(
        NotCoveredWarning, match="rule for ReLUs alone, and takes the plain gradient of the model's silu, sigmoid"
    ):
        METHODS["guided_backprop"](small, IMAGES, LABELS)


@pytest.mark.parametrize("relu", [False, True])
def test_gradcam_at_the_last_convolution(relu, small):
    pytest.importorskip("captum")

    def explain(image, label):
        score = small(image[None])[0, label]
        (slope,) = torch.autograd.grad(score, small.last)
        coarse = (slope.mean((2, 3), keepdim=True) * small.last).sum(1, keepdim=True).detach()
        coarse = coarse.relu() if relu else coarse
        return F.interpolate(coarse, (13, 15), mode="bilinear")[0, 0]

    found = GradCam(relu=relu)(small, IMAGES, LABELS)
    torch.testing.assert_close(found, each(explain))
    assert torch.equal(GradCam(layer="convolutions.2", relu=relu)(small, IMAGES, LABELS), found)
    assert not torch.equal(GradCam(layer="convolutions.1", relu=relu)(small, IMAGES, LABELS), found)


def test_gradcam_of_resnet_is_coarse_and_upsampled():
    pytest.importorskip("captum")
    found = METHODS["gradcam"](model("ResNet-18"), synthetic(1, 64, 64), torch.tensor([[3]]))
    assert found.shape == (1, 1, 64, 64)
    assert found.std() > 0
    corner = found[0, 0, :16, :16]  # a quarter of a cell of 2 x 2: bilinear, so constant before the first centre
    assert (corner - corner[0, 0]).abs().max() < 1e-5


def test_gradcam_without_a_convolution_is_not_available():
    pytest.importorskip("captum")
    with pytest.raises(NotAvailableError, match="no convolution with more than one pixel, of 0 convolutions"):
        METHODS["gradcam"](nn.Sequential(nn.Flatten(), nn.Linear(585, 4)), IMAGES, LABELS)


@pytest.mark.parametrize("kind", ["smoothgrad", "vargrad"])
def test_noisy_gradients(kind, small):
    pytest.importorskip("captum")

    def explain(image, label):
        torch.manual_seed(3)
        spread = torch.full((6, *image.shape), 0.2 * float(image.max() - image.min()))
        draws = torch.stack([gradient_of(small, one, label) for one in image + torch.normal(0.0, spread)])
        return (draws.mean(0) if kind == "smoothgrad" else draws.var(0, correction=0)).abs().sum(0)

    found = Noisy(kind=kind, draws=6, spread=0.2, seed=3)(small, IMAGES, LABELS)
    torch.testing.assert_close(found, each(explain), rtol=1e-3, atol=1e-5)
    state = torch.random.get_rng_state()
    assert torch.equal(Noisy(kind=kind, draws=6, spread=0.2, seed=3)(small, IMAGES[2:], LABELS[2:]), found[2:])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_model_keeps_its_mode_and_its_gradients(small):
    pytest.importorskip("captum")
    small.train()
    with torch.inference_mode():
        for name in ("gradient", "gradcam", "guided_backprop"):
            assert METHODS[name](small, IMAGES, LABELS).std() > 0
    assert all(part.training and not part._forward_hooks for part in small.modules())
    assert all(weight.grad is None for weight in small.parameters())


def test_labels_are_one_for_all_or_some_for_each(small):
    found = METHODS["gradient"](small, IMAGES, 2)
    assert torch.equal(found, METHODS["gradient"](small, IMAGES, torch.full((5, 1), 2)))
    padded = METHODS["gradient"](small, IMAGES, [[2, 1], [2], [2], [2], [2]])
    assert torch.equal(padded[1:, 1], found[1:, 0])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.byte(), 0, r"normalised for the model, none of them 0; got \(5, 3, 13, 15\) torch.uint8"),
        (IMAGES[0], 0, r"got \(3, 13, 15\) torch.float32"),
        (IMAGES, 4, r"labels must be in \[0, 4\), the model's classes; got 4 to 4"),
    ],
)
def test_bad_input(images, labels, message, small):
    with pytest.raises(GpulimeError, match=message):
        METHODS["gradient"](small, images, labels)
    with pytest.raises(GpulimeError, match="channels must be one of 'sum', 'abs', 'positive'; got 'max'"):
        Gradient("max")(small, IMAGES, LABELS)


def test_a_model_may_return_its_scores_in_a_dict(small):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.small = small

        def forward(self, x):
            return {"logits": self.small(x)}

    assert torch.equal(METHODS["gradient"](Wrapped(), IMAGES, LABELS), METHODS["gradient"](small, IMAGES, LABELS))


def test_a_missing_package_is_named(small, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    with pytest.raises(NotAvailableError, match=r'captum is not installed: pip install "gpulime\[compare\]"'):
        METHODS["gradcam"](small, IMAGES, LABELS)
