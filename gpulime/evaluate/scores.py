"""Scores of explanations: a number for each input and label by name, and the reason of each that is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Reasons = dict[tuple[int, int], str]  # (input, place of the label) -> reason


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Scores of n inputs and l labels; a subclass has a field or property (n, l) float64 for each of its ``NAMES``.

    Attributes
    ----------
    labels : (n, l) int64, classes
    reasons : dict (i, j) -> str, for each input i and place of a label j that could not be judged: all its scores are NaN
    """

    labels: Tensor
    reasons: Reasons

    NAMES: ClassVar[tuple[str, ...]] = ()
    MISSING: ClassVar[dict[str, str]] = {}  # name of a score -> the reason if it alone is NaN

    def __len__(self) -> int:
        return len(self.labels)

    def values(self) -> dict[str, Tensor]:
        """Every score (n, l) float64 by its name."""
        return {name: getattr(self, name) for name in self.NAMES}

    def reason(self, name: str, i: int, j: int) -> str | None:
        """The reason why a score of input i and label j is NaN; None if it is not."""
        if not bool(getattr(self, name)[i, j].isnan()):
            return None
        return self.reasons.get((i, j), self.MISSING.get(name, "the model's output is NaN or infinite"))


def reasons_at(where: Tensor, reason: str) -> Reasons:
    """The same reason for each True in ``where`` (n, l)."""
    return {(i, j): reason for i, j in where.nonzero().tolist()}  # noqa: C420, since dict.fromkeys would get lists


def without(values: Tensor, reasons: Reasons) -> Tensor:
    """Values (n, l, ...) with NaN for each label that has a reason."""
    if not reasons:
        return values
    i, j = (list(places) for places in zip(*reasons, strict=True))
    values = values.clone()
    values[i, j] = torch.nan
    return values
