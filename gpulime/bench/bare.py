"""The model by itself: the forwards of a run without explaining, on rows that are ready, at their best."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.bench.piece import Piece
from gpulime.bench.side import Side
from gpulime.bench.stages import STAGES
from gpulime.bench.subject import channels_last
from gpulime.engine.compiled import Compiled
from gpulime.engine.model import Model

TRIALS = 3


class Bare:
    """The bare model, in the precision and with the batch size of a side.

    What a user could choose without changing the numbers is tried, and the fastest taken: rows as they are or in channels_last,
    and the weights in channels_last, too.

    Attributes
    ----------
    layout : str, what that was
    """

    def __init__(self, side: Side, images: Tensor) -> None:
        predictor = side.explainer.predictor
        self.device, self.precision, self.b = side.device, predictor.precision, side.b
        ready = side.explainer.preparation.for_model(images.to(self.device))
        rows = ready.repeat(-(-self.b // len(ready)), 1, 1, 1)[: self.b].contiguous()
        tries: list[tuple[str, Model, Tensor]] = [("as it is", predictor.model, rows)]
        if predictor.memory_format is torch.channels_last:
            last = rows.contiguous(memory_format=torch.channels_last)
            tries.append(("rows in channels_last", predictor.model, last))
            if predictor.module is not None:
                with suppress(Exception):  # a model that cannot be copied
                    tries.append(("rows and weights in channels_last", channels_last(predictor.module), last))
        if side.way.compile and side.not_compiled is None:
            compiled = Compiled(predictor.model, side.way.compile)
            compiled.prepare(self.device)
            tries += [(f"compiled, {layout}", lambda rows: compiled(rows, len(rows)), ready) for layout, _, ready in tries[:2]]
        best, self.layout, self.model, self.rows = min(
            ((self._trial(model, rows), layout, model, rows) for layout, model, rows in tries), key=lambda found: found[0]
        )
        self.batches = max(1, round(side.seconds / best))

    def _trial(self, model: Model, rows: Tensor) -> float:
        """Seconds of a batch."""
        times = []
        with self._inference():
            for _ in range(1 + TRIALS):
                start = time.perf_counter()
                model(rows)
                devices.synchronize(self.device)
                times.append(time.perf_counter() - start)
        return min(times[1:])

    def run(self) -> Piece:
        """As many forwards as take about as long as a piece of a side."""
        with self._inference():
            devices.synchronize(self.device)
            start = time.perf_counter()
            for _ in range(self.batches):
                self.model(self.rows)
            devices.synchronize(self.device)
            seconds = time.perf_counter() - start
        return Piece(0, self.batches * self.b, seconds, {**dict.fromkeys(STAGES, 0.0), "model": seconds})

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
