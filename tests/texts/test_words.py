"""Words of a text, compared with lime's own division, and lime's masks."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpulime.errors import GpulimeError
from gpulime.texts.lime_masks import lime_masks
from gpulime.texts.words import check_words, split

lime_text = pytest.importorskip("lime.lime_text")

TEXTS = [
    "the cat sat on the mat, and the dog?",
    "  leading and trailing  ",
    "don't -- stop; 'quotes' (and) brackets...",
    "Unicode: naïve café 😀 emoji שלום עולם",
    "lines\nand\ttabs \n",
    "one",
    "a a a A b",
    "a \n b\n",
    "x" * 30 + " " + "y" * 3,
]
EXPRESSIONS = [r"\W+", " +", r"\s+", r"[^a-z]", r"\W", ",|;"]


def lime_words(text, bow, char_level, **options):
    if char_level:
        return lime_text.IndexedCharacters(text, bow=bow, **options)
    return lime_text.IndexedString(text, bow=bow, **options)


def assert_divided_alike(text, bow, expression, char_level=False):
    ours = split(text, expression, bow, char_level)
    options = {} if char_level else {"split_expression": expression}
    theirs = lime_words(text, bow, char_level, **options)
    assert ours.pieces == theirs.as_list
    assert ours.names == theirs.inverse_vocab
    assert "".join(ours.pieces) == text
    for part, spans in enumerate(ours.spans):
        assert [start for start, _ in spans] == theirs.string_position(part).ravel().tolist()
        assert {text[start:stop] for start, stop in spans} == {ours.names[part]}
    random = np.random.RandomState(0)
    masks = random.rand(20, len(ours)) < 0.5
    hidden = [np.flatnonzero(~mask) for mask in masks]
    replacements = None if bow else [theirs.mask_string] * len(ours)
    assert list(ours.strings(masks, replacements)) == [theirs.inverse_removing(some) for some in hidden]


@pytest.mark.parametrize("bow", [True, False])
@pytest.mark.parametrize("expression", [*EXPRESSIONS, re.compile(r"\w+").findall], ids=str)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_divided_as_by_lime(text, expression, bow):
    assert_divided_alike(text, bow, expression)


@pytest.mark.parametrize("bow", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_characters_are_divided_as_by_lime(text, bow):
    assert_divided_alike(text, bow, None, char_level=True)


@pytest.mark.parametrize("expression", [r"(\W)+", r"((\s)|-)+", r"(\W)\1*"])
def test_groups_do_not_corrupt_the_text(expression):
    words = split("well - known  words", expression)
    assert "".join(words.pieces) == "well - known  words"
    assert words.names == ["well", "known", "words"]


def test_separators_may_look_around():
    assert split("camelCaseWords", "(?=[A-Z])").names == ["camel", "Case", "Words"]
    assert split("well-known -x", r"(?<=\w)-(?=\w)").names == ["well", "known -x"]


def test_a_word_that_the_text_lacks_is_named():
    with pytest.raises(GpulimeError, match=r"'dog' is not in ' sat', the rest of the text"):
        split("the cat sat", lambda text: ["cat", "dog"])


@pytest.mark.parametrize("given", [None, 3, b"bytes", ["a", "b"]])
def test_a_text_must_be_a_string(given):
    with pytest.raises(GpulimeError, match=f"a text must be a string; got {type(given).__name__}"):
        split(given)


@pytest.mark.parametrize(("text", "shown"), [("", "an empty one"), ("?!", "'\\?!'"), (" \n", "' \\\\n'")])
def test_a_text_without_words_is_refused(text, shown):
    with pytest.raises(GpulimeError, match=f"text 3 must have a word that can be hidden; got {shown}"):
        check_words(split(text), "text 3")


def test_the_parts_of_characters():
    words = split("a b a")
    assert words.part_at.tolist() == [0, -1, 1, -1, 0]


def slow_masks(random, s, k):
    """Follow lime's own draws."""
    masks = np.ones((s, k), bool)
    for i, size in enumerate(random.randint(1, k + 1, s - 1), start=1):
        masks[i, random.choice(range(k), size, replace=False)] = False
    return masks


@pytest.mark.parametrize("k", [1, 2, 3, 31, 33, 257])
def test_masks_and_the_state_afterwards_are_those_of_lime(k):
    ours, theirs = np.random.RandomState(k), np.random.RandomState(k)
    assert np.array_equal(lime_masks(ours, 50, k), slow_masks(theirs, 50, k))
    assert ours.randint(2**31) == theirs.randint(2**31)
