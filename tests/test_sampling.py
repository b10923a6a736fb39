"""Samplers, estimators, presets and stopping of an explainer of images."""

from __future__ import annotations

import pytest
import torch

import gpulime
from gpulime import Explainer
from gpulime.engine.quality import QUALITIES


@pytest.fixture
def explainer(cnn):
    return lambda **settings: Explainer(cnn, segments="grid", mean=0, std=1, **settings)


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_quality_is_its_settings(quality, explainer, pictures, device):
    preset = QUALITIES[quality]
    settings = {name: getattr(preset, name) for name in ("n_samples", "sampler", "estimator", "link")}
    named, given = (explainer(**one).explain(pictures(2).to(device)) for one in ({"quality": quality}, settings))
    assert torch.equal(named.coefficients, given.coefficients)
    assert named.samples.tolist() == [preset.n_samples] * 2


def test_an_argument_beside_a_quality_wins(explainer, pictures):
    found = explainer(quality="fast", n_samples=129, estimator="wls").explain(pictures(1))
    assert found.samples.tolist() == [129]
    expected = explainer(n_samples=129, sampler="blocks", estimator="wls").explain(pictures(1))
    assert torch.equal(found.coefficients, expected.coefficients)


@pytest.mark.parametrize("estimator", ["wls", "gp"])
def test_coefficients_are_those_of_many_samples(estimator, explainer, pictures, device):
    """Within their standard errors, and closer than lime's with as many samples."""
    images, label = pictures(3).to(device), [[0]] * 3
    many = explainer(n_samples=8193, sampler="blocks", estimator="wls").explain(images, label)
    found = explainer(n_samples=257, sampler="blocks", estimator=estimator).explain(images, label)
    lime = explainer(n_samples=257).explain(images, label)
    error, of_lime = ((one.coefficients - many.coefficients).square().mean() for one in (found, lime))
    assert error < 0.7 * of_lime
    inside = (found.coefficients - many.coefficients).abs() <= 2.5 * found.standard_errors
    assert inside.double().mean() > 0.9


@pytest.mark.parametrize(
    "settings", [{"link": "identity"}, {"link": "logit"}, {"n_samples": "auto", "tolerance": 0.01}], ids=str
)
def test_more_labels_of_another_image_change_nothing(settings, explainer, pictures):
    explain = explainer(**{"quality": "fast", "n_samples": 129} | settings).explain
    images = pictures(2)
    alone, beside = explain(images[:1], [[0, 1]]), explain(images, [[0, 1], [1, 2, 3, 4]])
    assert torch.equal(beside.samples[:1], alone.samples)
    torch.testing.assert_close(beside.coefficients[0, :2], alone.coefficients[0], rtol=0, atol=1e-6)
    assert torch.equal(beside.coefficients[0, 2:], beside.coefficients[0, :1].expand(2, -1))


def test_other_classes_may_be_infinite(cnn, pictures):
    def model(rows):
        return torch.cat([cnn(rows), torch.full((len(rows), 1), -torch.inf)], 1)

    found = Explainer(model, 129, "grid", sampler="blocks", estimator="wls", activation=None, mean=0, std=1).explain(
        pictures(1), 0
    )
    assert found.coefficients.isfinite().all()
    assert not found.non_finite.any()


def test_max_samples_must_hold_a_block(explainer, pictures):
    with pytest.raises(
        gpulime.GpulimeError, match="max_samples = 100 is below the 129 samples of a first block for 49 segments"
    ):
        explainer(quality="fast", n_samples="auto", max_samples=100).explain(pictures(1))


def test_few_segments_get_all_masks(cnn, pictures, device):
    explainer = Explainer(cnn, 300, {"grid": {"rows": 2, "columns": 4}}, sampler="blocks", mean=0, std=1)
    found = explainer.explain(pictures(2).to(device))
    assert found.samples.tolist() == [256, 256]
    assert not found.standard_errors.any()


def test_auto_ends_early_and_at_most_at_max_samples(explainer, pictures, device):
    images = pictures(4).to(device)
    settings = {"n_samples": "auto", "sampler": "blocks", "estimator": "gp"}
    loose = explainer(**settings, tolerance=1.0).explain(images)
    tight = explainer(**settings, tolerance=1e-9, max_samples=400).explain(images)
    assert loose.samples.tolist() == [129] * 4
    assert tight.samples.tolist() == [385] * 4
    assert tight.standard_errors.square().mean() < loose.standard_errors.square().mean()


def test_saved_explanations_keep_errors_and_samples(explainer, pictures, tmp_path):
    found = explainer(quality="fast", n_samples=129).explain(pictures(2))
    found.save(tmp_path / "found.npz")
    loaded = gpulime.Explanations.load(tmp_path / "found.npz")
    assert torch.equal(loaded.standard_errors, found.standard_errors)
    assert torch.equal(loaded.samples, found.samples)


SHAPLEY = {"kernel": "shapley", "sampler": "antithetic", "estimator": "wls"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": "best"}, "quality must be one of 'lime', 'fast', 'high'; got 'best'"),
        ({"n_samples": "auto"}, "n_samples=\"auto\" needs pairs of masks: sampler='antithetic' or 'blocks'; got 'bernoulli'"),
        (
            {"n_samples": "many"},
            "n_samples must be a whole number, at least 2, the whole input and one mask, or \"auto\"; got 'many'",
        ),
        ({"estimator": "gp"}, "estimator=\"gp\" needs pairs of masks: sampler='antithetic' or 'blocks'; got 'bernoulli'"),
        ({"estimator": "ols"}, "estimator must be one of 'ridge', 'wls', 'gp'; got 'ols'"),
        ({"quality": "fast", "alpha": 0.1}, "alpha=0.1 needs estimator='ridge'; 'gp' has no penalty"),
        ({"quality": "fast", "distance": lambda masks: masks.sum(-1)}, "estimator='gp' needs a distance by name"),
        ({"quality": "fast", "n_samples": 2}, "n_samples must be at least 3 with sampler='blocks'"),
        ({"quality": "fast", "tolerance": 0.1}, "tolerance=0.1 needs n_samples='auto'; got 257"),
        ({"link": "logit"}, "link='logit' needs estimator='gp'; got 'ridge'"),
        ({"quality": "fast", "link": "probit"}, "link must be one of 'identity', 'logit', 'auto'; got 'probit'"),
        ({"quality": "fast", "n_samples": "auto", "confidence": 1}, "confidence must be a number between 0 and 1"),
        ({"quality": "fast", "n_samples": "auto", "tolerance": 0}, "tolerance must be a number above 0, or None; got 0"),
        ({"quality": "fast", "n_samples": "auto", "max_samples": 1}, "max_samples must be at least 2"),
        ({"quality": "fast", "n_samples": "auto", "tolerance": True}, "tolerance must be a number above 0, or None; got True"),
        ({"confidence": 0.9}, "confidence=0.9 needs n_samples='auto'; got 1000"),
        ({"quality": "fast", "max_samples": 500}, "max_samples=500 needs n_samples='auto'; got 257"),
        (SHAPLEY | {"distance": lambda masks: masks.sum(-1)}, "kernel='shapley' weights masks by the number of shown parts"),
    ],
)
def test_wrong_settings_are_named(settings, message, explainer):
    with pytest.raises(gpulime.GpulimeError) as error:
        explainer(**settings)
    assert message in str(error.value)


def test_too_few_samples_for_the_segments_are_refused_or_warned_of(explainer, pictures):
    with pytest.raises(gpulime.GpulimeError, match="n_samples = 49, in pairs, cannot fit k = 49 segments with estimator='wls'"):
        explainer(n_samples=49, sampler="blocks", estimator="wls").explain(pictures(1))
    with pytest.raises(gpulime.GpulimeError, match="n_samples = 99, in pairs, cannot fit"):  # the whole image and 49 pairs
        explainer(n_samples=99, sampler="blocks", estimator="wls").explain(pictures(1))
    with pytest.warns(UserWarning, match="in pairs, is not above twice k = 49 segments"):
        explainer(n_samples=49, sampler="blocks").explain(pictures(1))
    with pytest.warns(UserWarning, match="n_samples = 48 is below k = 49 segments: coefficients depend on the prior"):
        explainer(n_samples=48, sampler="blocks", estimator="gp").explain(pictures(1))
    explainer(n_samples=49, sampler="blocks", estimator="gp").explain(pictures(1))


def test_logit_needs_probabilities(explainer, pictures):
    explain = explainer(quality="fast", n_samples=129, link="logit", activation=None).explain
    with pytest.raises(gpulime.GpulimeError, match="link='logit' needs outputs that are probabilities"):
        explain(pictures(1))


def test_logit_needs_two_columns(pictures):
    """Softmax asks for a sigmoid, after which only another link is left."""
    settings = {"quality": "fast", "n_samples": 129, "segments": "grid", "mean": 0, "std": 1}

    def model(rows):
        return rows.mean((1, 2, 3))

    for last, message in (("softmax", "use activation='sigmoid'"), ("sigmoid", "one column: take link='identity'")):
        with pytest.raises(gpulime.GpulimeError, match=message):
            Explainer(model, **settings, link="logit", activation=last).explain(pictures(1))
    assert (
        Explainer(model, **settings, link="identity", activation="sigmoid").explain(pictures(1)).coefficients.isfinite().all()
    )
