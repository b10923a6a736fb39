"""Every form of a call gives on the device what it gives on the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gpulime import Explainer
from gpulime.images import fills
from gpulime.segments import Felzenszwalb, Grid, Quickshift, Slic

pytestmark = pytest.mark.pretend

N, H, W = 4, 24, 20
MAPS = torch.arange(H)[:, None] // 8 * 3 + torch.arange(W) // 7
SETTINGS = {
    "as it is": {},
    "blur": {"fill": "blur"},
    "colour": {"fill": (0.1, 0.2, 0.3)},
    "a fill for each image": {"fill": torch.rand(N, 3, H, W)},
    "a fill for all": {"fill": torch.rand(3, H, W)},
    "an expanded fill": {"fill": torch.rand(1, 3, H, W).expand(N, -1, -1, -1)},
    "slic": {"segments": Slic(n_segments=8)},
    "quickshift": {"segments": Quickshift(kernel_size=2)},
    "felzenszwalb": {"segments": Felzenszwalb(scale=50)},
    "a segmenter of one's own": {"segments": lambda image: np.indices(image.shape[:2]).sum(0) // 10},
    "lime's masks": {"sampler": "lime"},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "no penalty": {"alpha": 0},
    "forward selection": {"num_features": 3, "feature_selection": "forward_selection"},
    "highest weights": {"num_features": 3, "feature_selection": "highest_weights"},
    "lasso": {"num_features": 3, "feature_selection": "lasso_path"},
    "a kernel of one's own": {"kernel": lambda distances, width: (-(distances**2) / width**2).exp()},
    "a distance of one's own": {"distance": lambda masks: 1 - masks.mean(1).sqrt()},
    "jaccard": {"kernel": "uniform", "distance": "jaccard", "kernel_width": None},
    "normalised": {"mean": 0.5, "std": 0.25, "normalized": True},
    "a batch size that is looked for": {"batch_size": "auto", "n_samples": 300},
    "logits": {"activation": None},
}
ARGUMENTS = {
    "expanded images": lambda images: {"images": images[:1].expand(N, -1, -1, -1)},
    "transposed images": lambda images: {"images": images.mT},
    "channels_last": lambda images: {"images": images.contiguous(memory_format=torch.channels_last)},
    "one image": lambda images: {"images": images[:1]},
    "uint8": lambda images: {"images": (images * 255).to(torch.uint8)},
    "float64": lambda images: {"images": images.double()},
    "float16": lambda images: {"images": images.half()},
    "an array": lambda images: {"images": images.numpy()},
    "with gradients": lambda images: {"images": images.clone().requires_grad_()},
    "label maps": lambda images: {"images": images, "segments": MAPS.expand(N, -1, -1)},
    "one segment": lambda images: {"images": images, "segments": torch.zeros(N, H, W, dtype=torch.int64)},
    "kept segments": lambda images: {"images": images, "segments": MAPS.expand(N, -1, -1), "keep": 0},
    "labels": lambda images: {"images": images, "labels": torch.tensor([1, 2, 3, 4])},
    "expanded labels": lambda images: {"images": images, "labels": torch.tensor([3]).expand(N)},
    "int32 labels": lambda images: {"images": images, "labels": torch.tensor([[1, 2]] * N, dtype=torch.int32)},
    "keys": lambda images: {"images": images, "keys": torch.arange(2 * N)[::2]},
    "expanded keys": lambda images: {"images": images, "keys": torch.tensor(5).expand(N)},
}


def assert_same(cnn, call, moved, **settings):
    """Explain on both; ``moved`` arguments are on the device there."""
    settings = {"n_samples": 60, "segments": Grid(3, 3), "batch_size": 16} | settings
    expected = Explainer(cnn, **settings).explain(**call)
    there = call | {name: call[name].cuda() for name in moved if isinstance(call[name], torch.Tensor)}
    found = Explainer(copy.deepcopy(cnn).cuda(), **settings).explain(**there)
    assert found.coefficients.is_cuda
    found, near = found.cpu(), 1e-5 if settings.get("precision", "float32") == "float32" else 0.1
    assert torch.equal(found.segments, expected.segments)
    assert torch.equal(found.labels, expected.labels)
    assert expected.coefficients.abs().max() > 1e-4
    torch.testing.assert_close(found.coefficients, expected.coefficients, rtol=0, atol=near * expected.coefficients.abs().max())


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, cnn, pictures):
    assert_same(cnn, {"images": pictures(N, 3, H, W)}, [], **SETTINGS[name])


@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name, place, cnn, pictures):
    call = ARGUMENTS[name](pictures(N, 3, H, W))
    assert_same(cnn, call, call.keys() if place == "device" else [])


def test_arguments_on_both_devices(cnn, pictures):
    call = {"images": pictures(N, 3, H, W), "labels": torch.tensor([1, 2, 3, 4]), "keys": torch.arange(N)}
    assert_same(cnn, call, ["images"])
    assert_same(cnn, call, ["labels"])
    assert_same(cnn, call, ["keys"], fill=torch.full((3, H, W), 0.3))


def test_a_fill_on_the_device(cnn, pictures):
    images, fill = pictures(N, 3, H, W), torch.rand(3, H, W)
    model = copy.deepcopy(cnn).cuda()
    expected = Explainer(cnn, 60, Grid(3, 3), fill=fill).explain(images)
    found = Explainer(model, 60, Grid(3, 3), fill=fill.cuda()).explain(images)
    torch.testing.assert_close(found.cpu().coefficients, expected.coefficients)


@pytest.mark.parametrize(("h", "w"), [(1, 20), (20, 1)])
def test_blur_of_a_line(h, w):
    images = torch.rand(2, 3, h, w)
    assert torch.equal(fills.blur(images.cuda()).cpu(), fills.blur(images))
