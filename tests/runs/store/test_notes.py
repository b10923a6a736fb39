"""Notes: warnings about weak explanations in the rows of a run."""

from __future__ import annotations

import pytest
import torch

import gpulime
from gpulime.runs.store import row, store

STILL = "this output hardly moves: its standard deviation over the samples is"

UNWEIGHTED = "the kernel gives every mask a weight of 0"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ((3e-7, 1.0, True), f"{STILL} 3e-07, its prediction 1.000; explain logits with activation: null"),
        ((0.0, 0.25, True), f"{STILL} 0, its prediction 0.250; explain logits with activation: null"),
        ((1e-4, 1.0, True), None),
        ((9e-4, 10.0, False), f"{STILL} 0.0009, its prediction 10.000"),
        ((2e-3, -10.0, False), None),
        ((1e-9, 0.0, False), None),
        ((0.0, 0.0, False), f"{STILL} 0, its prediction 0.000"),
        ((float("nan"), 1.0, True), f"{UNWEIGHTED}, so nothing is explained: use a larger kernel_width"),
    ],
)
def test_an_output_that_hardly_moves_is_noted(facts, expected):
    assert row.note(*facts) == expected


def test_fewer_samples_than_twice_the_segments_are_noted():
    few = "n_samples (40) is below twice the number of segments (2 x 55): coefficients are uncertain"
    assert row.few_samples(40, 55) == few
    assert row.few_samples(110, 55) is None


def explained(tmp_path, model, **settings):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grid = {"segments": gpulime.segments.Grid(3, 4), "top_labels": 2, "n_samples": 40, "fill": 0.0}
    gpulime.runs.explain(model, list(images), tmp_path / "run", report=False, **grid | settings)
    return store.read(tmp_path / "run").to_pylist()


def test_a_run_notes_outputs_that_hardly_move(tmp_path):
    """A classifier that is sure: probabilities of 1.000 and 1e-9, whose differences lime would colour deeply."""

    def model(rows):
        light = rows.mean((1, 2, 3))
        return torch.stack([20 + light, -light], 1)

    for found in explained(tmp_path / "probabilities", model):
        assert max(found["spread"]) < 1e-8
        assert [one.startswith(STILL) for one in found["note"]] == [True, True]
    for found in explained(tmp_path / "logits", model, activation=None):
        assert min(found["spread"]) > 1e-3
        assert found["note"] == [None, None]
        assert all(0.9 < one <= fitted for one, fitted in zip(found["r2_loo"], found["r2"], strict=True))


def test_a_kernel_without_weight_is_named_as_the_reason(tmp_path):
    """The weights of the masks underflow: the output moves, and is the same for no two samples."""

    def model(rows):
        return rows.mean((2, 3))

    for found in explained(tmp_path, model, kernel_width=0.001, activation=None):
        assert found["error"] == f"no r2 for classes {', '.join(map(str, found['labels']))}: {UNWEIGHTED}"
        assert found["r2"] == found["r2_loo"] == found["spread"] == [None, None]
        assert all("use a larger kernel_width" in one for one in found["note"])
