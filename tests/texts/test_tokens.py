"""Tokens of texts, their words, and models of token ids."""

from __future__ import annotations

import pytest
import torch

from gpulime.engine.masked import Wanted
from gpulime.errors import GpulimeError
from gpulime.texts.masked_tokens import MaskedTokens
from gpulime.texts.packed import width
from gpulime.texts.token_model import TokenModel, distinct
from gpulime.texts.tokens import Tokenisation
from gpulime.texts.words import split
from tests.texts import tiny

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


def tokenised(texts, bow=True, **settings):
    tokenizer = tiny.tokenizer(**settings)
    words = [split(text, bow=bow) for text in texts]
    tokenisation = Tokenisation.of(tokenizer, None)
    return tokenizer, words, tokenisation, tokenisation(words)


def masked(words, tokens, tokenisation, **settings):
    keys, columns = torch.zeros(len(words), dtype=torch.int64), width(max(map(len, tokens)))
    return MaskedTokens(
        words, keys, Wanted(), columns, tokens=tokens, pad=tokenisation.pad, empty=tokenisation.empty, **settings
    )


@pytest.mark.parametrize("bow", [True, False])
def test_each_token_belongs_to_its_word(bow):
    tokenizer, words, _, tokens = tokenised(tiny.TEXTS, bow)
    for one, found in zip(words, tokens, strict=True):
        assert not found.unseen.any()
        for part, name in enumerate(one.names):
            ids = found.ids[found.parts == part].tolist()
            once = tokenizer(name, add_special_tokens=False)["input_ids"]
            assert ids == once * len(one.places[part])
        rest = tokenizer.convert_ids_to_tokens(found.ids[found.parts < 0].tolist())
        assert set(rest) <= {"[CLS]", "[SEP]", ",", "!"}


@pytest.mark.parametrize("bow", [True, False])
def test_ids_without_the_dropped_ones_are_those_of_the_string(bow):
    """WordPiece tokenises each word alone, so that lime's strings have the same ids."""
    tokenizer, words, tokenisation, tokens = tokenised(tiny.TEXTS, bow)
    inputs = masked(words, tokens, tokenisation)
    random = torch.Generator().manual_seed(0)
    for i, one in enumerate(words):
        masks = torch.rand(50, inputs.k, generator=random) < 0.5
        masks[0], masks[1] = True, False
        rows = inputs.rows(torch.full((50,), i), torch.arange(50), masks)
        strings = list(one.strings(masks.numpy()))
        for row, ids in zip(rows, tokenizer(strings)["input_ids"], strict=True):
            assert row[0].tolist() == ids + [tokenizer.pad_token_id] * (inputs.columns - len(ids))
            assert row[1].sum() == len(ids)
            assert row[1, : len(ids)].all()


def test_parts_of_masked_texts():
    tokenizer, words, tokenisation, tokens = tokenised(tiny.TEXTS)
    others = [torch.full_like(one.ids, tokenizer.mask_token_id) for one in tokens]
    inputs = masked(words, tokens, tokenisation, others=others)
    index, masks = torch.tensor([1, 2]), torch.zeros(2, inputs.k, dtype=torch.bool)
    part = inputs.part(slice(1, 3))
    assert part.words == words[1:3]
    assert torch.equal(inputs.rows(index, index, masks), part.rows(index - 1, index, masks[:, : part.k]))


def test_words_beyond_the_longest_input_are_unseen():
    _, words, tokenisation, tokens = tokenised(["goalkeeper saved the game"], max_length=6)
    assert tokenisation.most == 6
    assert len(tokens[0]) == 6
    assert tokens[0].unseen.tolist() == [False, False, True, True]  # [CLS] goal ##keep ##er saved [SEP]
    assert masked(words, tokens, tokenisation).unseen().tolist() == [[False, False, True, True]]


def test_a_row_without_tokens_gets_one():
    tokenizer, words, tokenisation, tokens = tokenised(["noise", "a game"], special=False)
    for drop in (True, False):
        inputs = masked(words, tokens, tokenisation, drop=drop)
        rows = inputs.rows(torch.tensor([0, 1]), torch.tensor([1, 1]), torch.zeros(2, 2, dtype=torch.bool))
        assert rows[:, 1].sum(1).tolist() == [1, 1]
        assert rows[:, 0, 0].tolist() == [tokenizer.mask_token_id] * 2


def test_token_types_are_passed_if_the_tokenizer_gives_them():
    tokenizer, words, *_ = tokenised(tiny.TEXTS)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenisation = Tokenisation.of(tokenizer, None)
    inputs = masked(words, tokenisation(words), tokenisation)
    assert inputs.kind[0] == (3, 64)
    rows = inputs.rows(torch.tensor([0]), torch.tensor([0]), torch.ones(1, inputs.k, dtype=torch.bool))
    asked = []

    class Model(torch.nn.Module):
        def forward(self, **given):
            asked.append(given)
            return torch.zeros(len(given["input_ids"]), 2)

    TokenModel(Model(), "auto")(rows)
    assert list(asked[0]) == ["input_ids", "attention_mask", "token_type_ids"]


def test_limits_of_tokenizer_and_model():
    config = transformers.BertConfig(max_position_embeddings=40)
    assert Tokenisation.of(tiny.tokenizer(max_length=30), config).most == 30
    assert Tokenisation.of(tiny.tokenizer(max_length=50), config).most == 40
    assert Tokenisation.of(tiny.tokenizer(max_length=50), config, 20).most == 20
    assert Tokenisation.of(tiny.tokenizer(max_length=10**30), None).most is None


def test_tokenizers_that_cannot_serve():
    with pytest.raises(GpulimeError, match="must be a fast tokenizer of transformers, which gives offsets; got function"):
        Tokenisation.of(lambda text: text, None)
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(GpulimeError, match=r"has no token to pad with: tokenizer[.]pad_token = tokenizer[.]eos_token"):
        Tokenisation.of(tokenizer, None)


def test_distinct_rows():
    rows = torch.randint(0, 2, (200, 2, 3), generator=torch.Generator().manual_seed(0))
    different, inverse = distinct(rows)
    assert torch.equal(different[inverse], rows)
    assert len(different) == len(rows.flatten(1).unique(dim=0))


def test_rows_with_equal_hashes_stay_apart(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda low, high, size, generator: torch.zeros(size, dtype=torch.int64))
    rows = torch.arange(12).view(3, 2, 2)
    assert torch.equal(distinct(rows)[0], rows)


def test_rows_go_by_length_and_once():
    tokenizer = tiny.tokenizer()
    asked = []

    class Model(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            asked.append(attention_mask)
            return (input_ids * attention_mask).sum(1, keepdim=True).float()

    _, words, tokenisation, tokens = tokenised(tiny.TEXTS)
    inputs = masked(words, tokens, tokenisation)
    masks = torch.rand(64, inputs.k, generator=torch.Generator().manual_seed(0)) < 0.5
    rows = inputs.rows(torch.arange(64) % 5, torch.ones(64, dtype=torch.int64), masks)
    found = TokenModel(Model(), 7)(rows.repeat(2, 1, 1))
    assert found[:, 0].tolist() == (rows[:, 0] * rows[:, 1]).sum(1).tolist() * 2
    assert sum(map(len, asked)) == len(rows.flatten(1).unique(dim=0))
    assert {len(one) for one in asked[:-1]} == {7}
    widths = [one.shape[1] for one in asked]
    assert widths == sorted(widths, reverse=True)
    assert all(one.any(0).all() for one in asked)  # no column is all padding
    assert tokenizer.pad_token_id == tokenisation.pad
