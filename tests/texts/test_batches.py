"""Batches of rows of different lengths."""

from __future__ import annotations

import pytest
import torch

from gpulime.errors import GpulimeError
from gpulime.texts.batches import Batches

LENGTHS = torch.tensor([3, 9, 1, 9, 4, 7, 2])


def passed(batches, fail=lambda places: False):
    asked = []

    def function(places):
        if fail(places):
            raise MemoryError("out of memory")
        asked.append(LENGTHS[places].tolist())
        return LENGTHS[places, None].double() * 10

    outputs = batches(function, LENGTHS)
    assert outputs[:, 0].tolist() == (LENGTHS * 10).tolist()
    return asked


def test_the_longest_go_first_and_outputs_come_back_in_order():
    assert passed(Batches(3)) == [[9, 9, 7], [4, 3, 2], [1]]


def test_a_batch_holds_so_many_entries_with_its_padding():
    assert passed(Batches(3, 14)) == [[9], [9], [7, 4], [3, 2, 1]]
    assert passed(Batches(3, 5)) == [[9], [9], [7], [4], [3], [2, 1]]


def test_a_batch_is_halved_if_memory_runs_out():
    batches = Batches(7)
    assert passed(batches, fail=lambda places: len(places) > 2) == [[9], [9], [7], [4], [3], [2], [1]]
    assert batches.most == 1
    with pytest.raises(MemoryError):
        passed(Batches(4), fail=lambda places: True)


def test_other_errors_pass():
    def function(places):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Batches(4)(function, LENGTHS)


def test_each_batch_must_have_the_same_classes():
    with pytest.raises(GpulimeError, match=r"the model must return \(b, 3\) for each batch, as at first; got \(b, 1\)"):
        Batches(3)(lambda places: torch.zeros(len(places), len(places)), LENGTHS)
