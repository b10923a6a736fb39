"""Columns of outputs as classes."""

from __future__ import annotations

import pytest
import torch

from gpulime.engine.class_columns import ClassColumns
from gpulime.errors import GpulimeError


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_one_probability_is_that_of_the_second_class():
    assert ClassColumns()(column(0.25, 1.0)).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    assert ClassColumns(divides=False)(column(0.25, 1.0)).tolist() == [[0.25], [1.0]]
    two = torch.tensor([[0.5, 0.25]])
    assert ClassColumns()(two) is two


def test_rounding_and_nan_are_no_scores():
    found = ClassColumns(scores=False)(column(1 + 1e-7, -1e-7, torch.nan, 0.5))
    assert found[[0, 1, 3]].tolist() == [[0, 1], [1, 0], [0.5, 0.5]]
    assert found[2].isnan().all()


def test_the_first_outputs_settle_if_they_are_probabilities():
    scores = ClassColumns()
    assert scores(column(0.5, 2.0)).tolist() == [[0.5], [2.0]]
    assert scores(column(0.5, 0.25)).tolist() == [[0.5], [0.25]]
    probabilities = ClassColumns()
    assert [len(probabilities(column(*values))[0]) for values in ((0.5, 0.25), (0.5, 2.0))] == [2, 2]


def test_what_does_not_fit_is_named():
    with pytest.raises(NotImplementedError, match=r"must be the probability of the second class, in \[0, 1\]; got 1.5"):
        ClassColumns(scores=False)(column(0.5, 1.5))
    with pytest.raises(GpulimeError, match=r"got 2 names, 1 column; a column is not divided, since it has values outside"):
        ClassColumns(named=2)(column(0.5, 1.5))
    for named in (2, 4):
        with pytest.raises(GpulimeError, match=f"got {named} names, 3 columns$"):
            ClassColumns(named)(torch.zeros(2, 3))
