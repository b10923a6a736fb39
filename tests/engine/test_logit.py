"""The logit link: a model of the log-probabilities, projected on lime's linear model; and the estimate of a saturated one."""

from __future__ import annotations

import pytest
import torch
from test_walsh import all_masks, limit_of, slopes_of

from gpulime.engine import gaussian_process, logit, pairs
from gpulime.engine.designs import Blocks
from gpulime.engine.gaussian_process import Prior
from gpulime.engine.settings import Settings

K = 10
LABELS = torch.tensor([[0, 3]])


def classifier(x, strength=2.0, classes=30, seed=0):
    """Probabilities (..., classes) of rows x (..., K) of -1 and 1, nearly sure for most of them."""
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(x.shape[-1], classes, generator=generator, dtype=torch.float64)
    slopes[:, 1:] *= torch.linspace(0.8, 0.02, classes - 1, dtype=torch.float64)
    mixed = x[..., :1] * x[..., 1:2] * torch.linspace(0.5, 0, classes, dtype=torch.float64)
    return (strength * (x @ slopes) + mixed).softmax(-1)


def sample(k=K, s=129, strength=2.0, n=1, keys=None):
    counts = torch.full((n,), k)
    masks = Blocks(0, s).draw(torch.arange(n) if keys is None else keys, counts, k, 0, s)
    return masks, classifier(2.0 * masks.double() - 1, strength), counts


def estimate(masks, outputs, counts, link, labels=None):
    labels = torch.tensor([[0, 3]]).expand(len(counts), 2) if labels is None else labels
    fresh = torch.ones_like(labels, dtype=torch.bool)
    return pairs.solved(masks, outputs, labels, fresh, counts, Settings(estimator="gp", link=link))


def test_log_probabilities_are_those_of_the_labels_and_of_the_rest_as_one():
    _, outputs, _ = sample()
    labels = torch.tensor([[29, 3]])
    z, place = logit.log_probabilities(outputs, labels)
    p = z.softmax(-1)
    assert p.shape == (1, 129, logit.CLASSES + 1)
    torch.testing.assert_close(p[..., place[0]], outputs[..., [29, 3]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(p.sum(-1), torch.ones(1, 129, dtype=torch.float64))
    few, _ = logit.log_probabilities(outputs[..., :5] / outputs[..., :5].sum(-1, keepdim=True), torch.tensor([[4]]))
    assert few.shape == (1, 129, 5)


def model_of(masks, outputs, counts):
    z, place = logit.log_probabilities(outputs[:, 1:], LABELS)
    rows = 2.0 * masks[:, 1::2].double() - 1
    scales = gaussian_process.scales(rows, (z[:, ::2] - z[:, 1::2]) / 2, counts)
    return gaussian_process.posterior(Prior.of(rows, scales, limit_of(K)), z[:, ::2], z[:, 1::2]), place


def test_projection_gives_the_slopes_of_the_fit_to_all_masks():
    masks, outputs, counts = sample()
    model, place = model_of(masks, outputs, counts)
    slopes, variances, _ = logit._projected(model, place, counts, Settings())
    everywhere = model.predict(all_masks(K)[1][None])[0].softmax(-1)[:, place[0]]
    expected = slopes_of(everywhere, K)
    torch.testing.assert_close(slopes[0], expected, rtol=0, atol=1e-5)  # the rows hold every mask as often
    assert (variances > 0).all()


def test_variances_are_those_of_other_rows(monkeypatch):
    monkeypatch.setattr(logit, "ROWS", 512)
    masks, outputs, counts = sample(k=24, s=257)
    rows = 2.0 * masks[:, 1::2].double() - 1
    z, place = logit.log_probabilities(outputs[:, 1:], LABELS)
    scales = gaussian_process.scales(rows, (z[:, ::2] - z[:, 1::2]) / 2, counts)
    model = gaussian_process.posterior(Prior.of(rows, scales, limit_of(24)), z[:, ::2], z[:, 1::2])
    found = []
    for seed in range(40):
        monkeypatch.setattr(logit, "PROJECTION", seed)
        slopes, variances, _ = logit._projected(model, place, counts, Settings())
        found.append(slopes)
    assert 0.7 < float(variances.mean() / torch.stack(found).var(0).mean()) < 1.6


def test_influence_is_the_change_without_a_pair(monkeypatch):
    monkeypatch.setattr(gaussian_process, "ODD", [(0.9, 0.05, 0.05)])
    monkeypatch.setattr(gaussian_process, "EVEN", [(0.5, 0.5)])
    masks, outputs, counts = sample(s=257, strength=0.5)
    model, place = model_of(masks, outputs, counts)
    slopes, _, influence = logit._projected(model, place, counts, Settings())
    said, seen = [], []
    for i in range(0, 128, 16):
        kept = [0, *(j for j in range(1, 257) if (j - 1) // 2 != i)]
        scales = model.scales
        rows = 2.0 * masks[:, kept][:, 1::2].double() - 1
        z, place = logit.log_probabilities(outputs[:, 1:], LABELS)
        z = z[:, [j - 1 for j in kept[1:]]]
        refit = gaussian_process.posterior(Prior.of(rows, scales, limit_of(K)), z[:, ::2], z[:, 1::2])
        seen.append(slopes - logit._projected(refit, place, counts, Settings())[0])
        said.append(influence[:, i])
    said, seen = torch.stack(said).flatten(), torch.stack(seen).flatten()
    assert float(torch.corrcoef(torch.stack([said, seen]))[0, 1]) > 0.9
    assert 0.7 < float(said.norm() / seen.norm()) < 1.4


@pytest.mark.parametrize("link", ["logit", "auto"])
def test_a_saturated_classifier_is_explained_better(link):
    n, k = 12, K
    masks, outputs, counts = sample(s=129, strength=4.0, n=n)
    truth = slopes_of(classifier(all_masks(k)[1], 4.0)[:, [0, 3]], k)
    errors = {}
    for name in ("identity", link):
        found = estimate(masks, outputs, counts, name)
        errors[name] = float((found.coefficients - truth).square().mean())
        inside = ((found.coefficients - truth).abs() <= 1.96 * found.standard_errors).double().mean()
        assert inside > 0.85, name
    assert errors[link] < 0.6 * errors["identity"]


def test_auto_leaves_a_linear_output_to_the_identity():
    masks, _, counts = sample(s=65)
    x = 2.0 * masks.double() - 1
    first = 0.5 + x @ torch.logspace(-1.2, -3, K, dtype=torch.float64)
    outputs = torch.stack([first, 1 - first], -1)
    labels = torch.tensor([[0]])
    auto, identity = (estimate(masks, outputs, counts, link, labels).coefficients for link in ("auto", "identity"))
    torch.testing.assert_close(auto, identity, rtol=0, atol=1e-4)


def test_scores_have_no_logit():
    masks, outputs, counts = sample(s=65)
    auto, identity = (estimate(masks, outputs * 3 - 1, counts, link) for link in ("auto", "identity"))
    assert torch.equal(auto.coefficients, identity.coefficients)
    assert logit.probabilities(outputs).all()
    assert not logit.probabilities(outputs * 0.9).any()
