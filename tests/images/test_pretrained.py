"""The model's own normalisation: used and logged if known, with a warning if not."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gpulime import Explainer, runs
from gpulime.images.pretrained import normalisation
from gpulime.runs.store import store
from gpulime.segments import Grid

OWN = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


class Recorded(nn.Sequential):
    """A classifier that records its normalisation as timm does."""

    def __init__(self, config=OWN, c=3):
        super().__init__(nn.Conv2d(c, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        self.pretrained_cfg = config


def explain(model, images, **settings):
    return Explainer(model, n_samples=20, segments=Grid(3, 3), batch_size=16, **settings).explain(images)


def test_a_models_own_normalisation_is_used_and_said(pictures, caplog):
    model = Recorded().eval()
    expected = explain(model, pictures(), **OWN)
    assert not caplog.records
    with caplog.at_level(logging.INFO, "gpulime"):
        actual = explain(model, pictures())
    assert torch.equal(actual.coefficients, expected.coefficients)
    [said] = caplog.messages
    assert said.startswith("images are normalised as the model's pretrained_cfg says: mean=[0.5, 0.4")
    assert Explainer(model).normalisation.source == "model"
    mean, std = (torch.tensor(OWN[name])[:, None, None] for name in ("mean", "std"))
    actual = explain(model, (pictures() - mean) / std, normalized=True)
    torch.testing.assert_close(actual.predictions, expected.predictions)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda model: nn.DataParallel(torch.compile(model))])
def test_the_normalisation_of_a_wrapped_model_is_used(wrap):
    used = Explainer(wrap(Recorded().eval())).normalisation
    assert (used.source, used.mean.tolist()) == ("model", pytest.approx(OWN["mean"]))


def test_what_is_given_comes_before_the_models_own(pictures):
    model = Recorded().eval()
    expected = explain(lambda x: model(x), pictures())
    actual = explain(model, pictures(), mean=0, std=1)
    torch.testing.assert_close(actual.predictions, expected.predictions)


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (Recorded(), True),
        (SimpleNamespace(config=SimpleNamespace(pretrained_cfg=OWN)), True),
        (Recorded({"mean": 0.5}), False),
        (Recorded({}), False),
        (Recorded(c=13), False),
        (Recorded(c=1), True),
        (Recorded({"mean": [0.5], "std": [0.5]}, c=1), True),
        (lambda x: x, False),
    ],
    ids=["timm", "timm in transformers", "no std", "empty", "13 channels", "gray", "one channel", "a function"],
)
def test_a_normalisation_is_known_for_as_many_channels(model, known):
    assert (normalisation(model) is not None) == known


def test_a_model_of_timm(pictures):
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=5).eval()
    own = timm.data.resolve_model_data_config(model)
    assert normalisation(model) == (own["mean"], own["std"])


def test_a_classifier_of_torchvision_without_mean_and_std_is_asked_about_once(pictures):
    model = type("Classifier", (Recorded,), {"__module__": "torchvision.models.resnet"})({}).eval()
    explainer = Explainer(model, n_samples=20, segments=Grid(3, 3), batch_size=16)
    with pytest.warns(
        UserWarning, match=r"most models of torchvision want them normalised: pass mean and std \(weights.trans"
    ) as said:
        explainer.explain(pictures())
    explainer.explain((255 * pictures()).byte())
    assert len(said) == 1
    explain(model, pictures(), mean=0, std=1)


def test_a_run_is_held_to_the_normalisation_that_is_used(pictures, tmp_path):
    for name, config in (("own", OWN), ("none", {})):
        runs.explain(
            Recorded(config).eval(),
            pictures(2),
            tmp_path / name,
            n_samples=20,
            segments=Grid(3, 3),
            report=False,
            model_id="one",
        )
    fixed = [store.manifest(tmp_path / name)["fixed"] for name in ("own", "none")]
    assert fixed[0]["lime.mean"] == pytest.approx(OWN["mean"])
    assert fixed[0]["lime.std"] == pytest.approx(OWN["std"])
    assert fixed[1]["lime.mean"] is None
