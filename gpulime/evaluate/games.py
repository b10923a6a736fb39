"""Games of deletion and insertion: staircase masks through an explainer's queue, each predicted once."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpulime.engine.chosen import ChosenFlight
from gpulime.engine.engine import Engine
from gpulime.engine.masked import Masked
from gpulime.engine.stopping import first_of
from gpulime.evaluate import ranks
from gpulime.evaluate.staircase import CURVES, DELETION, INSERTION, Staircase
from gpulime.evaluate.units import Units

Engines = dict[str, Engine[Any]]  # of each curve


@dataclass(frozen=True, eq=False)
class Played:
    """Outputs of both games, as in `gpulime.evaluate.Curves`; ``highest`` (n, l, m + 1) are the highest classes in deletion."""

    deletion: Tensor
    insertion: Tensor
    highest: Tensor
    area: Tensor
    hidden: Tensor


def play(engines: Engines, batch: Any, units: Units, steps: int | None = None) -> Played:
    """Play each game with its engine, which has its fill; with the same engine they share the empty input."""
    order = ranks.order(units.values, units.counts)
    hidden = _hidden(units.counts, steps)
    same = engines[DELETION] is engines[INSERTION]
    outputs, best = {}, {}
    for names in [CURVES] if same else [(name,) for name in CURVES]:
        found = _passed(engines[names[0]], batch, units, order, hidden, names)
        for i, name in enumerate(names):
            outputs[name], best[name] = (tensor[:, i] for tensor in found)
    shares = units.shares[:, None].expand(order.shape).gather(2, order).cumsum(2)
    each = hidden[:, None].expand(-1, order.shape[1], -1)
    area = torch.nn.functional.pad(shares, (1, 0)).gather(2, each).clamp(max=1)
    return Played(outputs[DELETION], outputs[INSERTION], best[DELETION], area, hidden)


def _hidden(counts: Tensor, steps: int | None) -> Tensor:
    """Units hidden at each point, (n, m + 1): all different up to an input's count, which repeats."""
    each = counts if steps is None else counts.clamp(max=steps)
    step = torch.minimum(torch.arange(int(each.max()) + 1, device=counts.device), each[:, None])
    return (2 * step * counts[:, None] + each[:, None]) // (2 * each[:, None])  # rounded to the nearest


def _passed(
    engine: Engine[Any], batch: Any, units: Units, order: Tensor, hidden: Tensor, names: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Outputs and the classes with the highest one, (n, curves, l, m + 1) both."""
    rank, first = order.argsort(-1), first_of(units.labels)
    stairs: deque[Staircase] = deque()

    def begin(inputs: Masked, where: slice) -> ChosenFlight:
        stairs.append(Staircase.of(rank[where], hidden[where], units.counts[where], first[where], names))
        return ChosenFlight.of(inputs, stairs[-1].index, stairs[-1].masks)

    rows = 1 + len(names) * units.labels.shape[1] * hidden.shape[1]
    found = [stairs.popleft().read(answers) for answers in engine.passed(batch, rows, begin, ChosenFlight.answers)]
    outputs, best = (torch.cat(parts) for parts in zip(*found, strict=True))
    return outputs, best
