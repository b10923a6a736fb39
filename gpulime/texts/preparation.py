"""Prepare texts for masking: everything done once per text, before its rows enter the queue."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from gpulime.classes import Names
from gpulime.engine.batch_size import BatchSize, Kind, row_bytes
from gpulime.engine.model import Predictor
from gpulime.texts.batch import Batch, Divided
from gpulime.texts.hide import DROP, Hide, replacement
from gpulime.texts.masked_texts import MaskedTexts
from gpulime.texts.masked_tokens import MaskedTokens
from gpulime.texts.packed import width
from gpulime.texts.tokens import Tokenisation
from gpulime.texts.words import Split

TOKEN_STEP = 16  # of the widths of rows of token ids
AT_ONCE = 256  # texts that are prepared at once, to bound memory
WINDOW_ROWS, WINDOW_BYTES = 2**14, 2**26  # of rows that are sorted and made distinct together


class Window(BatchSize):
    """Number of rows that a model of texts gets at once; it sorts them and passes the user's model its own batches."""

    def __init__(self) -> None:
        super().__init__(WINDOW_ROWS)

    def get(self, kind: Kind, most: int) -> int:
        """Rows of the next window, at most ``most``."""
        return max(1, min(WINDOW_ROWS, WINDOW_BYTES // row_bytes(kind), most))


@dataclass(eq=False)
class Preparation:
    """Divides texts into words, and into tokens for models with a tokenizer, by the settings of a `TextExplainer`."""

    predictor: Predictor
    split_expression: Split
    bow: bool
    char_level: bool
    tokenisation: Tokenisation | None
    hide: Hide
    class_names: Names | None = None  # labels may use them

    def divided(self, batch: Batch) -> Divided:
        """Check a batch and divide its texts into words."""
        return batch.divided(self.split_expression, self.bow, self.char_level, self.class_names)

    def masked(self, batch: Batch | Divided) -> Iterator[MaskedTexts]:
        """Prepare the batch's texts, a few at a time, in their order."""
        divided = self.divided(batch) if isinstance(batch, Batch) else batch
        if self.predictor.classes is not None:
            divided.wanted.check(self.predictor.classes, MaskedTexts.one)
        device = self.predictor.device(torch.empty(0))
        for start in range(0, len(divided), AT_ONCE):
            part = divided.part(slice(start, start + AT_ONCE))
            labels = part.wanted.labels
            wanted = (
                part.wanted if labels is None else type(part.wanted)(labels.to(device), part.wanted.top, part.wanted.highest)
            )
            yield self._masked(Divided(part.words, part.keys.to(device), wanted))

    def _masked(self, part: Divided) -> MaskedTexts:
        if self.tokenisation is None:
            columns = width(max(map(len, part.words)))
            return MaskedTexts(part.words, part.keys, part.wanted, columns, self.class_names)
        tokens = self.tokenisation(part.words)
        others = replacement(self.hide, self.tokenisation.tokenizer)
        return MaskedTokens(
            part.words,
            part.keys,
            part.wanted,
            width(max(map(len, tokens)), TOKEN_STEP),
            self.class_names,
            tokens=tokens,
            others=None if others is None else [others(one.ids) for one in tokens],
            drop=self.hide == DROP,
            pad=self.tokenisation.pad,
            empty=self.tokenisation.empty,
        )
