"""Packed rows: numbers of texts and masks."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from gpulime.texts.packed import distinct, number, pack, texts, width
from gpulime.texts.words import split


@pytest.mark.parametrize("k", [1, 2, 31, 33, 64, 65, 257])
def test_masks_come_back(k):
    columns = width(k)
    assert columns % 64 == 0
    assert k <= columns < k + 64
    words = split(" ".join(f"w{i}" for i in range(k)))
    masks = torch.rand(20, k, generator=torch.Generator().manual_seed(k)) < 0.5
    rows = pack(torch.full((20,), number(words)), masks, columns)
    [(found, unpacked)] = texts(rows.numpy())
    assert found is words
    assert np.array_equal(unpacked, masks.numpy())


def test_a_mask_may_have_more_columns_than_its_text():
    one, two = split("a b c"), split("a b c d e")
    numbers = torch.tensor([number(one), number(two)])
    masks = torch.tensor([[True, False, True, False, False], [False, True, False, True, True]])
    found = dict(texts(pack(numbers, masks, width(5)).numpy()))
    assert found[one].tolist() == [[True, False, True]]
    assert found[two].tolist() == [[False, True, False, True, True]]


def test_equal_rows_are_found():
    one, two = split("a b"), split("a b")
    numbers = torch.tensor([number(one), number(two)])[[0, 1, 0, 1, 0]]
    masks = torch.tensor([[1, 0], [1, 0], [1, 1], [1, 0], [1, 0]]).bool()
    rows = pack(numbers, masks, width(2))
    different, inverse = distinct(rows)
    assert len(different) == 3
    assert np.array_equal(different[inverse], rows.numpy())
    assert [words for words, _ in texts(different)] == [one, two]


def test_a_text_that_is_no_longer_explained_is_forgotten():
    words = split("a b")
    row = pack(torch.tensor([number(words)]), torch.ones(1, 2, dtype=torch.bool), width(2)).numpy()
    del words
    gc.collect()
    with pytest.raises(KeyError):
        next(texts(row))
