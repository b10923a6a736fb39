"""Hiding of tokens, compared with loops."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpulime.errors import GpulimeError
from gpulime.texts.hide import compose, replacement
from tests.texts import tiny

PAD = 99


def slow(rows, shown, others, drop):
    """Hide one token after the other."""
    result = []
    for row, mask, other in zip(
        rows.tolist(), shown.tolist(), rows[:, 0].tolist() if others is None else others.tolist(), strict=True
    ):
        columns = list(zip(*row, strict=True))  # of each token: id, attention, type
        if others is not None:
            columns = [column if one else (new, *column[1:]) for column, one, new in zip(columns, mask, other, strict=True)]
        elif drop:
            kept = [column for column, one in zip(columns, mask, strict=True) if one and column[1]]
            columns = kept + [(PAD, *[0] * (len(row) - 1))] * (len(columns) - len(kept))
        else:
            columns = [column if one else (column[0], 0, *column[2:]) for column, one in zip(columns, mask, strict=True)]
        result.append([list(channel) for channel in zip(*columns, strict=True)])
    return torch.tensor(result)


@pytest.mark.parametrize("t", [1, 2, 31, 33])
@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize(
    ("replaced", "drop"), [(True, True), (False, True), (False, False)], ids=["others", "drop", "attention"]
)
def test_rows_equal_those_of_a_loop(t, channels, replaced, drop):
    random = torch.Generator().manual_seed(t)
    rows = torch.randint(0, 90, (20, channels, t), generator=random)
    lengths = torch.randint(1, t + 1, (20,), generator=random)
    rows[:, 1] = torch.arange(t) < lengths[:, None]
    rows[:, 0] = rows[:, 0].where(rows[:, 1] == 1, PAD)
    shown = torch.rand(20, t, generator=random) < 0.5
    shown |= rows[:, 1] == 0
    shown[0] = False
    others = torch.randint(0, 90, (20, t), generator=random) if replaced else None
    assert torch.equal(compose(rows, shown, others, drop, PAD), slow(rows, shown, others, drop))


def test_ways_to_hide():
    tokenizer = tiny.tokenizer()
    ids = torch.tensor([5, 6, 7])
    assert replacement("drop", tokenizer) is None
    assert replacement("attention", tokenizer) is None
    assert replacement("mask", tokenizer)(ids).tolist() == [tokenizer.mask_token_id] * 3
    assert replacement("[UNK]", tokenizer)(ids).tolist() == [tokenizer.unk_token_id] * 3
    assert replacement("engine", tokenizer)(ids).tolist() == [tokenizer.convert_tokens_to_ids("engine")] * 3
    assert replacement(lambda ids: ids.flip(0), tokenizer)(ids).tolist() == [7, 6, 5]


@pytest.mark.parametrize(
    ("hide", "said"),
    [
        ("zebra", "a token of .*; 'zebra' is none of these"),
        (3, "hide must be 'drop', 'mask', 'attention', a token or a callable; got 3"),
        (lambda ids: ids.float(), r"hide must return 3 whole numbers for the 3 ids of a text; got \(3,\) torch.float32"),
        (lambda ids: 3, "got int"),
        (lambda ids: ids[:2], r"got \(2,\) torch.int64"),
    ],
)
def test_other_ways_are_refused(hide, said):
    with pytest.raises(GpulimeError, match=said):
        replacement(hide, tiny.tokenizer())(torch.tensor([5, 6, 7]))


def test_a_tokenizer_without_a_mask_token():
    said = "hide='mask' needs a tokenizer with a mask token; SimpleNamespace has none: take 'drop' or a token"
    with pytest.raises(GpulimeError, match=said):
        replacement("mask", SimpleNamespace(mask_token_id=None))
