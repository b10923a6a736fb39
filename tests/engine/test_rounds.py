"""Planned flights: all masks of a few parts, equal masks predicted once, standard errors, rounds until inputs are settled."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from test_masked import Given
from test_walsh import all_masks, slopes_of

from gpulime.engine.batch_size import BatchSize
from gpulime.engine.engine import Engine
from gpulime.engine.masked import Masked, Wanted
from gpulime.engine.masks import resolve
from gpulime.engine.model import Predictor
from gpulime.engine.settings import Settings
from gpulime.engine.stopping import Stopping
from gpulime.engine.surrogate import fit
from gpulime.errors import GpulimeError

K = 30  # columns of a mask
LOOK = 4  # rows by which the engine sees that a model is steady


class Games(Masked):
    """Inputs whose outputs are a function of the mask: a row is the input's number and its mask."""

    by_mask = True

    def __init__(self, counts, numbers, keys):
        self.counts, self.numbers, self.keys = counts, numbers, keys
        self.most, self.k = int(counts.max()), K
        self.kind, self.wanted = ((K + 1,), torch.float64, torch.device("cpu")), Wanted()

    def rows(self, index, samples, masks):
        return torch.cat([self.numbers[index][:, None], masks], 1).double()

    def part(self, where):
        return Games(self.counts[where], self.numbers[where], self.keys[where])


class Model:
    """Two outputs of each row; counts the rows."""

    def __init__(self, noise=0.0, step=False):
        self.rows, self.noise, self.step = 0, noise, step

    def __call__(self, rows):
        self.rows += len(rows)
        number, z = rows[:, 0], rows[:, 1:]
        x = 2 * z - 1
        slopes = torch.logspace(0, -2, x.shape[1], dtype=torch.float64)
        if self.step:
            slopes = torch.where(torch.arange(x.shape[1]) < 5, -1.0, 0.1).double()
        linear = (x * slopes).sum(1) * (1 + number / 7)
        mixed = x[:, 0] * x[:, 1] * 0.4 + self.noise * torch.sin(1e4 * (x * slopes.flip(0)).sum(1))
        first = torch.sigmoid(linear + mixed)
        return torch.stack([first, 1 - first], 1)


def explain(model, counts, numbers=None, keys=None, sampler="blocks", n_samples=129, stopping=None, batch_size=37, **settings):
    everything = torch.arange(len(counts))
    games = Games(
        torch.tensor(counts),
        everything if numbers is None else torch.tensor(numbers),
        everything + 5 if keys is None else torch.tensor(keys),
    )
    predictor = Predictor(model, None, "float32", None)
    sampler, sizes = resolve(sampler, 0, n_samples), BatchSize(batch_size)
    engine = Engine(predictor, sizes, Given(), sampler, n_samples, 1, Settings(**settings), stopping)
    pieces = list(engine.stream([games]))
    return type(pieces[0]).cat(pieces)


@pytest.mark.parametrize("estimator", ["wls", "gp"])
@pytest.mark.parametrize("sampler", ["antithetic", "blocks"])
def test_few_parts_get_all_masks_and_exact_coefficients(sampler, estimator):
    model = Model()
    found = explain(model, [5, 30, 3], sampler=sampler, estimator=estimator)
    assert found.samples.tolist() == [32, 129, 8]
    assert found.exhaustive.tolist() == [True, False, True]
    assert model.rows == 32 + 129 + 8 + LOOK
    for i, k in ((0, 5), (2, 3)):
        masks, _ = all_masks(k)
        rows = torch.cat([torch.full((2**k, 1), i), torch.nn.functional.pad(masks, (0, K - k))], 1).double()
        expected = slopes_of(Model()(rows), k)[found.labels[i, 0]]
        torch.testing.assert_close(found.coefficients[i, 0, :k], expected, rtol=0, atol=1e-6)
    assert not found.standard_errors[[0, 2]].any()
    assert (found.standard_errors[1, 0] > 0).all()


@pytest.mark.parametrize("estimator", ["ridge", "wls", "gp"])
def test_with_all_masks_none_is_left_out(estimator):
    found = explain(Model(), [1, 2, 3, 5], estimator=estimator, alpha=1.0)
    assert found.samples.tolist() == [2, 4, 8, 32]
    assert torch.equal(found.scores_loo, found.scores)
    assert (found.scores > 0).all()


@pytest.mark.parametrize(("estimator", "n_samples", "used"), [("gp", 128, 127), ("gp", 129, 129), ("wls", 128, 128)])
def test_a_process_predicts_no_row_without_its_complement(estimator, n_samples, used):
    model = Model()
    found = explain(model, [30, 7], n_samples=n_samples, estimator=estimator)
    assert found.samples.tolist() == [used, 128]  # all masks of the second
    assert model.rows == used + 128 + LOOK


@pytest.mark.parametrize("estimator", ["ridge", "wls", "gp"])
@pytest.mark.parametrize("stopping", [None, Stopping(tolerance=0.1, max_samples=64)], ids=["fixed", "auto"])
def test_all_masks_can_be_asked_for_by_name(estimator, stopping):
    """As a design chooses them by itself; for more parts it is an error, before any forward."""
    settings = {"stopping": stopping, "estimator": estimator, "n_samples": 64}
    found, expected = (explain(Model(), [5, 6, 1], sampler=name, **settings) for name in ("exhaustive", "antithetic"))
    assert found.samples.tolist() == [32, 64, 2]
    assert found.exhaustive.all()
    assert torch.equal(found.coefficients, expected.coefficients)
    setting = "max_samples" if stopping else "n_samples"
    with pytest.raises(
        GpulimeError, match=rf"all 2\^7 masks of 7 parts, and {setting} = 64: take {setting} = 2\^7, fewer parts"
    ):
        explain(model := Model(), [5, 7, 1], sampler="exhaustive", **settings)
    assert model.rows == 0


def test_lime_draws_its_samples_for_few_parts_too():
    found = explain(Model(), [3], sampler="bernoulli")
    assert (found.samples.tolist(), found.exhaustive.tolist()) == ([129], [False])


@pytest.mark.parametrize(("sampler", "estimator"), [("antithetic", "wls"), ("bernoulli", "ridge"), ("lime", "wls")])
def test_equal_masks_are_predicted_once(sampler, estimator):
    model = Model()
    found = explain(model, [9], sampler=sampler, n_samples=401, estimator=estimator)
    assert found.samples.tolist() == [401]
    assert model.rows < 330  # 400 draws of 512 masks hit about 280


@pytest.mark.parametrize("sampler", ["bernoulli", "lime"])
def test_explanations_are_the_same_if_equal_masks_are_predicted_once(sampler, monkeypatch):
    settings = {"counts": [9, 30, 2], "sampler": sampler, "n_samples": 200, "estimator": "ridge"}
    found = explain(model := Model(), **settings)
    monkeypatch.setattr("gpulime.engine.engine.has_equal_masks", lambda inputs, n_samples: False)
    expected = explain(every := Model(), **settings)
    assert model.rows < every.rows - 200
    for name in ("coefficients", "standard_errors", "scores_loo", "local_predictions", "labels", "samples"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=0)


PAIRS = [("bernoulli", "ridge"), ("antithetic", "wls"), ("antithetic", "ridge"), ("blocks", "wls"), ("blocks", "gp")]


@pytest.mark.parametrize(("sampler", "estimator"), PAIRS)
def test_standard_errors_are_the_spread_over_seeds(sampler, estimator):
    seeds = 120
    found = explain(
        Model(noise=0.3), [24] * seeds, [0] * seeds, range(seeds), sampler, 257, batch_size=1000, estimator=estimator
    )
    spread = found.coefficients[:, 0, :24].std(0).square().mean()
    said = found.standard_errors[:, 0, :24].square().mean()
    assert 0.7 < float(said / spread) < 1.6


def test_an_input_is_explained_alike_alone_and_beside_others():
    stopping = Stopping(tolerance=0.02, max_samples=400)
    settings = {"sampler": "blocks", "stopping": stopping, "estimator": "gp"}
    together = explain(Model(noise=0.2), [30, 12, 4, 30, 20], batch_size=50, **settings)
    assert together.samples.tolist()[2] == 16
    assert len(set(together.samples.tolist())) > 2
    for i, k in enumerate([30, 12, 4, 30, 20]):
        alone = explain(Model(noise=0.2), [k], [i], [5 + i], batch_size=11, **settings)
        assert int(alone.samples) == int(together.samples[i])
        torch.testing.assert_close(alone.coefficients[0], together.coefficients[i], rtol=0, atol=1e-9)


def test_the_logit_link_estimates_nothing_from_outputs_that_are_no_probabilities():
    """The engine fails for the first inputs; later ones become NaN, since a check would wait for the device."""

    def model(rows):
        outputs = Model()(rows)
        return torch.where((rows[:, :1] == 40) & (rows[:, 1:2] == 0), 3 * outputs - 1, outputs)

    found = explain(model, [30] * 40 + [30, 4, 30], estimator="gp", link="logit")
    assert found.non_finite.tolist() == [0] * 40 + [64, 0, 0]
    assert found.coefficients[40].isnan().all()
    assert found.coefficients[[*range(40), 41, 42]].isfinite().all()


def test_rounds_end_at_the_tolerance():
    model = Model(noise=0.3)
    stopping = Stopping(tolerance=0.02, max_samples=5000)
    found = explain(model, [24] * 4, keys=range(4), stopping=stopping, estimator="wls", batch_size=64)
    errors = found.standard_errors[:, 0, :24].square().mean(1).sqrt()
    assert (errors <= 0.02).all()
    assert (found.samples % 64 == 1).all()
    assert model.rows == int(found.samples.sum()) + LOOK
    fewer = int(found.samples.max()) - 64
    before = explain(Model(noise=0.3), [24] * 4, keys=range(4), n_samples=fewer, estimator="wls")
    assert (before.standard_errors[:, 0, :24].square().mean(1).sqrt() > 0.02).any()


def test_rounds_end_at_the_most_samples():
    stopping = Stopping(tolerance=1e-9, max_samples=300)
    assert explain(Model(noise=0.3), [24], stopping=stopping, estimator="wls").samples.tolist() == [257]


def test_settled_parts_are_the_true_ones():
    """With confidence 0.95, the five largest coefficients and their signs are wrong for at most about 5 % of the inputs."""
    seeds, k = 40, 24
    stopping = Stopping(max_samples=1100)
    found = explain(
        Model(noise=0.2, step=True), [k] * seeds, [0] * seeds, range(seeds), stopping=stopping, estimator="gp", batch_size=500
    )
    coefficients = found.coefficients[:, 0, :k]
    right = (coefficients.abs().topk(5).indices.sort().values == torch.arange(5)).all(1) & (coefficients[:, :5] > 0).all(1)
    assert (found.samples < 1000).all()
    assert right.sum() >= 0.9 * seeds


def test_a_wrong_look_is_less_likely_at_later_looks():
    coefficients = torch.tensor([[[1.0, 0.5]]])
    errors = torch.tensor([[[0.2, 0.2]]])
    rule = Stopping(confidence=0.9)
    settled = [bool(rule.settled(coefficients, errors, torch.tensor([[0]]), torch.tensor([2]), look)) for look in range(1, 9)]
    assert settled == sorted(settled, reverse=True)
    assert settled[0]
    assert not settled[-1]


@pytest.mark.parametrize(("noise", "settled"), [(0.001, True), (0.01, True), (0.05, False)])
def test_a_label_with_two_parts_is_settled_once_all_others_are_surely_small(noise, settled):
    coefficients = torch.full((1, 1, 30), 0.001)
    coefficients[0, 0, [3, 8]] = torch.tensor([1.0, -0.4])
    errors = torch.full((1, 1, 30), noise)
    assert Stopping().settled(coefficients, errors, torch.tensor([[0]]), torch.tensor([30]), 1).tolist() == [settled]


@pytest.mark.parametrize(("fifth", "settled"), [(0.5, False), (0.51, False), (0.56, True)])
def test_equal_parts_are_settled_once_their_difference_is_surely_small(fifth, settled):
    coefficients = torch.tensor([[[1.0, -0.9, 0.8, 0.7, fifth, 0.5, 0.1]]])
    for error, expected in ((0.02, settled), (0.01, True)):
        errors = torch.full((1, 1, 7), error)
        assert Stopping().settled(coefficients, errors, torch.tensor([[0]]), torch.tensor([7]), 1).tolist() == [expected]


def test_a_part_that_may_have_an_effect_is_not_settled():
    coefficients = torch.tensor([[[1.0, 0.001, 0.001, 0.001, 0.001, 0.001]]])
    errors = torch.tensor([[[0.001, 0.001, 0.001, 0.001, 0.001, 0.1]]])
    for part in (1, 5):  # among the five strongest, and below
        unknown = errors.clone()
        unknown[0, 0, [part, 5]] = unknown[0, 0, [5, part]]
        assert not Stopping().settled(coefficients, unknown, torch.tensor([[0]]), torch.tensor([6]), 1).any()


def test_few_parts_with_an_effect_end_the_rounds():
    def model(rows):
        first = torch.sigmoid(2 * rows[:, 4] - rows[:, 9] + rows[:, 4] * rows[:, 9])
        return torch.stack([first, 1 - first], 1)

    found = explain(model, [30], stopping=Stopping(max_samples=2000), estimator="gp")
    assert int(found.samples) <= 257
    assert set(found.coefficients[0, 0].abs().topk(2).indices.tolist()) == {3, 8}


def test_a_kernel_without_weights_fails_before_any_forward():
    model = Model()
    for kernel in (lambda d, width: (d == 0).double(), lambda d, width: 0 * d):
        with pytest.raises(GpulimeError, match="estimator='gp'"):
            explain(model, [4, 30], estimator="gp", kernel=kernel)
    assert not model.rows
    explain(model, [4], estimator="gp", kernel_width=0.03)  # all masks, so products of many parts do not matter


ALONE = {"the whole input": lambda d, width: (d == 0).double(), "the empty one": lambda d, width: (d == 1).double()}


@pytest.mark.parametrize("kernel", ALONE.values(), ids=ALONE)
def test_a_single_mask_with_weight_explains_nothing_also_if_all_masks_are_seen(kernel):
    for estimator in ("wls", "gp"):
        with pytest.raises(GpulimeError, match=f"too little weight to most masks of 4 parts for estimator='{estimator}'"):
            explain(model := Model(), [4], estimator=estimator, kernel=kernel)
        assert not model.rows
    for settings in ({"estimator": "ridge"}, {"estimator": "wls", "distance": lambda masks: 1 - masks.mean(1)}):
        found = explain(Model(), [4, 3], kernel=kernel, **settings)
        assert found.standard_errors[0, 0, :4].isnan().all()
        assert not found.standard_errors[1, 0, 3:].any()


@pytest.mark.parametrize("settings", [{"n_samples": 1024}, {"stopping": Stopping(max_samples=1024)}], ids=str)
@pytest.mark.parametrize("num_features", [None, 2])
def test_with_all_masks_the_ridge_penalty_is_that_of_so_many_samples(num_features, settings):
    found = explain(Model(), [1, 2, 3, 5], [0] * 4, estimator="ridge", num_features=num_features, **settings)
    for i, k in enumerate((1, 2, 3, 5)):
        masks = all_masks(k)[0].flip(0)
        rows = torch.nn.functional.pad(masks, (1, K - k)).double()
        outputs = Model()(rows)[:, found.labels[i]]
        again = [one.repeat(1024 // 2**k, 1)[None] for one in (masks.bool(), outputs)]
        assert again[0][0, 0].all()
        expected = fit(*again, settings=Settings(num_features=num_features))
        torch.testing.assert_close(found.coefficients[i, :, :k], expected.coefficients[0], rtol=0, atol=1e-9)


def linear(rows):
    return torch.stack([rows[:, 1:].mean(1), 1 - rows[:, 1:].mean(1)], 1)


@pytest.mark.parametrize("scale", [1e-90, 1e-9, 1e-6, 1e6])
def test_least_squares_do_not_depend_on_the_scale_of_the_kernel(scale):
    found = explain(linear, [30, 4], estimator="wls", kernel=lambda d, width: scale * (-(d**2)).exp())
    torch.testing.assert_close(found.coefficients[0, 0].abs(), torch.full((30,), 1 / 30).double(), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.coefficients[1, 0, :4].abs(), torch.full((4,), 1 / 30).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("settings", [{"num_features": 3}, {"num_features": 12}, {"feature_selection": "lasso_path"}], ids=str)
@pytest.mark.parametrize("tolerance", [None, 0.002])
def test_rounds_are_as_many_if_parts_are_selected(tolerance, settings):
    """A part that is not selected has a coefficient of 0 without an error, which tells nothing about the choice."""

    def model(rows):
        z = rows[:, 1:]
        noise = torch.sin(1e4 * (z * torch.arange(1, K + 1).sqrt()).sum(1))
        first = 0.3 + z[:, :10].sum(1) / 40 + 0.05 * noise
        return torch.stack([first, 1 - first], 1)

    stopping = Stopping(tolerance, max_samples=600)
    every, some = (explain(model, [30, 3], [0, 0], stopping=stopping, estimator="wls", **one) for one in ({}, settings))
    assert every.samples[0] > 65
    assert torch.equal(some.samples, every.samples)
    alone = explain(model, [30, 3], [0, 0], n_samples=int(every.samples[0]), estimator="wls", **settings)
    assert torch.equal(some.coefficients[0], alone.coefficients[0])
    assert 0 < int((some.coefficients[0, 0] != 0).sum()) <= settings.get("num_features", 30)


@pytest.mark.parametrize("confidence", [1 - 1e-14, 1 - 2**-53, 5e-324])
def test_every_confidence_below_1_ends_the_rounds(confidence):
    rule, parts = Stopping(confidence=confidence), torch.tensor([[[1.0, 0.5]]])
    settled = [
        [bool(rule.settled(parts, error * parts, torch.tensor([[0]]), torch.tensor([2]), look)) for look in (1, 100)]
        for error in (1e-3, 2.0)
    ]
    assert settled[0] == [True, True]
    assert not settled[1][1]
    with pytest.raises(GpulimeError, match="confidence must be a number between 0 and 1"):
        Stopping(confidence=Fraction(10**20 - 1, 10**20))


def test_non_finite_outputs_end_the_rounds():
    def model(rows):
        outputs = Model()(rows)
        return outputs.where((rows[:, :1] != 1) | (rows[:, 1:2] == 1), torch.nan)

    found = explain(model, [30, 30], stopping=Stopping(max_samples=500), estimator="gp")
    assert found.non_finite.tolist()[0] == 0
    assert int(found.non_finite[1]) > 0
    assert found.coefficients[1].isnan().any()
    assert int(found.samples[1]) == 65
