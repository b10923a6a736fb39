"""The model without explaining: forwards on prepared rows, in the fastest layout."""

from __future__ import annotations

import copy
import warnings
from contextlib import suppress

import torch
from torch import Tensor, nn

from gpulime.bench.clock import Seconds, timed
from gpulime.engine.compiled import Compiled
from gpulime.engine.model import Model

TRIALS = 3


class Bare:
    """The model alone, in the fastest of the layouts that a user could choose without changing the numbers.

    ``rows`` (b, c, h, w) are one model batch on the model's device; ``precision`` is autocast's, float32 without. ``last``
    tries channels_last, for the rows and for the weights; ``compile`` is as for `gpulime.Explainer`. ``seconds`` are those of a
    batch.
    """

    def __init__(self, model: Model, rows: Tensor, precision: torch.dtype, last: bool, compile: bool | str = False) -> None:
        self.device, self.precision = rows.device, precision
        tries: list[tuple[str, Model, Tensor]] = [("as it is", model, rows.contiguous())]
        if last:
            other = rows.contiguous(memory_format=torch.channels_last)
            tries.append(("rows in channels_last", model, other))
            if isinstance(model, nn.Module):
                with suppress(Exception):  # a model that cannot be copied
                    tries.append(("rows and weights in channels_last", channels_last(model), other))
        if compile:
            made = Compiled(model, compile)
            made.prepare(self.device)
            tries += [(f"compiled, {layout}", lambda rows: made(rows, len(rows)), ready) for layout, _, ready in tries[:2]]
        trials = []
        for _, self.model, self.rows in tries:
            trials.append(min([self.forward(len(rows)).wall for _ in range(1 + TRIALS)][1:]))
        self.seconds = min(trials)
        self.layout, self.model, self.rows = tries[trials.index(self.seconds)]

    def forward(self, count: int) -> Seconds:
        """Time ``count`` rows, of which the last batch may be smaller."""
        reduced = self.precision != torch.float32
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            torch.autocast(self.device.type, self.precision if reduced else None, enabled=reduced),
        ):
            warnings.simplefilter("ignore")
            return timed(lambda: self._batches(count), self.device)

    def _batches(self, count: int) -> None:
        for left in range(count, 0, -len(self.rows)):
            self.model(self.rows[:left])


def channels_last(model: Model) -> nn.Module:
    """Copy a model, with its weights in the memory format ``channels_last``."""
    assert isinstance(model, nn.Module)
    copied: nn.Module = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return copied
