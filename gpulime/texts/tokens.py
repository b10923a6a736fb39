"""Token ids of texts: each text is tokenised once, and its tokens are assigned to its words.

Tokens that lie in no word, such as punctuation and [CLS], are never hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.errors import GpulimeError, check
from gpulime.texts.words import Words

MOST = 10**6  # a tokenizer without a limit has a larger one
LIMITS = ("max_position_embeddings", "n_positions", "max_sequence_length")


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text.

    Attributes
    ----------
    ids, parts : (t,) int64, the token and the word it belongs to; -1 for none
    types : (t,) int64, token_type_ids; None if the tokenizer gives none
    unseen : (k,) bool, True for a word without tokens
    """

    ids: Tensor
    parts: Tensor
    types: Tensor | None
    unseen: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Tokenisation:
    """A tokenizer and the most tokens that its model takes.

    Attributes
    ----------
    tokenizer : a fast tokenizer of transformers
    most : int or None
    pad : int, the id beyond a row's tokens
    empty : int, the id that a row without any token gets
    """

    tokenizer: Any
    most: int | None
    pad: int
    empty: int

    @classmethod
    def of(cls, tokenizer: Any, config: Any, max_length: int | None = None) -> Tokenisation:
        """Take the limits of a tokenizer and of its model's ``config``, or ``max_length``.

        Raises
        ------
        GpulimeError
            If the tokenizer gives no offsets, or has no token to pad with.
        """
        right = "tokenizer must be a fast tokenizer of transformers, which gives offsets"
        name = type(tokenizer).__name__
        check(callable(tokenizer) and getattr(tokenizer, "is_fast", False), f"{right}; got {name}: pass a function of strings")
        known = [getattr(tokenizer, "model_max_length", MOST), *(getattr(config, limit, None) for limit in LIMITS)]
        limits = [max_length] if max_length is not None else [one for one in known if isinstance(one, int) and 0 < one < MOST]
        pad = tokenizer.pad_token_id
        if pad is None:
            raise GpulimeError(
                f"{name} has no token to pad with: tokenizer.pad_token = tokenizer.eos_token, and "
                "model.config.pad_token_id = tokenizer.pad_token_id"
            )
        ways = (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id, pad)
        return cls(tokenizer, min(limits, default=None), pad, next(one for one in ways if one is not None))

    def __call__(self, texts: Sequence[Words]) -> list[Tokens]:
        """Tokens of each text, at most ``most``."""
        strings = [words.text for words in texts]
        limit = {} if self.most is None else {"truncation": True, "max_length": self.most}
        found = self.tokenizer(strings, return_offsets_mapping=True, return_attention_mask=False, verbose=False, **limit)
        types = found.get("token_type_ids", [None] * len(strings))
        return [
            _tokens(words, *one) for words, *one in zip(texts, found["input_ids"], found["offset_mapping"], types, strict=True)
        ]


def _tokens(words: Words, ids: list[int], offsets: list[tuple[int, int]], types: list[int] | None) -> Tokens:
    at = words.part_at
    parts = [next((part for part in at[start:stop].tolist() if part >= 0), -1) for start, stop in offsets]
    unseen = np.ones(len(words), bool)
    unseen[[part for part in parts if part >= 0]] = False
    typed = None if types is None else torch.tensor(types)
    return Tokens(torch.tensor(ids, dtype=torch.int64), torch.tensor(parts, dtype=torch.int64), typed, torch.from_numpy(unseen))
