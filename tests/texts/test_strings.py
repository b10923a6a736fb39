"""Functions of strings."""

from __future__ import annotations

import pytest
import torch

from gpulime.errors import GpulimeError
from gpulime.texts.packed import number, pack, width
from gpulime.texts.strings import Strings
from gpulime.texts.words import split

TEXTS = ["a bb ccc a", "bb dddd"]


def rows_of(words, masks):
    numbers = torch.tensor([number(one) for one in words])
    return pack(numbers.repeat_interleave(len(masks)), masks.repeat(len(words), 1), width(4))


@pytest.mark.parametrize("replace", [None, "X", lambda word: "#" * len(word)], ids=["removed", "X", "callable"])
def test_each_string_is_passed_once_at_most_so_many_at_a_time(replace):
    words = [split(text) for text in TEXTS]
    masks = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    calls = []

    def function(strings):
        calls.append(strings)
        return [[len(string), string.count("a")] for string in strings]

    found = Strings(function, 3, replace)(rows_of(words, masks))
    replacements = [
        [replace(name) if callable(replace) else replace for name in one.names] if replace else None for one in words
    ]
    strings = [string for one, other in zip(words, replacements, strict=True) for string in one.strings(masks.numpy(), other)]
    assert found.tolist() == [[len(string), string.count("a")] for string in strings]
    passed = [string for call in calls for string in call]
    assert sorted(passed) == sorted(set(strings))
    assert max(map(len, calls)) == 3
    assert [len(string) for string in passed] == sorted(map(len, passed), reverse=True)


def test_a_replacement_must_be_a_string():
    words = [split("a b")]
    with pytest.raises(GpulimeError, match="hide must return a string for a word; got int"):
        Strings(len, 3, lambda word: 3)(rows_of(words, torch.ones(1, 2, dtype=torch.bool)))
