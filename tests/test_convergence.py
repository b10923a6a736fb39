"""The benchmark of convergence: targets are lime's limit, their stated error is right, and the runner finds known errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from benchmarks.convergence import __main__ as command
from benchmarks.convergence import bounds, measure, photographs, stopping, summary, synthetic, targets
from benchmarks.convergence.games import Case, Game
from benchmarks.convergence.measure import INDEPENDENT, LIME, Found, Memory
from benchmarks.convergence.plot import apart, plot
from benchmarks.rows import read, write
from benchmarks.table import of_convergence, of_stopping

K = 6


def outputs(masks):
    """Probabilities (s, 2) with products of one to three parts."""
    z = np.atleast_2d(masks).astype(float)
    first = 0.3 + 0.2 * z[:, 0] - 0.1 * z[:, 1] + 0.3 * z[:, 2] * z[:, 3] - 0.2 * z[:, 0] * z[:, 4] * z[:, 5]
    return np.stack([first, 1 - first], 1)


@pytest.fixture
def game():
    return Game("small", K, 0, outputs, parts=7)


def limit():
    """The limit of lime's fit by scikit-learn, over all masks, with lime's own distance."""
    from sklearn.metrics import pairwise_distances

    masks = synthetic.everything(K)
    distances = pairwise_distances(masks.astype(float), np.ones((1, K)), metric="cosine")[:, 0]
    weights = np.exp(-(distances**2) / (2 * 0.25**2))
    return LinearRegression().fit(masks, outputs(masks)[:, 0], weights).coef_


def test_slopes_of_all_masks_are_the_limit():
    np.testing.assert_allclose(synthetic.enumerated(K, outputs), limit(), atol=1e-12)


def test_the_limit_of_ridge():
    masks = synthetic.everything(K)
    weights = targets.weights(masks) * 50 / len(masks)
    fitted = Ridge(alpha=1).fit(masks, outputs(masks)[:, 0], weights).coef_
    np.testing.assert_allclose(targets.penalised(limit(), 50), fitted, atol=1e-12)


def test_the_error_of_a_target_is_what_it_says(game):
    """Over many targets from 1000 masks each, the mean squared error is that of the sandwich formula."""
    found = [targets.target(replace(game, name=str(i)), 1000) for i in range(60)]
    squared = np.mean([(target - limit()) ** 2 for target, _ in found])
    assert squared == pytest.approx(np.mean([error for _, error in found]), rel=0.25)


@pytest.mark.parametrize("k", [5, 9])
def test_the_closed_form_is_the_limit(k):
    terms = synthetic.products(k, {1: 0.3, 2: 0.3, 3: 0.2, k: 0.2}, seed=1)
    found = synthetic.enumerated(k, lambda masks: synthetic.of_products(masks, terms, 1.0))
    np.testing.assert_allclose(synthetic.closed_form(k, terms), found, atol=1e-12)


def test_targets_are_kept_and_go_on(game, tmp_path):
    asked = []

    def counted(masks):
        asked.append(len(masks))
        return outputs(masks)

    games = [replace(game, name=name, predict=counted) for name in ("a", "b")]
    case = Case("small", lambda: iter(games), n_masks=2000)
    targets.compute(case, tmp_path, tmp_path / "kept")
    first = targets.stored(case, tmp_path)
    assert [name for name, (_, _, label, parts, masks) in first.items() if (label, parts, masks) == (0, 7, 2000)] == ["a", "b"]
    targets.compute(case, tmp_path, tmp_path / "kept")
    assert sum(asked) == 2 * 2001  # one more for the whole input
    targets.compute(case, tmp_path, tmp_path / "kept", n_masks=3000)
    assert sum(asked) == 2 * 3002
    again = targets.stored(case, tmp_path)
    np.testing.assert_allclose(again["a"][0], targets.target(games[0], 3000)[0], atol=1e-6)  # float32 in the file
    games[1].parts = 8  # another segmentation
    targets.compute(case, tmp_path, n_masks=1000)
    assert [row[4] for row in targets.stored(case, tmp_path).values()] == [3000, 1000]


def test_forwards_are_done_once(game, tmp_path):
    asked = []

    def counted(masks):
        asked.extend(map(tuple, masks.tolist()))
        return outputs(masks)

    counting = replace(game, predict=counted)
    model = Memory(counting, tmp_path)
    for pair in (LIME, measure.Pair("bernoulli", "ridge"), INDEPENDENT):
        measure.explained(pair, counting, model, 100, seed=0)
    assert len(asked) == len(set(asked))
    model.save()
    before = len(asked)
    measure.explained(LIME, counting, Memory(counting, tmp_path), 100, seed=0)
    assert len(asked) == before
    with np.load(tmp_path / "small.npz") as file:
        assert len(file["masks"]) == before


def test_a_pair_is_what_an_explainer_computes(game):
    """The error of lime's pair is that of scikit-learn's Ridge on lime's masks; a wrong target has a larger one."""
    masks = np.random.RandomState(3).randint(0, 2, 200 * K).reshape(200, K).astype(bool)
    masks[0] = True
    fitted = Ridge(alpha=1).fit(masks, outputs(masks)[:, 0], targets.weights(masks)).coef_
    found = measure.measured(LIME, game, Memory(game), 200, [3], limit(), 0.0)
    assert found.squared == pytest.approx(((fitted - limit()) ** 2).mean(), rel=1e-5)
    assert measure.measured(LIME, game, Memory(game), 200, [3], limit()[::-1], 0.0).squared > 10 * found.squared
    assert measure.measured(LIME, game, Memory(game), 200, [3], limit(), 1e-5).squared == pytest.approx(found.squared - 1e-5)


def test_intervals_count_the_targets_inside(game, monkeypatch):
    def explained(pair, game, model, s, seed):
        return limit() + np.array([0.0, 1.9, 2.1, -1.9, -2.1, 0.0]), np.ones(K), 0.0

    monkeypatch.setattr(measure, "explained", explained)
    pair = measure.Pair("blocks", "wls")
    assert measure.measured(pair, game, None, 100, [0], limit(), 0.0).covered == pytest.approx(4 / 6)
    assert measure.measured(pair, game, None, 100, [0], limit(), 1.0).covered == 1


def of_sizes(pair, errors):
    return [Found(pair, s, squared, 1.0, np.nan, 0.001) for s, squared in errors.items()]


def test_ratios_are_of_games_and_of_means():
    """Two games whose errors differ by a factor of 100."""
    good = measure.Pair("lime", "wls")
    games = {
        "a": (
            0.0,
            of_sizes(INDEPENDENT, {500: 4.0, 1000: 2.0}) + of_sizes(LIME, {1000: 1.0}) + of_sizes(good, {500: 2.0, 1000: 0.5}),
        ),
        "b": (
            0.0,
            of_sizes(INDEPENDENT, {500: 400.0, 1000: 200.0})
            + of_sizes(LIME, {1000: 100.0})
            + of_sizes(good, {500: 50.0, 1000: 50.0}),
        ),
    }
    found = {(row.pair, int(row.s)): row for row in summary.rows("case", games, 1)}
    assert float(found[good, 500].ratio) == pytest.approx(0.25, abs=1e-3)  # 1/2 and 1/8
    assert float(found[good, 500].ratio_of_means) == pytest.approx(52 / 404, rel=1e-2)
    assert float(found[good, 500].to_lime) == pytest.approx(1.0)  # 2 and 1/2
    assert (found[LIME, 1000].forwards, found[good, 500].forwards) == ("1000", "501")
    curves = summary.curves(list(found.values()))
    assert summary.enough(curves[good]) == pytest.approx(501)
    assert summary.enough(curves[INDEPENDENT]) == np.inf
    assert all(row.covered == "" for row in found.values())


def test_lime_s_error_is_reached_between_sizes():
    assert summary.enough([(100, 4.0), (400, 0.25)]) == pytest.approx(200)
    assert summary.enough([(100, 1.0), (400, 0.25)]) == 100


def test_errors_below_the_targets_own_count_as_a_tenth_of_it():
    games = {"a": (1.0, of_sizes(INDEPENDENT, {1000: 10.0}) + of_sizes(LIME, {1000: -0.5}))}
    found = {row.pair: row for row in summary.rows("case", games, 1)}
    assert float(found[LIME].ratio) == pytest.approx(0.01)


def test_the_command(game, tmp_path, monkeypatch, capsys):
    case = Case("small", lambda: iter([game, replace(game, name="unknown")]), n_masks=2000, sizes=(256,))
    monkeypatch.setattr(targets, "FOLDER", tmp_path)
    targets.compute(replace(case, games=lambda: iter([game])), tmp_path)
    monkeypatch.setattr(measure, "PAIRS", (INDEPENDENT, LIME))
    monkeypatch.setattr(targets.stored, "__defaults__", (tmp_path,))
    rows = command.run(case, repeats=2)
    assert "unknown has no target" in capsys.readouterr().out
    assert [(row.games, row.sampler, row.s) for row in rows] == [
        ("1", "bernoulli", "256"),
        *(("1", "lime", s) for s in ("256", "1000")),
    ]
    assert [row.to_lime for row in rows if row.pair == LIME][-1] == "1"
    assert [row.ratio for row in rows if row.pair == INDEPENDENT] == ["1"]
    command.report(rows)
    assert "1, lime / ridge: 1000 forwards" in capsys.readouterr().out
    shown = of_convergence(rows)
    assert "| lime / ridge | 1000 |" in shown
    write(tmp_path / "small.csv", rows, summary.Row)
    assert read(tmp_path / "small.csv", summary.Row) == rows
    plot({"small": rows, "nothing": []}, tmp_path / "plot.svg")
    assert "lime at 1000" in (tmp_path / "plot.svg").read_text()


def test_labels_do_not_overlap():
    moved = np.sort(apart([0.5, 0.51, 0.99, 1.0]))
    assert (np.diff(moved) > 0.05).all()
    assert moved.max() <= 1


def test_constant_games_have_no_ratio():
    games = {"a": (0.0, of_sizes(INDEPENDENT, {1000: 1e-29}) + of_sizes(LIME, {1000: 0.0}))}
    assert {row.ratio for row in summary.rows("case", games, 1)} == {""}


def test_the_worst_games_of_each_pair():
    """The largest ratio of each pair, among rows with s >= 4 k; pairs of presets have a smaller bound."""

    def row(games, pair, s, ratio):
        return summary.Row("synthetic", games, pair.sampler, pair.estimator, pair.link, str(s), str(s + 1), ratio=ratio)

    fast, other = measure.Pair("blocks", "gp", "auto"), measure.Pair("antithetic", "wls")
    rows = [row("linear, 50", fast, 199, "9"), row("linear, 50", fast, 200, "0.5"), row("linear, 8", fast, 128, "1.2")]
    rows += [row("linear, 8", other, 128, "1.3"), row("constant, 8", other, 128, ""), row("24", other, 128, "7")]
    rows += [row("linear, 8", INDEPENDENT, 128, "1")]
    found = [(one.pair, one.games, one.s, bound) for one, bound in summary.worst(rows)]
    assert found == [(fast, "linear, 8", "128", 1.1), (other, "linear, 8", "128", 1.35)]


def test_right_parts_are_those_of_the_target_up_to_small_differences():
    target = np.array([1.0, -0.9, 0.8, 0.7, 0.6, 0.56, 0.04, 0.0])
    assert stopping.right(target, target)
    assert stopping.right(target[[0, 1, 2, 3, 5, 4, 6, 7]], target)  # 0.56 in place of 0.6
    assert not stopping.right(target[[0, 1, 2, 3, 6, 5, 4, 7]], target)
    assert not stopping.right(abs(target), target)
    few = np.array([1.0, 0.5, 0.04, 0.0, 0.0, 0.0, 0.0])
    assert stopping.right(few * [1, 1, -1, 1, 1, 1, 1], few)


def test_adaptive_stopping_beside_equal_numbers(game, tmp_path, monkeypatch):
    """Six parts have 64 masks, so no rule takes more, and none has an error."""
    case = Case("small", lambda: iter([game, replace(game, name="b"), replace(game, name="unknown")]), n_masks=2000)
    monkeypatch.setattr(targets.stored, "__defaults__", (tmp_path,))
    targets.compute(replace(case, games=lambda: iter([game, replace(game, name="b")])), tmp_path)
    alike = {s: [0.5e-3 / s, 1.5e-3 / s] for s in (100, 400)}
    assert stopping.fixed(alike, 5e-6) == pytest.approx(201, rel=0.01)
    found = stopping.run(case, 1e-2, repeats=2, most=2)
    assert [(row.rule, row.games, row.forwards, row.most, row.wrong) for row in found] == [
        (rule, "2", "64", "64", "0.000") for rule in stopping.rules(1.0)
    ]
    assert all(float(row.mse) < 1e-5 for row in found)  # of the target, mostly
    assert "| small: tolerance 2 | 64 | 64 |" in of_stopping(found)


def test_photographs_are_parted_and_predicted(monkeypatch):
    monkeypatch.delenv(photographs.FOLDER, raising=False)

    class Explainer:
        def __init__(self, *given, **settings):
            pass

        def outputs(self, images, masks, labels, segments):
            assert images.shape == (1, 3, 224, 224)
            assert segments.max() + 1 == masks.shape[2]
            return torch.arange(3.0).expand(1, masks.shape[1], 3)

    monkeypatch.setattr(photographs, "Explainer", Explainer)
    monkeypatch.setattr(photographs.models, "model", lambda name: None)
    made = next(photographs.games())
    assert (made.name, made.label) == ("chelsea", 2)
    assert 30 < made.k < 90


def test_each_bound_that_is_missed_has_its_reason():
    found = list(bounds.bounds())
    assert len(found) > 12
    assert all(one.why for one in found if not one.ok)


def test_bounds_of_a_case_compare_the_preset_with_lime():
    def row(pair, s, to_lime, top5, ratio):
        given = {"sampler": pair.sampler, "estimator": pair.estimator, "link": pair.link, "s": str(s)}
        return summary.Row("case", "2", **given, forwards=str(s + 1), to_lime=to_lime, top5=top5, ratio=ratio)

    rows = [row(bounds.LIME, 1000, "1", "0.9", "1"), row(bounds.FAST, 128, "2", "0.8", "0.3")]
    rows += [row(bounds.FAST, 256, "0.5", "0.85", "0.2"), row(bounds.FAST, 512, "0.2", "0.95", "0.1")]
    forwards, top5, ratio = bounds._of_case("case", rows, 129, 0.2)
    assert (forwards.ok, top5.ok, ratio.ok) == (False, False, True)
    assert float(forwards.reached) == pytest.approx((129 * 257) ** 0.5, abs=1)  # half-way on logarithmic scales
    assert top5.reached == "0.85 with 257; it takes 513"
