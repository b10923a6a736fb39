"""Models with a tokenizer: rows of token ids in batches of similar lengths, each distinct row once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.engine.outputs import read
from gpulime.texts.batches import Batches

NAMES = ("input_ids", "attention_mask", "token_type_ids")
# Tokens in a batch of "auto", with padding. A CPU is busy with few.
AUTO_TOKENS = defaultdict(lambda: 2**16, cpu=2**12)
AUTO_ROWS = 1024


class TokenModel(nn.Module):
    """A model of transformers as a module of rows (b, c, t) int32: ids, attention mask and, if c is 3, token types.

    Parameters
    ----------
    model : nn.Module
        Called by the names `NAMES`.
    batch_size : int or "auto"
        The most rows per call.
    """

    def __init__(self, model: nn.Module, batch_size: int | str) -> None:
        super().__init__()
        self.model, self.batch_size = model, batch_size
        self._batches: Batches | None = None

    def forward(self, rows: Tensor) -> Tensor:
        """Outputs (b, classes)."""
        rows, inverse = distinct(rows)
        t = rows.shape[2]
        lengths = ((rows[:, 1] > 0) * torch.arange(1, t + 1, device=rows.device)).amax(1)

        def outputs(places: Tensor) -> Tensor:
            batch = rows[places][..., : int(lengths[places[0]])].long()  # the first one is the longest
            named: dict[str, Any] = dict(zip(NAMES, batch.unbind(1), strict=False))
            return read(self.model(**named), len(places))

        return self._sized(rows.device)(outputs, lengths)[inverse]

    def _sized(self, device: torch.device) -> Batches:
        if self._batches is None:
            auto = AUTO_ROWS, AUTO_TOKENS[device.type]
            self._batches = Batches(self.batch_size) if isinstance(self.batch_size, int) else Batches(*auto)
        return self._batches


def distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows, and for each given row (b, ...) the place of its equal."""
    flat = rows.flatten(1)
    flat = flat.view(torch.int64) if flat.dtype == torch.int32 else flat  # two entries in one, for speed; t is even
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**63), 2**63 - 1, (flat.shape[1],), generator=generator).to(rows.device)
    hashes, inverse = (flat * factors).sum(1).unique(return_inverse=True)
    first = torch.full_like(hashes, len(rows)).scatter_reduce(0, inverse, torch.arange(len(rows), device=rows.device), "amin")
    if not torch.equal(flat[first][inverse], flat):  # two different rows have the same hash
        return rows, torch.arange(len(rows), device=rows.device)
    return rows[first], inverse
