"""The model without explaining: forwards on prepared rows, in the fastest layout."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from gpulime.bench.clock import Seconds, timed
from gpulime.engine.compiled import Compiled
from gpulime.engine.model import Model

TRIALS = 3


class Bare:
    """The model alone, in the fastest of the layouts that a user could choose without changing the numbers.

    Parameters
    ----------
    model : Module or callable
    rows : Tensor (b, c, h, w), one model batch on the model's device
    precision : torch.dtype, of autocast; float32 without
    last : bool, True to try channels_last, for the rows and for the weights
    compile : as for `gpulime.Explainer`

    Attributes
    ----------
    layout : str, the fastest one
    seconds : float, of one of its batches
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
        self.seconds, self.layout, self.model, self.rows = min(
            ((self._trial(model, rows), layout, model, rows) for layout, model, rows in tries), key=lambda found: found[0]
        )

    def _trial(self, model: Model, rows: Tensor) -> float:
        """Seconds of a batch."""
        with self._inference():
            return min([timed(lambda: model(rows), self.device).wall for _ in range(1 + TRIALS)][1:])

    def forward(self, count: int) -> Seconds:
        """Time ``count`` rows, of which the last batch may be smaller."""
        with self._inference():
            return timed(lambda: self._batches(count), self.device)

    def _batches(self, count: int) -> None:
        for left in range(count, 0, -len(self.rows)):
            self.model(self.rows[:left])

    @contextmanager
    def _inference(self) -> Iterator[None]:
        reduced = self.precision != torch.float32
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            torch.autocast(self.device.type, self.precision if reduced else None, enabled=reduced),
        ):
            warnings.simplefilter("ignore")
            yield


def channels_last(model: Model) -> torch.nn.Module:
    """Copy a model, with its weights in the memory format ``channels_last``."""
    assert isinstance(model, torch.nn.Module)
    copied: torch.nn.Module = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return copied
