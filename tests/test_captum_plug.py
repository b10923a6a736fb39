"""gpulime in captum's class hierarchy: its metrics and NoiseTunnel, and what it refuses."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest
import torch
from torch import nn

import gpulime
from benchmarks.convergence import fashion
from benchmarks.models import synthetic
from gpulime import Explainer, GpulimeError

captum = pytest.importorskip("captum")

IMAGES = (synthetic(3, 16, 18) - 0.5) / 0.25
TARGETS = [2, 0, 1]
MASK = torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(5, 1)[None, None, :, :18]


@pytest.fixture
def lime():
    """The plug's class."""
    return gpulime.captum.Lime


@pytest.fixture
def small():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 4))
    return nn.Sequential(*layers).train()


def explained(model, images, segments, **settings):
    settings = {"n_samples": 60, "fill": 0.0, "activation": None, "mean": 0.0, "std": 1.0, "normalized": True, **settings}
    labels = torch.tensor(TARGETS[: len(images)])[:, None]
    return Explainer(model, **settings).explain(images, labels, segments)


@pytest.mark.parametrize("target", [TARGETS, torch.tensor(TARGETS)])
def test_attributions_are_gpulime_s_in_captum_s_shapes(target, lime, small):
    found = lime(small).attribute(IMAGES, target=target, feature_mask=MASK, n_samples=60)
    expected = explained(small, IMAGES, MASK[:, 0].expand(3, -1, -1)).heatmaps().float().expand(IMAGES.shape)
    assert found.shape == IMAGES.shape
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    (of_tuple,) = lime(small).attribute((IMAGES,), target=target, feature_mask=(MASK,), n_samples=60, perturbations_per_eval=7)
    torch.testing.assert_close(of_tuple, found, rtol=1e-4, atol=1e-6)
    assert small.training


def test_coefficients_are_in_the_order_of_ids_which_may_have_gaps(lime, small):
    gaps = (3 + 2 * MASK).expand(3, 1, -1, -1).clone()
    gaps[0][gaps[0] == 5] = 3  # the first image lacks the id 5
    found = lime(small).attribute(IMAGES, target=TARGETS, feature_mask=gaps, n_samples=60, return_input_shape=False)
    maps = lime(small).attribute(IMAGES, target=TARGETS, feature_mask=gaps, n_samples=60)
    assert found.shape == (3, 31)
    for i, column in [(0, 0), (1, 0), (1, 2), (2, 30)]:
        assert torch.equal(maps[i, 0][gaps[i, 0] == column + 3].unique(), found[i, column : column + 1])
    assert not found[:, 1::2].any()
    assert found[0, 2] == 0


def test_the_same_features_matter_as_for_captum_s_lime(lime, small):
    from captum.attr import Lime

    from benchmarks.peers.captum import proximity

    small.eval()
    with torch.no_grad():
        theirs = Lime(small, captum._utils.models.linear_model.SkLearnRidge(alpha=1.0), proximity)
        arguments = {"target": TARGETS[0], "feature_mask": MASK, "return_input_shape": False}
        expected = theirs.attribute(IMAGES[:1], n_samples=200, perturbations_per_eval=100, **arguments)
    found = lime(small).attribute(IMAGES[:1], n_samples=200, **arguments)
    assert found.shape == expected.shape
    assert torch.corrcoef(torch.cat([found, expected]))[0, 1] > 0.9


@pytest.mark.parametrize("baselines", [0.5, (0.5,), IMAGES.flip(0), torch.full((1, 3, 16, 18), 0.5)])
def test_baselines_are_the_fill(baselines, lime, small):
    found = lime(small).attribute(IMAGES, baselines, TARGETS, feature_mask=MASK, n_samples=60)
    fill = baselines[0] if isinstance(baselines, tuple) else baselines
    expected = explained(small, IMAGES, MASK[:, 0].expand(3, -1, -1), fill=fill).heatmaps()
    torch.testing.assert_close(found[:, :1].double(), expected, rtol=1e-4, atol=1e-6)


class Shifted(nn.Module):
    """Takes a number for each input, a constant and a name."""

    def forward(self, x, shift, factor, name):
        assert name == "sum"
        return factor * (x.mean((1, 2, 3)) + shift) ** 2


@pytest.mark.parametrize("function", [Shifted(), lambda *arguments: Shifted()(*arguments)])
def test_additional_arguments_and_one_number_for_each_input(function, lime):
    shift = torch.tensor([0.0, 5.0, -5.0])
    found = lime(function).attribute(IMAGES, additional_forward_args=(shift, 2.0, "sum"), feature_mask=MASK, n_samples=60)
    for i in range(3):
        alone = lime(lambda x, i=i: 2 * (x.mean((1, 2, 3)) + shift[i]) ** 2)
        expected = alone.attribute(IMAGES[i : i + 1], feature_mask=MASK, n_samples=60)
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-4, atol=1e-5)


def test_settings_of_the_explainer_and_a_grid_without_a_mask(lime, small, capsys):
    chosen = lime(small, sampler="antithetic", kernel="shapley", estimator="wls", activation="softmax")
    found = chosen.attribute(IMAGES, target=TARGETS, n_samples=300, return_input_shape=False, show_progress=True)
    assert found.shape == (3, 49)
    with torch.no_grad():
        change = small.eval()(IMAGES).softmax(1) - small(torch.zeros(1, 3, 16, 18)).softmax(1)
    torch.testing.assert_close(found.sum(1), change.gather(1, torch.tensor(TARGETS)[:, None])[:, 0], rtol=1e-3, atol=1e-5)
    assert "Lime attribution" in capsys.readouterr().err


def test_captum_s_place_in_the_hierarchy(lime, small):
    from captum.attr import PerturbationAttribution

    made = lime(small)
    assert isinstance(made, PerturbationAttribution)
    assert made.forward_func is small
    assert not made.has_convergence_delta()
    assert not made.multiplies_by_inputs


def test_infidelity(lime, small):
    from captum.metrics import infidelity

    small.eval()

    def hide(inputs):
        torch.manual_seed(0)
        shown = (torch.rand(len(inputs), 16) < 0.5)[:, MASK[0, 0]][:, None]
        hidden = inputs.where(~shown, 0)
        return hidden, inputs - hidden

    found = lime(small).attribute(IMAGES, target=TARGETS, feature_mask=MASK, n_samples=300)
    per_value = found.where(IMAGES != 0, 0) / IMAGES.where(IMAGES != 0, 1) / 3  # so that <I, a> adds coefficients up
    sizes = torch.bincount(MASK.flatten())[MASK]
    right, wrong = (infidelity(small, hide, IMAGES, one / sizes, target=TARGETS) for one in (per_value, -per_value))
    assert right.shape == (3,)
    assert (right < 0.2 * wrong).all()


def shapes():
    """A shirt, trousers and a boot, (3, 1, 28, 28) in [0, 1], which the network of Fashion-MNIST tells apart."""
    images = torch.zeros(3, 1, 28, 28)
    images[0, 0, 4:25, 8:20], images[0, 0, 5:12, 2:26] = 0.7, 0.6
    images[1, 0, 2:26, 9:13], images[1, 0, 2:26, 16:20], images[1, 0, 2:8, 9:20] = 0.8, 0.8, 0.8
    images[2, 0, 16:22, 3:26], images[2, 0, 8:18, 16:26] = 0.7, 0.5
    return images + 0.05 * torch.rand(images.shape) * (images > 0)


def test_sensitivity_is_that_of_the_model_and_not_of_the_sampling(lime):
    from captum.attr import Lime
    from captum.metrics import sensitivity_max

    mean, std = 0.286, 0.353
    torch.manual_seed(0)
    images, network = (shapes() - mean) / std, fashion.model()

    def classify(x):
        return network(x * std + mean)

    arguments = {"feature_mask": fashion.GRID[None, None], "n_samples": 200, "baselines": -mean / std}
    targets = classify(images).argmax(1)
    assert targets.tolist() == [0, 1, 5]
    ours = sensitivity_max(lime(classify).attribute, images, n_perturb_samples=4, target=targets, **arguments)
    again = sensitivity_max(
        lime(classify).attribute, images[:1], perturb_radius=0.0, n_perturb_samples=1, target=0, **arguments
    )
    more = {"n_perturb_samples": 1, "perturb_radius": 0.0, "perturbations_per_eval": 100, "target": 0}
    theirs = sensitivity_max(Lime(classify).attribute, images[:1], **more, **arguments)
    assert ours.max() <= 0.02
    assert again == 0
    assert theirs >= 0.1


def test_noise_tunnel(lime, small):
    from captum.attr import NoiseTunnel

    arguments = {"target": TARGETS, "feature_mask": MASK, "n_samples": 60}
    method = lime(small)
    torch.manual_seed(0)
    found = NoiseTunnel(method).attribute(IMAGES, nt_type="smoothgrad", nt_samples=4, stdevs=0.1, **arguments)
    torch.manual_seed(0)
    noisy = torch.normal(IMAGES.repeat_interleave(4, 0), 0.1)
    each = method.attribute(noisy, target=torch.tensor(TARGETS).repeat_interleave(4), feature_mask=MASK, n_samples=60)
    torch.testing.assert_close(found, each.view(3, 4, 3, 16, 18).mean(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (IMAGES, IMAGES)}, "inputs must be one tensor, since gpulime explains one input of a model; got 2"),
        ({"inputs": torch.zeros(3, 5)}, r"inputs must be images \(n, c, h, w\); got \(3, 5\)"),
        (
            {"feature_mask": torch.arange(3)[None, :, None, None] + MASK},
            "must not differ by channel: gpulime hides whole pixels",
        ),
        ({"feature_mask": MASK[..., 1:]}, r"feature_mask must be \(1 \| n, 1 \| c, h, w\).*got \(1, 1, 16, 17\)"),
        ({"feature_mask": MASK.expand(2, -1, -1, -1)}, r"got \(2, 1, 16, 18\)"),
        ({"feature_mask": [1, 2]}, "got list"),
        ({"target": None}, "target must be given, since the forward function returns 4 columns; got None"),
        ({"target": [1, 2]}, r"target must be a class, or n = 3 of them; got \[1, 2\]"),
        ({"target": (1, 2, 3)}, r"got \(1, 2, 3\)"),
        ({"target": 4}, "target must be below the forward function's 4 classes; got 4"),
        ({"target": [0, 9, 1], "show_progress": True}, "target must be below the forward function's 4 classes; got 9"),
        ({"target": -1}, "target must be 0 or more; got -1"),
        ({"baselines": torch.zeros(2, 3, 16, 18)}, r"fill must be \(n, c, h, w\) = \(3, 3, 16, 18\); got \(2, 3, 16, 18\)"),
    ],
)
def test_bad_input(changes, message, lime, small):
    arguments = {"inputs": IMAGES, "target": TARGETS, "feature_mask": MASK, "n_samples": 40, **changes}
    with pytest.raises(GpulimeError, match=message):
        lime(small).attribute(**arguments)


def test_a_setting_that_is_an_argument(lime, small):
    with pytest.raises(GpulimeError, match=r"fill is the argument 'baselines' of attribute\(\)"):
        lime(small, fill="mean")


def test_without_captum_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.delitem(sys.modules, "gpulime.captum", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r'gpulime.captum needs captum: pip install "gpulime\[compare\]"'):
        import_module("gpulime.captum")
