"""Texts of a run, from a column of a file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gpulime.engine.masks import key
from gpulime.errors import GpulimeError, check
from gpulime.explanations.texts import ExplainedTexts
from gpulime.runs.reading import records
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.records import Records
from gpulime.runs.reading.sources import Item
from gpulime.runs.source import Group
from gpulime.runs.store import row
from gpulime.text_explainer import TextExplainer
from gpulime.texts.batch import Batch

AT_ONCE = 256  # texts in a batch, whose rows are sorted by length


@dataclass
class TextSource:
    """The texts of a run; a `gpulime.runs.source.Source`.

    Attributes
    ----------
    column : str, of the texts
    labels : "top", "target" or "top+target", or the classes to explain for each text
    """

    explainer: TextExplainer
    records: Records
    column: str
    labels: str | Sequence[int]
    kind: str = row.TEXT
    per_sample: float = 1.0

    def groups(self, items: Sequence[Item], proven: bool, waiting: Callable[[], None]) -> Generator[Group, None, None]:
        """Texts in order, some hundred at a time."""
        for start in range(0, len(items), AT_ONCE):
            waiting()
            reads = map(self.read, items[start : start + AT_ONCE])
            yield from records.grouped(reads, self._batch)

    def passes(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """All texts together."""
        return [items]

    def alone(self, read: Read) -> Batch:
        """The batch of one text."""
        return self._batch([read])

    def read(self, item: Item) -> Read:
        """Read one text; one without words becomes a `Read` with its error."""
        name = item.image_id
        try:
            check(name not in self.records.broken, lambda: self.records.broken[name])
            text = self.records.record(name)[self.column]
            check(text is not None, f"has no text in the column {self.column!r}")
            self.explainer.preparation.divided(Batch([text]))
            found = records.classes(item, self.labels)
        except GpulimeError as error:
            return Read(item, error=str(error).removeprefix("text 0: "), kind=records.ERROR)
        return Read(item, content=text, sha256=self.records.sha256(name), classes=found)

    def columns(self, piece: ExplainedTexts, i: int, read: Read) -> dict[str, Any]:
        """Text, words, their places, and which of them the model never sees."""
        return {
            "kind": row.TEXT,
            "n_segments": len(piece.words[i]),
            "parts": piece.words[i],
            "text": piece.texts[i],
            "spans": [list(itertools.chain.from_iterable(places)) for places in piece.spans[i]],
            row.UNSEEN: piece.unseen[i].nonzero().flatten().tolist(),
        }

    def _batch(self, reads: Sequence[Read]) -> Batch:
        labels, top = records.aimed(reads, self.labels)
        return Batch(
            texts=[read.content for read in reads],
            labels=labels,
            keys=torch.tensor([key(read.item.image_id) for read in reads]),
            top=top,
        )
