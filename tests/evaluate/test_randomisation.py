"""Model parameter randomisation: which weights are new at each stage, which maps are compared, and when a cascade ends."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from gpulime import Explainer
from gpulime.errors import GpulimeError
from gpulime.evaluate.entropy import entropies
from gpulime.evaluate.layers import from_the_top
from gpulime.evaluate.method_maps import as_method
from gpulime.evaluate.randomisation import randomisation

IMAGES = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(1))


class Backwards(nn.Module):
    """Layers that are defined in another order than they are called."""

    def __init__(self):
        super().__init__()
        self.top = nn.Linear(4 * 64, 5)
        self.norm = nn.BatchNorm2d(4)
        self.bottom = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, images):
        found = self.norm(self.bottom(images)).tanh()
        return self.top(nn.functional.avg_pool2d(found, 2).flatten(1))


def network():
    torch.manual_seed(3)
    model = Backwards()
    for part in model.parameters():
        part.data += 0.3 * torch.randn_like(part)
    model.norm.running_mean += 0.2
    return model


def gradient(model, images, labels):
    images = images.clone().requires_grad_()
    picked = model(images).gather(1, labels)
    return torch.stack([torch.autograd.grad(one.sum(), images, retain_graph=True)[0].sum(1) for one in picked.unbind(1)], 1)


def lime(seed):
    cells = torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return as_method(lambda model: Explainer(model, n_samples=40, mean=0, std=1, seed=seed), cells.expand(3, -1, -1))


class Recorder:
    """A method that keeps the models that it gets."""

    def __init__(self, method):
        self.method, self.models = method, []

    def __call__(self, model, images, labels):
        self.models.append(deepcopy(model))
        return self.method(model, images, labels)


def layers_changed(model, trained):
    before = trained.state_dict()
    return {name.partition(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_stages_change_their_layers_and_no_others(order):
    model, recorder = network(), Recorder(gradient)
    before = deepcopy(model.state_dict())
    found = randomisation(model, IMAGES, recorder, order=order)
    assert found.stages == ("top", "norm", "bottom")
    expected = {
        "cascading": [set(), {"top"}, {"top", "norm"}, {"top", "norm", "bottom"}],
        "independent": [set(), {"top"}, {"norm"}, {"bottom"}],
    }
    assert [layers_changed(one, model) for one in recorder.models] == expected[order]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not any(one.training for one in recorder.models)
    norm = recorder.models[2].norm
    assert norm.running_mean.eq(0).all()
    assert norm.weight.eq(1).all()


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_similarities_are_those_of_a_plain_loop(order):
    model, recorder = network(), Recorder(gradient)
    labels = torch.tensor([[0, 3], [1, 2], [4, 0]])
    found = randomisation(model, IMAGES, recorder, labels, order=order)
    maps = [gradient(one, IMAGES, labels).double().numpy() for one in recorder.models]
    for stage in range(3):
        for i in range(3):
            for j in range(2):
                a, b = maps[0][i, j].ravel(), maps[stage + 1][i, j].ravel()
                assert float(found.similarities["spearman"][stage, i, j]) == pytest.approx(spearmanr(a, b)[0], abs=1e-9)
                absolute = spearmanr(abs(a), abs(b))[0]
                assert float(found.similarities["spearman_abs"][stage, i, j]) == pytest.approx(absolute, abs=1e-9)
    with torch.no_grad():
        outputs = [one(IMAGES).double().numpy() for one in recorder.models]
    spreads = [np.sqrt(one.var(0, ddof=1).mean()) for one in outputs]
    np.testing.assert_allclose(found.spreads, spreads, rtol=1e-5)
    assert found.reasons == {}
    assert set(found.similarities) == {"spearman_abs", "spearman", "ssim", "hog"}


def test_a_device_gives_the_same_similarities(device):
    def activations(model, images, labels):
        return model.bottom(images).tanh().sum(1) * model(images).gather(1, labels)[..., None]

    def onto(name):
        model, images = network().to(name), IMAGES.to(name)
        model.top.reset_parameters = partial(nn.init.constant_, model.top.weight, 0.5)  # random numbers differ between devices
        return randomisation(model, images, activations, stages={"logits": "top"}).similarities

    expected, found = onto("cpu"), onto(device)
    assert found["ssim"].device.type == device.type
    for name, values in expected.items():
        torch.testing.assert_close(found[name].cpu(), values, atol=1e-3, rtol=0)


def test_a_layer_gets_the_same_weights_in_each_order_and_others_with_another_seed():
    models = {}
    for order, seed in (("cascading", 0), ("independent", 0), ("cascading", 1)):
        recorder = Recorder(gradient)
        randomisation(network(), IMAGES, recorder, order=order, seed=seed)
        models[order, seed] = recorder.models[-1].bottom.weight
    assert torch.equal(models["cascading", 0], models["independent", 0])
    assert not torch.equal(models["cascading", 0], models["cascading", 1])


def test_global_random_numbers_stay_and_the_method_s_are_the_same_for_each_model():
    drawn = []

    def noisy(model, images, labels):
        drawn.append(torch.rand(3))
        return gradient(model, images, labels)

    model = network()
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    randomisation(model, IMAGES, noisy)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(one, drawn[0]) for one in drawn)


def test_a_method_that_ignores_the_model_fails_the_test_and_the_gradient_passes_it():
    edges = randomisation(network(), IMAGES, lambda model, images, labels: images.sum(1))
    assert all((one > 1 - 1e-9).all() for one in edges.similarities.values())
    assert randomisation(network(), IMAGES, gradient).similarities["spearman"][-1].abs().mean() < 0.5


def test_batch_norms_stay_if_asked():
    recorder = Recorder(gradient)
    found = randomisation(network(), IMAGES, recorder, batch_norm=False)
    assert found.stages == ("top", "bottom")
    assert found.kept == ("norm",)
    assert torch.equal(recorder.models[-1].norm.running_mean, network().norm.running_mean)


def test_stages_of_the_caller():
    recorder, model = Recorder(gradient), nn.Sequential(nn.Sequential(network()))
    found = randomisation(model, IMAGES, recorder, stages={"low": "0.0.bottom", "rest": ["0.0.top", "0.0.norm"]})
    assert found.stages == ("low", "rest")
    assert not torch.equal(recorder.models[1][0][0].bottom.weight, model[0][0].bottom.weight)
    assert torch.equal(recorder.models[1][0][0].top.weight, model[0][0].top.weight)
    assert randomisation(model, IMAGES, gradient, stages={"all": "0"}).kept == ()
    with pytest.raises(GpulimeError, match=r"no module 'middle'; it has 0.0.top"):
        randomisation(model, IMAGES, gradient, stages={"one": "middle"})
    with pytest.raises(GpulimeError, match=r"'norms' = \['0.0.norm'\] has no layer to re-initialise"):
        randomisation(model, IMAGES, gradient, stages={"norms": "0.0.norm"}, batch_norm=False)


def test_the_explained_class_stays_or_is_chosen_again():
    found = randomisation(network(), IMAGES, gradient)
    with torch.no_grad():
        first = network().eval()(IMAGES).argmax(1, keepdim=True)
    assert all(torch.equal(one, first) for one in found.labels)
    recorder = Recorder(gradient)
    again = randomisation(network(), IMAGES, recorder, rechoose=True)
    with torch.no_grad():
        expected = [one(IMAGES).argmax(1, keepdim=True) for one in recorder.models]
    assert torch.equal(again.labels, torch.stack(expected))
    assert not torch.equal(again.labels, found.labels)


class Zero(nn.Linear):
    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Unchanged(nn.Conv2d):
    def reset_parameters(self):
        if not hasattr(self, "was_made"):
            super().reset_parameters()
            self.was_made = True


def collapsing():
    torch.manual_seed(0)
    top = Zero(4 * 64, 5)
    nn.init.normal_(top.weight)
    convolution = nn.Conv2d(2, 4, 3, padding=1)
    return nn.Sequential(convolution, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), top)


def test_a_cascade_ends_if_the_spread_collapses():
    model, recorder = collapsing(), Recorder(gradient)
    found = randomisation(model, IMAGES, recorder)
    assert len(recorder.models) == 1
    assert found.similarities["spearman"].isnan().all()
    assert len(found.reasons) == 2 * 3
    assert "fell below 1e-06 of the trained model's" in found.reasons[1, 2, 0]
    assert found.entropy_rise.isnan().all()
    assert "NaN for 6 maps: the spread" in str(found)
    alone = randomisation(model, IMAGES, gradient, order="independent")
    assert alone.similarities["spearman"][0].isnan().all()
    assert alone.similarities["spearman"][1].isfinite().all()
    kept_going = randomisation(model, IMAGES[:1], gradient, least_spread=0)
    assert kept_going.spreads[1] == 0
    assert "the randomised model's map is constant" in kept_going.reasons[0, 0, 0]


def test_lime_with_the_same_seed_differs_by_the_model_alone():
    torch.manual_seed(0)
    model = nn.Sequential(Unchanged(2, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 64, 5))
    found = randomisation(model, IMAGES, lime(0), order="independent", another=lime(1))
    assert (found.similarities["spearman"][1] == 1).all()
    assert (found.similarities["spearman"][0] < 0.9).any()
    assert (found.ceiling["spearman"] < 1).all()
    assert "trained, another seed" in str(found)


def test_constant_and_infinite_maps_are_nan_with_a_reason():
    def method(model, images, labels):
        maps = gradient(model, images, labels)
        maps[1] = 2.0
        maps[2, 0, 0] = torch.inf
        return maps

    found = randomisation(network(), IMAGES, method)
    assert all(one[:, 1:].isnan().all() and one[:, 0].isfinite().all() for one in found.similarities.values())
    small = randomisation(nn.Sequential(nn.AdaptiveAvgPool2d(16), network()), IMAGES[..., :9, :9], gradient)
    assert small.similarities["ssim"].isnan().all()
    assert set(small.reasons.values()) == {"ssim is not defined for such maps: too small or too even"}
    assert found.reasons[0, 1, 0] == "the trained model's map is constant"
    assert found.reasons[2, 2, 0] == "the trained model's map is not finite"
    assert len(found.reasons) == 6


def test_invalid_arguments():
    with pytest.raises(GpulimeError, match="model must be an nn"):
        randomisation(lambda images: images.mean((2, 3)), IMAGES, gradient)
    with pytest.raises(GpulimeError, match="order must be one of 'cascading', 'independent'; got 'cascade'"):
        randomisation(network(), IMAGES, gradient, order="cascade")
    with pytest.raises(GpulimeError, match="no layer to re-initialise: none of 3 modules"):
        randomisation(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES, gradient)
    with pytest.raises(GpulimeError, match=r"must return maps \(n, l, h, w\) = \(3, 1, 16, 16\); got \(3, 2, 16, 16\)"):
        randomisation(network(), IMAGES, lambda model, images, labels: images)
    with pytest.raises(GpulimeError, match="labels must be at most 4, the model's last class; got 5"):
        randomisation(network(), IMAGES, gradient, [0, 1, 5])
    with pytest.raises(GpulimeError, match="images must be a floating tensor"):
        randomisation(network(), IMAGES[0], gradient)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.top = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, images):
        tokens = nn.functional.avg_pool2d(images, 8).flatten(2).transpose(1, 2).repeat(1, 1, 2)
        return self.top(self.attention(tokens, tokens, tokens)[0].mean(1))


def test_layers_without_an_initialiser_are_named():
    with pytest.warns(
        UserWarning, match=r"1 modules have weights but no reset_parameters\(\), .*attention \(MultiheadAttention\)"
    ):
        found = randomisation(Attention(), IMAGES, gradient)
    assert found.stages == ("top", "attention.out_proj")
    assert found.kept == ("attention",)


def test_layers_are_in_the_order_of_their_calls():
    assert from_the_top(network(), IMAGES) == ["top", "norm", "bottom"]
    assert from_the_top(Attention(), IMAGES) == ["top", "attention.out_proj", "attention"]


def test_entropy_is_that_of_a_histogram():
    maps = torch.randn(2, 1, 9, 11)
    maps[1] = 3.0
    counts, _ = np.histogram(maps[0, 0].double().numpy(), bins=100)
    shares = counts[counts > 0] / counts.sum()
    assert float(entropies(maps)[0, 0]) == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-12)
    assert entropies(maps)[1].isnan().all()
    found = randomisation(network(), IMAGES, gradient)
    torch.testing.assert_close(found.entropy_rise, (found.entropies[-1] - found.entropies[0]) / found.entropies[0])


@pytest.mark.parametrize(("given", "got"), [("gradcam", "'gradcam'"), (Explainer(network()), "Explainer"), (3, "int")])
def test_a_method_must_be_callable(given, got):
    right = r"{} must be a callable \(model, images, labels \(n, l\)\) -> maps \(n, l, h, w\); got {}; gpulime.evaluate.methods"
    with pytest.raises(GpulimeError, match=right.format("method", got)):
        randomisation(network(), IMAGES, given)
    called = Recorder(gradient)
    with pytest.raises(GpulimeError, match=right.format("another", got)):
        randomisation(network(), IMAGES, called, another=given)
    assert called.models == []  # it is refused before the cascade
