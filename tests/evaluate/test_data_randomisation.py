"""Data randomisation: three networks are trained as the test needs them, and their maps are compared."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from gpulime.errors import GpulimeError
from gpulime.evaluate import data_randomisation, train_networks

IMAGES = torch.rand(40, 1, 12, 12, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) % 4
IMAGES[:, 0, 3:6, 3:6] += LABELS[:, None, None] / 2  # the class is bright here


def trained(labels, steps=60):
    """Train a network that learns true labels and permuted ones."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES), labels).backward()
        optimizer.step()
    return model


def gradient(model, images, labels):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(model(images).gather(1, labels).sum(), images)[0].sum(1)


@pytest.fixture(scope="module")
def networks():
    return train_networks(trained, IMAGES, LABELS)


def test_three_networks_know_their_labels(networks):
    assert networks.are_trained
    assert set(networks.accuracies) == {"true", "permuted", "another"}
    with torch.no_grad():
        found = {name: getattr(networks, name)(IMAGES).argmax(1) for name in networks.accuracies}
    assert torch.equal(found["true"], LABELS)
    assert torch.equal(found["another"], LABELS)
    assert 0.1 < (found["permuted"] == LABELS).float().mean() < 0.5  # by chance
    assert found["permuted"].bincount().tolist() == [10] * 4


def test_starts_differ_as_they_should():
    """Networks of true and permuted labels share a start; the third has another."""
    given = []

    def start(labels):
        given.append(labels)
        return trained(labels, steps=0)

    with pytest.warns(UserWarning, match=r"must know the labels that they were trained on \(above 0.95\); got true 0"):
        found = train_networks(start, IMAGES, LABELS)
    assert torch.equal(found.true[1].weight, found.permuted[1].weight)
    assert not torch.equal(found.true[1].weight, found.another[1].weight)
    assert torch.equal(given[0], LABELS)
    assert torch.equal(given[2], LABELS)
    assert not torch.equal(given[1], LABELS)
    assert torch.equal(given[1].sort().values, LABELS.sort().values)
    assert not found.are_trained


def test_similarities_are_those_of_a_plain_loop(networks):
    found = data_randomisation(networks, IMAGES[:5], gradient, LABELS[:5])
    maps = {name: gradient(getattr(networks, name), IMAGES[:5], LABELS[:5, None]) for name in networks.accuracies}
    for i in range(5):
        for name in ("permuted", "another"):
            expected = spearmanr(maps["true"][i].flatten(), maps[name][i].flatten())[0]
            assert float(getattr(found, name)["spearman"][i, 0]) == pytest.approx(expected, abs=1e-9)
    assert found.another["spearman"].mean() > found.permuted["spearman"].mean() + 0.2
    assert found.reasons == {}
    assert "accuracy on their own training labels: true 1.000" in str(found)


def test_labels_are_those_of_the_network_that_learned_the_true_ones(networks):
    torch.testing.assert_close(data_randomisation(networks, IMAGES[:5], gradient).labels, LABELS[:5, None])


def test_a_method_that_ignores_the_model_fails_the_test(networks):
    found = data_randomisation(networks, IMAGES[:5], lambda model, images, labels: images[:, 0])
    assert (found.permuted["spearman"] > 1 - 1e-9).all()


def test_constant_maps_have_a_reason(networks):
    def constant(model, images, labels):
        maps = gradient(model, images, labels)
        maps[1] = 0
        return maps

    found = data_randomisation(networks, IMAGES[:3], constant)
    assert found.reasons["permuted", 1, 0] == "the map of the network 'permuted' is constant"
    assert found.another["spearman"][:, 0].isnan().tolist() == [False, True, False]


def test_networks_that_prove_nothing_are_refused():
    model = trained(LABELS, 0)
    with pytest.raises(GpulimeError, match="must return a new module in each call"):
        train_networks(lambda labels: model, IMAGES, LABELS)
    with pytest.raises(GpulimeError, match=r"must return a trained nn\.Module; got NoneType"):
        train_networks(lambda labels: None, IMAGES, LABELS)
    with pytest.raises(GpulimeError, match="permuted, they are the same"):
        train_networks(trained, IMAGES, torch.zeros(40, dtype=torch.int64))

    def seeded(labels):
        torch.manual_seed(0)
        return trained(labels, 0)

    with pytest.raises(GpulimeError, match="the same weights for two seeds"):
        train_networks(seeded, IMAGES, LABELS)


def test_a_method_must_be_callable(networks):
    with pytest.raises(GpulimeError, match=r"method must be a callable .* got 'gradcam'; gpulime.evaluate.methods.METHODS"):
        data_randomisation(networks, IMAGES, "gradcam")
