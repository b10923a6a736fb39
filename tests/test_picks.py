"""Picks of explanations: lime's own where lime is right, by names, places and clusters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

import gpulime
from gpulime import lime_tabular, lime_text, submodular_pick
from gpulime.errors import GpulimeError
from gpulime.explanations.batch import Explanations
from gpulime.explanations.cover import cover, incidence
from gpulime.explanations.explanation import DomainMapper, Explanation
from gpulime.explanations.image import ImageExplanation
from gpulime.explanations.table import TableDomainMapper
from gpulime.lime_queue import UnexplainedError
from gpulime.submodular_pick import SubmodularPick

POSTS = ["the engine of my car makes noise", "a goal in the last minute of the game", "car and engine", "the game had no goal"]


def slow_cover(weights, count, prefer):
    """SP-LIME by its definition, in loops; a new cover begins when no row adds anything."""
    importance, picked, shown = np.sqrt(np.abs(weights).sum(0)), [], set()
    while len(picked) < min(count, len(weights)):
        rest = [i for i in range(len(weights)) if i not in picked]
        gains = {i: sum(importance[f] for f in np.flatnonzero(weights[i]) if f not in shown) for i in rest}
        if max(gains.values()) <= 1e-9 * importance.sum():
            shown = set()
            gains = {i: sum(importance[f] for f in np.flatnonzero(weights[i])) for i in rest}
        best = max(gains.values())
        chosen = max((i for i in rest if gains[i] >= best - 1e-9 * importance.sum()), key=lambda i: (prefer[i], -i))
        picked.append(chosen)
        shown |= set(np.flatnonzero(weights[chosen]))
    return picked


def some(weights, mode="classification", label=1):
    """An explanation of columns c0, c1, ... for each row of weights."""
    names = [f"c{j}" for j in range(weights.shape[1])]
    found = []
    for row in weights:
        one = Explanation(TableDomainMapper(names, ["0"] * len(names)), mode=mode, class_names=["no", "yes"])
        one.local_exp = {label: [(int(j), float(row[j])) for j in np.argsort(-np.abs(row)) if row[j] != 0]}
        found.append(one)
    return found


def random_weights(n, f, seed=0, share=0.2):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, f)) * (random.random((n, f)) < share)


@pytest.mark.parametrize(("n", "f", "count"), [(1, 3, 2), (7, 4, 7), (40, 12, 20), (60, 200, 10)])
def test_the_cover_is_its_slow_twin(n, f, count):
    weights = random_weights(n, f)
    prefer = np.random.default_rng(1).permutation(n)
    rows, columns = weights.nonzero()
    found = cover(incidence(rows, columns, weights[rows, columns], (n, f)), count, prefer)
    assert found.indices == slow_cover(weights, count, prefer)
    assert np.all(np.diff([0, *found.coverage]) >= 0)
    covered = np.flatnonzero(np.abs(weights[found.indices]).sum(0))
    importance = np.sqrt(np.abs(weights).sum(0))
    assert found.coverage[-1] == pytest.approx(importance[covered].sum() / importance.sum())


class Drawn:
    """An explainer whose explanations are given; like lime's, it has no `explain_instances`."""

    def __init__(self, found):
        self.found = found

    def explain_instance(self, row, predict_fn, num_features, top_labels):
        assert (num_features, top_labels) == (10, 1)
        return self.found[int(row)]


@pytest.mark.parametrize("seed", range(4))
def test_the_pick_is_limes_until_everything_is_shown(seed):
    theirs = pytest.importorskip("lime.submodular_pick").SubmodularPick
    found, data = some(random_weights(60, 80, seed, share=0.1)), np.arange(60)
    kinds = {}
    for kind in (theirs, SubmodularPick):
        np.random.seed(seed)
        kinds[kind] = kind(Drawn(found), data, None, sample_size=50, num_exps_desired=12)
    ours, lime = kinds[SubmodularPick], kinds[theirs]
    assert ours.explanations == lime.explanations  # the same sample, in the same order
    assert ours.V == lime.V
    assert ours.sp_explanations == lime.sp_explanations
    assert [found[i] for i in ours.sample_indices] == ours.explanations
    assert 0.3 < ours.coverage[-1] < 1


def test_after_everything_is_shown_picks_show_it_again():
    weights = np.array([[3.0, 0, 0], [0, 2.0, 2.0], [0.1, 0, 0], [0, 1.0, 0], [0.2, 0.1, 0.0]])
    picked = SubmodularPick(Drawn(some(weights)), np.arange(5), None, method="full", num_exps_desired=4)
    assert picked.V[:2] == [4, 1] or picked.coverage[1] == 1  # two rows show all
    assert picked.coverage == sorted(picked.coverage)
    assert slow_cover(weights, 4, np.arange(5)) == picked.V


def test_labels_that_oppose_each_other_do_not_cancel():
    one, other = some(np.array([[1.0, 0.0], [0.0, 0.5]]))
    one.local_exp[0] = [(0, -1.0)]  # lime adds +1 and -1
    assert gpulime.pick([other, one], 1).indices == [1]


def test_of_equal_explanations_the_strongest_is_picked():
    found = some(np.array([[1.0, 1.0], [3.0, 2.0], [2.0, 2.0]]))
    assert gpulime.pick(found, 1).indices == [1]
    assert gpulime.pick(found, 9).indices == [1, 2, 0]
    assert gpulime.pick(found, 2).coverage == [1.0, 1.0]


def test_regressions_and_weights_that_are_not_numbers_can_be_picked():
    weights = np.array([[1.0, 0.0], [0.0, 0.5]])
    found = some(weights, mode="regression")
    assert gpulime.pick(found, 1).indices == [0]
    found[0].local_exp[1] = [(0, np.nan)]
    assert gpulime.pick(found, 2).indices == [1, 0]
    assert gpulime.pick([Explanation(DomainMapper())] * 3, 2).indices == [0, 1]


@dataclass(frozen=True, eq=False, kw_only=True)
class Named(Explanations):
    """A batch whose parts have names."""

    names: list[list[str]]

    def _names(self):
        return self.names


def batch(coefficients, names=None, labels=None):
    n, l, _ = coefficients.shape
    values = dict.fromkeys(
        ("predictions", "local_predictions", "intercepts", "scores", "scores_loo", "spreads"), torch.zeros(n, l)
    )
    whole = dict.fromkeys(("predicted", "samples", "non_finite"), torch.zeros(n, dtype=torch.int64))
    return (Named if names else Explanations)(
        coefficients=coefficients,
        standard_errors=coefficients,
        labels=torch.arange(l).expand(n, l) if labels is None else labels,
        predicted_probs=torch.zeros(n),
        counts=torch.full((n,), coefficients.shape[2]),
        exhaustive=torch.zeros(n, dtype=torch.bool),
        **values,
        **whole,
        **({"names": names} if names else {}),
    )


def test_a_batch_is_picked_as_its_list_is():
    weights = random_weights(30, 12, share=0.7)
    names = [[f"c{j}" for j in range(12)]] * 30
    together = batch(torch.from_numpy(np.stack([weights, weights / 2], 1)), names)
    for most in (3, 10):
        ours, listed = (gpulime.pick(given, 6, num_features=most) for given in (together, some(weights)))
        assert ours.indices == listed.indices
        np.testing.assert_allclose(ours.coverage, listed.coverage, rtol=1e-12)
    again = torch.zeros(30, 2, dtype=torch.int64)  # the second label repeats the first one
    once = gpulime.pick(batch(torch.from_numpy(weights[:, None]), names), 6)
    assert gpulime.pick(replace(together, labels=again), 6) == once


def pictures(kinds, size=32):
    """Images of two halves, each of a gray value, and with the left one important, in one segmentation per kind."""
    found = []
    for i, gray in enumerate(kinds):
        segments = np.zeros((size, size), dtype=np.int64)
        segments[:, size // 2 :] = 1
        segments += i  # other ids in each image
        image = np.full((size, size, 3), gray)
        image[:, size // 2 :] = 0.5
        one = ImageExplanation(image, segments)
        one.local_exp, one.top_labels = {0: [(i, 1.0), (i + 1, -0.5)]}, [0]
        found.append(one)
    return found


def brightness(images):
    return torch.cat([images.mean(1, keepdim=True) ** p for p in (0, 1, 2)], 1)[:, :, ::8, ::8]


def test_images_are_picked_by_clusters_of_their_features():
    kinds = [0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.0, 0.9]
    found = gpulime.pick(pictures(kinds), 3, features=brightness, clusters=3)
    assert sorted(kinds[i] for i in found.indices) == [0.0, 0.1, 0.9]
    assert found.coverage[-1] == pytest.approx(1)
    assert gpulime.pick(pictures(kinds), 3, features=brightness, clusters=3, seed=0) == found


def test_a_classifier_lends_its_last_map():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())
    found = gpulime.pick(pictures([0.1, 0.9, 0.1]), 2, features=model, clusters=2)
    assert {0, 2} - set(found.indices)
    assert 1 in found.indices
    assert model.training
    assert not any(part._forward_hooks for part in model.modules())
    with pytest.raises(GpulimeError, match=r"map \(b, d, h', w'\) with b = 1; got \(1, 12\)"):
        gpulime.pick(pictures([0.1]), 1, features=lambda images: torch.ones(1, 12))


def test_images_on_a_shared_grid_are_picked_by_place():
    grid = np.arange(4).reshape(2, 2).repeat(4, 0).repeat(4, 1) + 10
    found = []
    for weights in ([(10, 1.0)], [(10, 0.4), (13, 0.6)], [(11, -9.0)], [(12, 0.1)]):
        one = ImageExplanation(np.zeros((8, 8, 3)), grid)
        one.local_exp = {0: weights}
        found.append(one)
    assert gpulime.pick(found, 2).indices == [1, 3]
    with pytest.raises(GpulimeError, match="different segments"):
        gpulime.pick(pictures([0.1, 0.9]), 1)


def test_wrong_arguments_are_named():
    found = some(np.eye(3))
    for count in (0, 2.5, None):
        with pytest.raises(GpulimeError, match="count must be"):
            gpulime.pick(found, count)
    with pytest.raises(GpulimeError, match="no explanations to pick from"):
        gpulime.pick([])
    with pytest.raises(GpulimeError, match="features are only for images"):
        gpulime.pick(found, features=brightness)
    with pytest.raises(GpulimeError, match="parts must have names"):
        gpulime.pick(batch(torch.ones(2, 1, 3)))
    for wrong, got in (
        (found[0], "Explanation"),
        (3, "int"),
        ({0: found[0]}, "dict"),
        ("ab", "str among"),
        ([1, 2], "int among"),
    ):
        with pytest.raises(GpulimeError, match=f"pick needs the explanations of several inputs, .*; got {got}"):
            gpulime.pick(wrong)
    with pytest.raises(GpulimeError, match="all of one kind; got ImageExplanation among them"):
        gpulime.pick([found[0], ImageExplanation(np.zeros((8, 8, 3)), np.zeros((8, 8), dtype=int))])
    for name, value in (("num_exps_desired", 0), ("num_exps_desired", 2.5), ("sample_size", "all")):
        with pytest.raises(GpulimeError, match=f"{name} must be"):
            SubmodularPick(Drawn(found), np.arange(3), None, **{name: value})
    with pytest.raises(GpulimeError, match=r"method must be one of 'sample', 'full'; got 'ful' \(did"):
        SubmodularPick(Drawn(found), np.arange(3), None, method="ful")
    with pytest.raises(GpulimeError, match=r"explainer must be a LimeTab.*; got int$"):
        SubmodularPick(3, np.arange(3), None)
    with pytest.raises(GpulimeError, match=r"got TextExplainer: gpulime.pick\(explainer.explain\(data\)\) picks"):
        SubmodularPick(gpulime.TextExplainer(len), POSTS, None)
    for data, said in (("a text", "got str: pass .text. for one"), ({"text": POSTS}, r"such as dict\['text'\]")):
        with pytest.raises(GpulimeError, match=said):
            SubmodularPick(lime_text.LimeTextExplainer(), data, None)
    with pytest.raises(GpulimeError, match="data must be an array, a DataFrame or a list of texts; got NoneType"):
        SubmodularPick(Drawn(found), None, None)
    with pytest.raises(GpulimeError, match="data must have a row"):
        SubmodularPick(Drawn(found), [], None)


class Batched(Drawn):
    """One that explains many at once; row ``broken`` fails."""

    def __init__(self, found, broken=()):
        super().__init__(found)
        self.broken, self.calls = broken, 0

    def explain_instances(self, rows, predict_fn, num_features, top_labels):
        self.calls += 1
        self.rows = rows
        numbers = [int(np.ravel(row.toarray() if sparse.issparse(row) else row)[0]) for row in rows]
        failures = {j: GpulimeError(f"row {i}") for j, i in enumerate(numbers) if i in self.broken}
        explained = {j: self.found[i] for j, i in enumerate(numbers) if i not in self.broken}
        if failures:
            raise UnexplainedError(explained, failures, len(rows), "row")
        return list(explained.values())


def test_rows_are_explained_together_and_one_that_fails_fails_alone():
    found = some(random_weights(8, 10, share=0.5))
    explainer = Batched(found, broken=[2, 5])
    with pytest.warns(UserWarning, match="row 2"):
        picked = SubmodularPick(explainer, np.arange(8)[:, None], None, method="full", num_exps_desired=3)
    assert explainer.calls == 1
    assert picked.sample_indices == [0, 1, 3, 4, 6, 7]
    assert [str(picked.failures[i]) for i in (2, 5)] == ["row 2", "row 5"]
    assert picked.sp_explanations == [found[picked.sample_indices[i]] for i in picked.V]
    with pytest.raises(UnexplainedError):
        SubmodularPick(Batched(found, broken=range(8)), np.arange(8)[:, None], None, method="full")


def test_a_sample_has_its_own_seed_and_leaves_numpys_alone():
    found, data = some(random_weights(9, 10, share=0.5)), np.arange(9)
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    samples = [SubmodularPick(Drawn(found), data, None, sample_size=5, random_state=3).sample_indices for _ in range(2)]
    assert samples[0] == samples[1]
    assert len(set(samples[0])) == 5
    assert np.random.get_state()[1].tolist() == before


def test_frames_and_sparse_rows_are_data_and_too_much_is_all():
    pandas = pytest.importorskip("pandas")
    found, values = some(random_weights(3, 10, share=0.5)), np.arange(3)[:, None]
    for data in (pandas.DataFrame(values, index=[7, 8, 9]), sparse.csr_matrix(values), values):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            picked = SubmodularPick(Batched(found), data, None, num_exps_desired=9)
        assert [str(one.message).partition(":")[0] for one in said] == [
            "sample_size is 1000, but data has 3 rows",
            "9 explanations were asked for, but there are 3",
        ]
        assert sorted(picked.V) == [0, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (3, None):
            picked = SubmodularPick(Drawn(found), np.arange(3), None, method="full", num_exps_desired=count)
            assert sorted(picked.V) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["table", "text"])
def test_with_the_drop_ins_everything_is_limes(kind):
    limes_pick, name = pytest.importorskip("lime.submodular_pick"), {"text": "lime_text", "table": "lime_tabular"}[kind]
    sides = ((import_module(f"lime.{name}"), limes_pick), ({"text": lime_text, "table": lime_tabular}[kind], submodular_pick))
    found = []
    for explainers, picks in sides:
        np.random.seed(0)
        if kind == "text":
            data = POSTS * 5
            explainer = explainers.LimeTextExplainer(class_names=["cars", "games"], random_state=0)
            predict = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(POSTS, [0, 1] * 2).predict_proba
        else:
            data = load_iris().data
            explainer = explainers.LimeTabularExplainer(data, random_state=0)
            predict = RandomForestClassifier(10, random_state=0).fit(data, load_iris().target).predict_proba
        found.append(picks.SubmodularPick(explainer, data, predict, sample_size=12, num_exps_desired=3, num_samples=200))
    theirs, ours = found
    assert ours.V == theirs.V
    for one, other in zip(ours.sp_explanations, theirs.sp_explanations, strict=True):
        (label,) = one.available_labels()
        assert other.available_labels() == [label]
        assert [name for name, _ in one.as_list(label)] == [name for name, _ in other.as_list(label)]
        weights = [[weight for _, weight in each.as_list(label)] for each in (one, other)]
        np.testing.assert_allclose(*weights, rtol=0, atol=1e-9)


def test_texts_in_a_series_are_picked_as_those_in_a_list():
    pandas = pytest.importorskip("pandas")
    texts = ["good day", "bad day", "good night"]

    def model(strings):
        return np.array([[0.1, 0.9] if "good" in string else [0.8, 0.2] for string in strings])

    found = [
        SubmodularPick(
            lime_text.LimeTextExplainer(random_state=0), data, model, method="full", num_exps_desired=2, num_samples=40
        )
        for data in (texts, pandas.Series(texts, index=[7, 8, 9]))
    ]
    assert found[0].V == found[1].V
    assert found[0].explanations[0].as_list(found[0].explanations[0].top_labels[0])
