"""TCAV: scores of a concept that matters and of one that does not, against chance."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from gpulime.errors import GpulimeError
from gpulime.evaluate import tcav
from gpulime.evaluate.tcav import p_value


def pictures(n, seed, channel=None):
    """Noise, with one bright channel."""
    made = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    if channel is not None:
        made[:, channel] += 1
    return made


class Red(nn.Module):
    """Class 0 grows with channel 0 if that is above 1.5, class 1 with channel 1."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity())

    def forward(self, images):
        found = self.features(images)
        return torch.stack([(found[:, 0] - 1.5) ** 2, found[:, 1] ** 2], 1)


RANDOMS = [pictures(20, seed) for seed in range(4)]


def test_scores_against_chance():
    pytest.importorskip("captum")
    concepts = {"red": pictures(20, 10, 0), "green": pictures(20, 11, 1)}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    images = pictures(16, 12, 0)
    found = tcav(Red().train(), "features", images, 0, concepts, RANDOMS)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    rises = [float(image[0].mean()) > 1.5 for image in images]
    assert 0 < sum(rises) < 16
    assert found.scores["red"].tolist() == [sum(rises) / 16] * 4
    assert (found.accuracies["red"] > 0.9).all()
    assert found.chance.shape == (6,)
    assert f"red: {sum(rises) / 16:.2f} +- 0.00, p = " in str(found)
    other = tcav(Red(), "features", pictures(8, 12, 1), 1, concepts, RANDOMS)
    assert other.scores["green"].tolist() == [1.0] * 4
    again = tcav(Red(), "features", images, 0, concepts, RANDOMS)
    assert all(torch.equal(again.scores[name], found.scores[name]) for name in concepts)


def test_p_values_are_those_of_welch():
    from scipy.stats import ttest_ind

    scores, chance = torch.tensor([0.9, 1.0, 0.8], dtype=torch.float64), torch.tensor([0.4, 0.7, 0.2, 0.5], dtype=torch.float64)
    assert p_value(scores, chance) == pytest.approx(ttest_ind(scores, chance, equal_var=False).pvalue)
    assert p_value(scores, chance) < 0.05
    assert p_value(torch.ones(3), torch.zeros(3)) == 0
    assert p_value(torch.ones(3), torch.ones(4)) == 1


def test_invalid_arguments(monkeypatch):
    red = {"red": pictures(5, 10, 0)}
    with pytest.raises(GpulimeError, match=r"at least 3 sets of random images, .*; got 2"):
        tcav(Red(), "features", pictures(4, 0), 0, red, RANDOMS[:2])
    with pytest.raises(GpulimeError, match=r"layer must be a module of the model: features, features.0, .*; got 'top'"):
        tcav(Red(), "top", pictures(4, 0), 0, red, RANDOMS)
    with pytest.raises(GpulimeError, match=r"randoms\[3\] must be a floating tensor"):
        tcav(Red(), "features", pictures(4, 0), 0, red, [*RANDOMS[:3], RANDOMS[3][0]])
    with pytest.raises(GpulimeError, match="concept 'red' must have at least 4 images; got 3"):
        tcav(Red(), "features", pictures(4, 0), 0, {"red": red["red"][:3]}, RANDOMS)
    with pytest.raises(GpulimeError, match="label must be at most 1, the model's last class; got 2"):
        tcav(Red(), "features", pictures(4, 0), 2, red, RANDOMS)
    with pytest.raises(GpulimeError, match="concepts must be a mapping"):
        tcav(Red(), "features", pictures(4, 0), 0, {}, RANDOMS)
    monkeypatch.setitem(sys.modules, "captum.concept", None)
    with pytest.raises(GpulimeError, match=r"tcav needs captum: pip install 'gpulime\[compare\]'"):
        tcav(Red(), "features", pictures(4, 0), 0, red, RANDOMS)
