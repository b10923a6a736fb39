"""Masked token ids: texts with words as their parts, for models with a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gpulime.engine.batch_size import Kind
from gpulime.texts.hide import compose
from gpulime.texts.masked_texts import MaskedTexts
from gpulime.texts.tokens import Tokens


@dataclass(eq=False)
class MaskedTokens(MaskedTexts):
    """Texts as token ids; a row (c, t) int32 holds ids, attention mask and, if c is 3, token types."""

    tokens: list[Tokens] = None  # type: ignore[assignment]
    others: list[Tensor] | None = None  # (t,) ids in place of hidden ones
    drop: bool = True  # without others: drop hidden tokens, or keep them from attention
    pad: int = 0
    empty: int = 0  # the id of a row without any token

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rows = torch.stack([self._padded(rows, value) for rows, value in self._channels()], 1).int()
        self._places = self._padded([one.parts.where(one.parts >= 0, self.k) for one in self.tokens], self.k)
        self._others = None if self.others is None else self._padded(self.others, self.pad).int()

    def _channels(self) -> Iterator[tuple[list[Tensor], int]]:
        """Ids, attention mask and token types of each text, and the values beyond its tokens."""
        yield [one.ids for one in self.tokens], self.pad
        yield [torch.ones_like(one.ids) for one in self.tokens], 0
        if types := [one.types for one in self.tokens if one.types is not None]:
            yield types, 0

    def _padded(self, rows: list[Tensor], value: int) -> Tensor:
        padded = pad_sequence([*rows, torch.zeros(self.columns, dtype=torch.int64)], batch_first=True, padding_value=value)
        return padded[:-1].to(self.keys.device)

    def _kind(self) -> Kind:
        return (2 if self.tokens[0].types is None else 3, self.columns), torch.int32, self.keys.device

    def _numbers(self) -> Tensor:
        return torch.empty(0)  # rows hold the ids

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Compose rows (b, c, t) int32; a row without a token that is attended to gets the ``empty`` one."""
        shown = torch.nn.functional.pad(masks, (0, 1), value=True).gather(1, self._places[index])  # column k is always shown
        others = None if self._others is None else self._others[index]
        rows = compose(self._rows[index], shown, others, self.drop, self.pad)
        bare = ~rows[:, 1].any(1)
        rows[:, 0, 0].masked_fill_(bare, self.empty)
        rows[:, 1, 0].masked_fill_(bare, 1)
        return rows

    def part(self, where: slice) -> MaskedTokens:
        """Select texts by a slice."""
        return replace(
            self,
            words=self.words[where],
            keys=self.keys[where],
            wanted=self.wanted.part(where),
            tokens=self.tokens[where],
            others=None if self.others is None else self.others[where],
        )

    def unseen(self) -> Tensor:
        """Tell for each word (n, k) if it has no token."""
        return pad_sequence([one.unseen for one in self.tokens], batch_first=True).to(self.keys.device)
