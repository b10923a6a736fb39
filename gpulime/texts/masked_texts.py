"""Masked texts: texts with words as their parts, for functions of strings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.classes import Names
from gpulime.engine.batch_size import Kind
from gpulime.engine.masked import Masked, Wanted
from gpulime.explanations.texts import ExplainedTexts
from gpulime.texts.packed import NUMBER, number, pack
from gpulime.texts.words import Words


@dataclass(eq=False)
class MaskedTexts(Masked):
    """Texts divided into words; a row is the text's number and its mask, which a function of strings decodes."""

    words: list[Words]
    keys: Tensor  # (n,) int64
    wanted: Wanted
    columns: int  # of packed masks; equal for texts that share model batches
    class_names: Names | None = None

    one, parts = "text", "words"

    def __post_init__(self) -> None:
        self.sizes = torch.tensor([len(words) for words in self.words])
        self.counts = devices.sent(self.sizes, self.keys.device)
        self.k = self.most = max(len(words) for words in self.words)
        self.kind = self._kind()
        self.numbers = self._numbers()

    def _kind(self) -> Kind:
        return (NUMBER + self.columns // 8,), torch.uint8, self.keys.device

    def _numbers(self) -> Tensor:
        return torch.tensor([number(words) for words in self.words])

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Pack rows (b, bytes) uint8."""
        return pack(self.numbers[index], masks, self.columns)

    def part(self, where: slice) -> MaskedTexts:
        """Select texts by a slice."""
        return replace(self, words=self.words[where], keys=self.keys[where], wanted=self.wanted.part(where))

    def unseen(self) -> Tensor:
        """Tell for each word (n, k) if the model never sees it."""
        return torch.zeros(len(self), self.k, dtype=torch.bool, device=self.keys.device)

    def explained(self, found: dict[str, Any]) -> ExplainedTexts:
        """Build the explanations, with texts and words."""
        return ExplainedTexts(
            **found,
            texts=[words.text for words in self.words],
            words=[words.names for words in self.words],
            spans=[words.spans for words in self.words],
            unseen=self.unseen(),
            class_names=self.class_names,
        )
