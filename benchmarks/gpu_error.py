"""The error beside a time on a GPU: that of coefficients which the engine found, from LIME by its definition."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import gpulime
from benchmarks import noise
from benchmarks.gpu_rows import Bench, Row
from benchmarks.run import difference
from benchmarks.sides import Classifier, defined

BATCH = 250


@dataclass(frozen=True)
class Error:
    """The greatest difference of coefficients, as a part of the largest, and the most that it may be."""

    value: float
    limit: float

    @property
    def small(self) -> bool:
        """Whether there may be a time beside it; one that is not a number is not."""
        return self.value <= self.limit

    def beside(self, row: Row) -> Row:
        """The row with it."""
        return replace(row, error=f"{self.value:.2g}", error_limit=f"{self.limit:.2g}")

    def verdict(self, bench: Bench, entry: str, side: str) -> Row:
        """The row of one whose error is too large."""
        reason = f"its coefficients are wrong by {self.value:.2g}, and may be by {self.limit:.2g}"
        return self.beside(bench.verdict(entry, side, reason))


def of(explained: gpulime.Explanations, image: Tensor, s: int, exact: Classifier, rounded: Classifier) -> Error:
    """That of the first image and its first label, of which the masks are those of the engine's defaults and s samples.

    ``image`` (c, h, w) is that image as the model takes it, in float32; ``exact`` is the model in float32, ``rounded`` the one
    that was explained, in its own precision.
    """
    labels, target, k = explained.segments[0].long(), int(explained.labels[0, 0]), int(explained.counts[0])
    masks = gpulime.masks.resolve("bernoulli", 0, s)(torch.tensor(0), torch.arange(s), torch.tensor(k), k)
    expected, same = (defined(one, image, labels, target, masks, BATCH)[None] for one in (exact, rounded))
    found = explained.coefficients[0, :1, :k].cpu().numpy()
    return Error(difference(found, expected)[0], noise.in_bfloat16(difference(same, expected)[0]))
