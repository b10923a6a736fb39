"""The surrogate against scikit-learn, lime, NumPy and the closed form of its limit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import slow
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances, r2_score

from gpulime.engine import ridge
from gpulime.engine.proximity import DISTANCES, KERNELS, proximity
from gpulime.engine.rounds import partners
from gpulime.engine.selection import SELECTIONS
from gpulime.engine.surrogate import Moments, Settings, fit, solved
from gpulime.errors import GpulimeError

COUNTS = [17, 1, 6]


def samples(counts=COUNTS, s=200, l=2):
    """Masks (n, s, k), outputs (n, s, l) with slopes of many sizes beside noise, counts (n,)."""
    counts = torch.tensor(counts)
    n, k = len(counts), int(counts.max())
    masks = torch.rand(n, s, k) < 0.5
    masks[:, 0] = True
    masks &= (torch.arange(k) < counts[:, None])[:, None]
    slopes = torch.randn(n, k, l, dtype=torch.float64) * torch.logspace(0, -2, k, dtype=torch.float64)[:, None]
    return masks, 5 + masks.double() @ slopes + 0.3 * torch.randn(n, s, l, dtype=torch.float64), counts


def each(masks, outputs, counts):
    """(i, j, x, y, w) of each image and label, in scikit-learn's shapes."""
    weights = proximity(masks, counts, Settings()).numpy()
    for i, j in itertools.product(range(len(counts)), range(outputs.shape[2])):
        yield i, j, masks[i, :, : counts[i]].double().numpy(), outputs[i, :, j].numpy(), weights[i]


def assert_near(actual, expected, tolerance):
    """Differences are under ``tolerance`` of the largest expected value."""
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("alpha", [1.0, 0.01, 0.0])
def test_equals_sklearns_ridge(alpha, device):
    masks, outputs, counts = samples()
    fitted = fit(masks.to(device), outputs.to(device), counts.to(device), Settings(alpha=alpha))
    assert (fitted.coefficients.dtype, fitted.coefficients.device.type) == (torch.float64, device.type)
    for i, j, x, y, w in each(masks, outputs, counts):
        ridge = Ridge(alpha, fit_intercept=True).fit(x, y, sample_weight=w)
        coefficients = fitted.coefficients[i, j].cpu()
        assert_near(coefficients[: counts[i]], ridge.coef_, 1e-12)
        assert not coefficients[counts[i] :].any()
        expected = [ridge.intercept_, ridge.score(x, y, sample_weight=w), ridge.predict(x[:1])[0]]
        actual = [float(t[i, j]) for t in (fitted.intercepts, fitted.scores, fitted.local_predictions)]
        np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "num_features"),  # fewer than each image's segments; more than one's, as many as another's; more than all
    [
        *itertools.product(("forward_selection", "highest_weights", "lasso_path"), [3, 8, 100]),
        *(("auto", 6), ("auto", 8)),  # forward selection, highest weights
        ("none", 3),
    ],
)
def test_selects_what_lime_selects(method, num_features):
    lime_base = pytest.importorskip("lime.lime_base")
    masks, outputs, counts = samples([9, 5, 8], s=80)
    settings = Settings(feature_selection=method, num_features=num_features)
    fitted = fit(masks, outputs, counts, settings)
    base = lime_base.LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)))
    for i, j, x, y, _ in each(masks, outputs, counts):
        distances = pairwise_distances(x, x[:1], metric="cosine").ravel()
        intercept, local_exp, score, local_pred = base.explain_instance_with_data(
            x, y[:, None], distances, 0, num_features, feature_selection=method
        )
        expected = np.zeros(9)
        for segment, weight in local_exp:
            expected[segment] = weight
        assert np.array_equal(fitted.coefficients[i, j] != 0, expected != 0)
        assert_near(fitted.coefficients[i, j], expected, 1e-12)
        actual = [float(t[i, j]) for t in (fitted.intercepts, fitted.scores, fitted.local_predictions)]
        np.testing.assert_allclose(actual, [intercept, score, local_pred[0]], rtol=1e-11)


def limit(masks, outputs, width):
    """The coefficients for s -> infinity and alpha = 0 (Garreau and Mardaoui 2021), by enumeration of all masks (2**d, d)."""
    d = masks.shape[1]
    z, on = masks.double().numpy(), masks.sum(1).double().numpy()

    def psi(hidden):
        return np.exp(-((1 - np.sqrt(1 - hidden)) ** 2) / (2 * width**2))

    a0, a1, a2 = (sum(comb(d - p, i) * psi(i / d) for i in range(d - p + 1)) / 2**d for p in range(3))
    c = (d - 1) * a0 * a2 - d * a1**2 + a0 * a1
    s1 = -a1
    s2 = ((d - 2) * a0 * a2 - (d - 1) * a1**2 + a0 * a1) / (a1 - a2)
    s3 = (a1**2 - a0 * a2) / (a1 - a2)
    wf = psi(1 - on / d) * outputs.numpy() / 2**d
    each_segment = z.T @ wf
    return (s1 * wf.sum() + s2 * each_segment + s3 * (each_segment.sum() - each_segment)) / c


@pytest.mark.parametrize("width", [0.25, 0.6])
@pytest.mark.parametrize("d", [4, 8, 12])
def test_all_masks_give_the_closed_form_of_the_limit(d, width):
    masks = torch.arange(2**d - 1, -1, -1)[:, None] >> torch.arange(d) & 1 == 1
    outputs = torch.rand(2**d, dtype=torch.float64) + masks[:, 0] * masks[:, 1]
    fitted = fit(masks[None], outputs[None, :, None], settings=Settings(alpha=0, kernel_width=width))
    assert_near(fitted.coefficients[0, 0], limit(masks, outputs, width), 1e-10)


@pytest.mark.parametrize("alpha", [0.0, 1e-12])
@pytest.mark.parametrize("method", ["none", "forward_selection", "highest_weights", "lasso_path"])
def test_a_linear_model_is_recovered(method, alpha):
    masks, _, counts = samples()
    slopes = torch.randn(3, 17, 1, dtype=torch.float64)
    slopes[:, 5:] = 0
    settings = Settings(alpha=alpha, feature_selection=method, num_features=5)
    fitted = fit(masks, 0.7 + masks.double() @ slopes, counts, settings)
    assert_near(fitted.coefficients, (slopes * (torch.arange(17) < counts[:, None])[..., None]).mT, 1e-10)
    assert_near(fitted.intercepts, torch.full((3, 1), 0.7, dtype=torch.float64), 1e-10)
    assert_near(fitted.scores, torch.ones(3, 1, dtype=torch.float64), 1e-10)


def test_the_highest_weights_of_numbers_are_coefficients_times_the_input():
    """As in lime: of a table's row x0, the column with the largest part of the prediction is chosen."""
    x0, slopes = torch.tensor([[0.01, 2.0]], dtype=torch.float64), torch.tensor([10.0, 1.0], dtype=torch.float64)
    x = torch.cat([x0, torch.randn(200, 2, dtype=torch.float64)])[None]
    outputs = (x @ slopes)[..., None]
    empty = Moments(torch.tensor([2]), 2, outputs[:, 0], x0)
    everything = x, outputs, torch.ones(1, 201, dtype=torch.float64)
    settings = Settings(feature_selection="highest_weights", num_features=1)
    assert solved(empty, [...], lambda _: everything, settings).ranks.tolist() == [[[-1, 0]]]


@pytest.mark.parametrize("value", [0.0, 0.25, -3e6, 1e-30])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("method", SELECTIONS)
def test_a_constant_model_gives_zeros_and_no_score(method, alpha, value):
    masks, outputs, counts = samples()
    settings = Settings(alpha=alpha, feature_selection=method, num_features=3)
    fitted = fit(masks, torch.full_like(outputs, value), counts, settings)
    assert not fitted.coefficients.any()
    assert fitted.scores.isnan().all()
    assert fitted.scores_loo.isnan().all()
    assert not fitted.spreads.any()
    assert (fitted.intercepts == value).all()
    assert (fitted.local_predictions == value).all()


def test_rounding_of_a_constant_is_no_signal():
    masks, outputs, counts = samples()
    noise = 1 + 1e-7 * torch.rand_like(outputs).round()  # the last bit of float32
    assert fit(masks, noise.float(), counts).scores.isnan().all()
    assert fit(masks, 1 + 1e-4 * outputs, counts).scores.isfinite().all()


def test_a_kernel_that_leaves_nearly_nothing_is_no_constant():
    """Outputs vary, even if with little weight; only a constant output has no score, in any batch.

    The whole image, which has all the weight, cannot be predicted by the masks: there is no leave-one-out score.
    """
    masks, outputs, counts = samples()
    weights = torch.full(masks.shape[:2], 1e-60, dtype=torch.float64)
    weights[:, 0] = 1
    everything = [slice(None)]
    fitted = moments(masks, outputs, weights, counts, everything)
    assert_near(fitted.scores, torch.zeros_like(fitted.scores), 1e-12)
    assert fitted.scores_loo.isnan().all()
    assert_near(fitted.spreads, (outputs[:, 1:] - outputs[:, :1]).square().mean(1).sqrt(), 1e-12)
    assert moments(masks, torch.ones_like(outputs), weights, counts, everything).scores.isnan().all()


@pytest.mark.parametrize("method", ["none", "forward_selection", "highest_weights", "lasso_path"])
def test_permuting_segments_permutes_coefficients(method):
    masks, outputs, counts = samples([9, 9])
    settings, order = Settings(feature_selection=method, num_features=4), torch.randperm(9)
    straight, permuted = fit(masks, outputs, counts, settings), fit(masks[..., order], outputs, counts, settings)
    assert_near(permuted.coefficients, straight.coefficients[..., order], 1e-13)
    assert_near(permuted.scores, straight.scores, 1e-13)


def moments(masks, outputs, weights, counts, pieces):
    def part(piece):
        return masks[:, piece], outputs[:, piece], weights[:, piece]

    return solved(Moments(counts, masks.shape[2], outputs[:, 0]), pieces, part, Settings())


def assert_same_fit(actual, expected, tolerance=1e-13):
    for name, value in vars(expected).items():
        assert_near(getattr(actual, name), value, tolerance)


@pytest.mark.parametrize("size", [1, 7, 64, 199, 200])
def test_pieces_of_any_size_give_the_same_fit(size):
    masks, outputs, counts = samples()
    weights = proximity(masks, counts, Settings())
    pieces = torch.arange(200).split(size)
    assert_same_fit(moments(masks, outputs, weights, counts, pieces), fit(masks, outputs, counts))


@pytest.mark.parametrize("together", [1, 2, 3])
def test_errors_do_not_depend_on_how_many_labels_are_computed_together(together, monkeypatch):
    masks, outputs, counts = samples(l=3)
    settings = Settings(num_features=4)
    monkeypatch.setitem(ridge.LABEL_ENTRIES, "cpu", 0)
    one_by_one = fit(masks, outputs, counts, settings)
    monkeypatch.setitem(ridge.LABEL_ENTRIES, "cpu", together * masks.numel())
    assert_same_fit(fit(masks, outputs, counts, settings), one_by_one)


def without(rows, x, y, w):
    """Coefficients of the fit without some samples."""
    kept = np.setdiff1d(np.arange(len(y)), rows)
    return Ridge(1.0).fit(x[kept], y[kept], sample_weight=w[kept]).coef_


def of_pairs(groups, x, y, w):
    """Variances by the residuals of pairs (CR2), and the degrees of freedom of the differences within pairs.

    Noise of variance 1 leaves residuals with the covariance (1 - H)^2; its block of a pair makes them as large as the noise.
    """
    fitted = Ridge(1.0).fit(x, y, sample_weight=w)
    root, centred = np.sqrt(w), x - np.average(x, axis=0, weights=w)
    scaled, residual = root[:, None] * centred, root * (y - fitted.predict(x))
    inverse = np.linalg.inv(scaled.T @ scaled + np.eye(x.shape[1]))
    left = np.eye(len(y)) - scaled @ inverse @ scaled.T - np.outer(root, root) / w.sum()
    changes, degrees = [], 0.0
    for rows in groups:
        block = (left @ left)[np.ix_(rows, rows)]
        values, vectors = np.linalg.eigh(block)
        changes.append(inverse @ scaled[rows].T @ (vectors / np.sqrt(values) @ vectors.T) @ residual[rows])
        if len(rows) == 2:
            degrees += np.array([1, -1]) @ block @ [1, -1] / 2
    return np.square(changes).sum(0), degrees


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("num_features", [None, 4])
def test_variances_are_sums_over_samples_or_pairs(paired, num_features):
    """Changes by single samples are those of the fits without them (HC3); pairs have Student's interval."""
    masks, outputs, counts = samples([6], s=41)
    masks[:, 2::2] = ~masks[:, 1::2]
    settings = Settings(feature_selection="none" if num_features is None else "highest_weights", num_features=num_features)
    weights = proximity(masks, counts, settings)
    pieces = masks.double(), outputs, weights, partners(41, masks.device) if paired else None
    fitted = solved(Moments(counts, 6, outputs[:, 0]), [...], lambda _: pieces, settings)
    groups = [[0], *([i, i + 1] for i in range(1, 41, 2))] if paired else [[i] for i in range(41)]
    for i, j, x, y, w in each(masks, outputs, counts):
        chosen = fitted.ranks[i, j].numpy() >= 0
        beta, some = fitted.coefficients[i, j].numpy()[chosen], x[:, chosen]
        if paired:
            expected, degrees = of_pairs(groups, some, y, w)
            student, tolerance = (stats.t.ppf(0.975, degrees) / 1.96) ** 2, 1e-3
        else:
            expected, student, tolerance = np.square([beta - without(rows, some, y, w) for rows in groups]).sum(0), 1, 1e-9
        found = fitted.standard_errors[i, j].numpy()[chosen] ** 2
        np.testing.assert_allclose(found, student * expected, rtol=tolerance)
        np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-9)
        assert not fitted.standard_errors[i, j].numpy()[~chosen].any()


def test_a_duplicated_sample_equals_a_doubled_weight():
    masks, outputs, counts = samples()
    weights = proximity(masks, counts, Settings())
    everything, twice = torch.arange(200), torch.arange(50, 90)
    doubled = weights.clone()
    doubled[:, twice] *= 2
    duplicated = moments(masks, outputs, weights, counts, [everything, twice])
    expected = moments(masks, outputs, doubled, counts, [everything])
    # One of two stays when the other is left out.
    left_out = {"scores_loo": expected.scores_loo, "standard_errors": expected.standard_errors}
    assert_same_fit(replace(duplicated, **left_out), expected)
    assert (duplicated.scores_loo > expected.scores_loo).all()
    assert not torch.allclose(duplicated.coefficients, fit(masks, outputs, counts).coefficients, rtol=1e-4)


@pytest.mark.parametrize("twins", [1, 3])
def test_a_singular_system_gives_the_answer_of_least_norm(twins):
    """As NumPy's lstsq: segments always shown or hidden together share their slope; one always shown gets 0."""
    masks, outputs, counts = samples([12, 4, 9])
    masks[..., 1 : 1 + twins] = masks[..., :1]
    masks[0, :, 7] = True
    fitted = fit(masks, outputs, counts, Settings(alpha=0))
    for i, j, x, y, w in each(masks, outputs, counts):
        centred, root = x - np.average(x, axis=0, weights=w), np.sqrt(w)
        expected = np.linalg.lstsq(centred * root[:, None], (y - np.average(y, weights=w)) * root, rcond=1e-9)[0]
        assert_near(fitted.coefficients[i, j, : counts[i]], expected, 1e-10)
        design = np.column_stack([np.ones(len(x)), x])
        rest = ~np.eye(len(x), dtype=bool)
        left_out = [
            design[r] @ np.linalg.lstsq(design[rest[r]] * root[rest[r], None], y[rest[r]] * root[rest[r]], rcond=1e-9)[0]
            for r in range(len(x))
        ]
        assert fitted.scores_loo[i, j] == pytest.approx(r2_score(y, left_out, sample_weight=w), abs=1e-9)


@pytest.mark.parametrize("s", [8, 20, 40])
@pytest.mark.parametrize("settings", [{}, {"alpha": 1e-3}, {"num_features": 4}, {"kernel_width": 0.05}], ids=str)
def test_the_leave_one_out_score_is_that_of_fits_without_each_sample(settings, s):
    """Also with fewer samples than segments, and if the whole image outweighs the masks."""
    masks, outputs, counts = samples([17, 2, 6], s)
    settings = Settings(**settings)
    fitted = fit(masks, outputs, counts, settings)
    weights = proximity(masks, counts, settings).numpy()
    for i, j in itertools.product(range(3), range(2)):
        used = (fitted.ranks[i, j] >= 0).numpy()
        x, y, w = masks[i][:, used].double().numpy(), outputs[i, :, j].numpy(), weights[i]
        expected = r2_score(y, slow.left_out(x, y, w, settings.alpha), sample_weight=w)
        assert float(fitted.scores_loo[i, j]) == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_with_fewer_samples_the_score_rises_and_the_leave_one_out_score_falls():
    """docs/scores.md: the model answers with noise in part, and 55 coefficients follow the noise of few samples."""
    masks, outputs, counts = samples([55] * 8, 1000, 1)
    found = [fit(masks[:, :s], outputs[:, :s], counts) for s in (1000, 200, 100, 20)]
    scores, left_out = (torch.stack([getattr(one, name).mean() for one in found]) for name in ("scores", "scores_loo"))
    assert (scores[1:] > scores[:-1]).all()
    assert (left_out[1:] < left_out[:-1]).all()
    assert scores[-1] > 0.9
    assert left_out[-1] < 0.1
    assert scores[0] - left_out[0] < 0.05


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_sample_that_fixes_a_coefficient_alone_leaves_the_score_undefined(alpha):
    masks, outputs, _ = samples([4], l=1)
    masks[0, :, 1] = True
    masks[0, 7, 1] = False
    fitted = fit(masks, outputs, settings=Settings(alpha=alpha))
    assert bool(fitted.scores_loo.isnan()) == (alpha == 0)
    assert fitted.scores.isfinite().all()


def test_masks_without_weight_have_no_spread():
    masks, outputs, counts = samples()
    weights = torch.zeros(masks.shape[:2], dtype=torch.float64)
    weights[:, 0] = 1
    fitted = moments(masks, outputs, weights, counts, [slice(None)])
    for values in (fitted.scores, fitted.scores_loo, fitted.spreads):
        assert values.isnan().all()


@pytest.mark.parametrize("alpha", [1e-9, 1e-15, 1e-18, 1e-100])
def test_a_vanishing_penalty_on_a_singular_system_still_gives_a_solution(alpha):
    masks, outputs, counts = samples([12, 4, 9])
    masks[..., 1] = masks[..., 0]
    singular, least = (fit(masks, outputs, counts, Settings(alpha=a)) for a in (alpha, 0.0))
    assert_near(singular.scores, least.scores, 1e-6)
    assert_near(singular.coefficients.sum(-1), least.coefficients.sum(-1), 1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_sklearns(name):
    masks = torch.rand(1, 60, 13) < torch.linspace(0, 1, 60)[:, None]
    masks[0, 0], masks[0, 1] = True, False
    counts = torch.tensor([13])
    raw = proximity(masks, counts, Settings(distance=name, kernel=lambda d, width: d))[0].numpy()
    rows = masks[0].numpy() if name in ("jaccard", "dice") else masks[0].double().numpy()
    np.testing.assert_allclose(raw, pairwise_distances(rows, rows[:1], metric=name).ravel(), rtol=1e-12, atol=1e-8)
    padded = torch.cat([masks, torch.zeros(1, 60, 4, dtype=torch.bool)], dim=2)
    np.testing.assert_array_equal(proximity(padded, counts, Settings(distance=name, kernel=lambda d, width: d))[0], raw)


@pytest.mark.parametrize("width", [0.25, None, 2.0])
def test_kernels(width):
    masks, _, counts = samples()
    distances = proximity(masks, counts, Settings(kernel=lambda d, width: d)).numpy()
    widths = np.array([width or 0.75 * count**0.5 for count in COUNTS])[:, None]
    expected = {"exponential": np.sqrt(np.exp(-(distances**2) / widths**2)), "uniform": np.ones_like(distances)}
    assert expected.keys() == KERNELS.keys()
    for name, weights in expected.items():
        np.testing.assert_allclose(proximity(masks, counts, Settings(kernel=name, kernel_width=width)), weights, rtol=1e-13)


def test_callables_see_each_images_own_segments():
    masks, _, counts = samples()
    seen = []

    def distance(rows):
        assert torch.equal(rows, rows.bool().double())
        seen.append(tuple(rows.shape))
        return rows.mean(1).numpy()

    weights = proximity(masks, counts, Settings(distance=distance, kernel=lambda d, width: (d + width).tolist()))
    assert seen == [(200, 17), (200, 1), (200, 6)]
    torch.testing.assert_close(weights, masks.sum(-1) / counts[:, None].double() + 0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": lambda rows: rows}, r"distance must return one number per sample, \(s,\) = \(200,\); got \(200, 17\)"),
        ({"distance": lambda rows: rows.mean(1) / 0}, "distance must return finite numbers; got NaN or infinity"),
        ({"kernel": lambda d, width: 1.0}, r"kernel must return one number per sample, \(s,\) = \(200,\); got \(\)"),
        ({"kernel": lambda d, width: d - 1}, "kernel must return weights of 0 or more; got negative ones"),
    ],
)
def test_what_callables_must_return(settings, message):
    masks, _, counts = samples()
    with pytest.raises(GpulimeError, match=message):
        proximity(masks, counts, Settings(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "exponentail"}, r"kernel must be one of 'exponential', .* 'shapley'; .* \(did you mean 'exponential'\?\)"),
        ({"distance": "cosin"}, r"distance must be one of 'cosine', .* 'dice'; got 'cosin' \(did you mean 'cosine'\?\)"),
        ({"feature_selection": "lasso"}, r"'none', 'auto', .* got 'lasso' \(did you mean 'lasso_path'\?\)"),
        ({"alpha": -1.0}, "alpha must be a number, 0 or more, and finite; got -1.0"),
        ({"alpha": float("nan")}, "alpha must be a number, 0 or more, and finite; got nan"),
        ({"alpha": float("inf")}, "alpha must be a number, 0 or more, and finite; got inf"),
        ({"kernel_width": 1e-200}, "kernel_width must be a positive number, .* got 1e-200"),
        ({"kernel_width": 0.0}, r"kernel_width must be a positive number, or None for 0.75 \* sqrt\(k\); got 0.0"),
        ({"alpha": "1"}, "alpha must be a number, 0 or more, and finite; got '1'"),
        ({"kernel_width": "a"}, "kernel_width must be a positive number, .* got 'a'"),
        ({"num_features": 2.5}, "num_features must be a whole number, at least 1, or None for all; got 2.5"),
        ({"num_features": 0}, "num_features must be at least 1, or None for all; got 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(GpulimeError, match=message):
        Settings(**settings)


def test_outputs_that_do_not_fit_the_masks():
    masks, outputs, counts = samples()
    with pytest.raises(GpulimeError, match=r"outputs must be \(n, s, l\) = \(3, 200, 'l'\); got \(3, 199, 2\)"):
        fit(masks, outputs[:, 1:], counts)


def test_a_kernel_that_weighs_nothing_is_an_error():
    masks, outputs, counts = samples()
    with pytest.raises(GpulimeError, match="a weight above 0 for some samples; got 0 for all"):
        fit(masks, outputs, counts, Settings(kernel=lambda d, width: 0 * d))


@pytest.mark.parametrize("method", ["none", "forward_selection", "highest_weights", "lasso_path"])
@pytest.mark.parametrize("wanted", [1, 3, None])
def test_ranks_number_the_selected_parts_from_0(method, wanted):
    masks, outputs, counts = samples()
    ranks = fit(masks, outputs, counts, Settings(feature_selection=method, num_features=wanted)).ranks
    for i, j in itertools.product(range(len(counts)), range(outputs.shape[2])):
        selected = [rank for rank in ranks[i, j].tolist() if rank >= 0]
        assert sorted(selected) == list(range(len(selected)))
        assert 1 <= len(selected) <= min(int(counts[i]), wanted if wanted and method != "none" else 99)
