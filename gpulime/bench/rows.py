"""The best batch size: how fast the model takes batches of more rows and of fewer."""

from __future__ import annotations

import time
import warnings

import torch

from gpulime import device as devices
from gpulime.bench.side import Side

CALLS, SECONDS = 2, 0.2  # that a size is timed for, at least; the seconds are at most those of a piece
GAIN = 1.03  # below, a size is as good as another
MOST_BYTES = 2**29  # of rows


def by_rows(side: Side, images: torch.Tensor) -> dict[int, float]:
    """Forwards per second of the model, as a run calls it, by the rows of a batch.

    Of the present size, of half and of twice as many, and on as long as that is faster and a batch takes less than a piece.
    """
    found: dict[int, float] = {}
    present = _rate(side, images, side.b)
    if present is None:
        return found
    found[side.b] = fastest = present
    for grow in (True, False):
        b = side.b
        while b := b * 2 if grow else b // 2:
            too_large = grow and (4 * b * images[0].numel() > MOST_BYTES or b / fastest > side.seconds)
            rate = None if too_large else _rate(side, images, b)
            if rate is None:
                break
            found[b] = rate
            if rate < fastest * GAIN:
                break
            fastest = rate
    return dict(sorted(found.items()))


def best(found: dict[int, float]) -> int | None:
    """The fewest rows that are about as fast as any; None where nothing is known."""
    if not found:
        return None
    return min(b for b, rate in found.items() if rate * GAIN >= max(found.values()))


def _rate(side: Side, images: torch.Tensor, b: int) -> float | None:
    """None where the model does not take so many."""
    predictor = side.explainer.predictor
    ready = side.explainer.preparation.for_model(images.to(side.device))
    most = predictor.most
    try:
        with warnings.catch_warnings(), predictor.inference(side.device):
            warnings.simplefilter("ignore")
            rows = ready.repeat(-(-b // len(ready)), 1, 1, 1)[:b].contiguous(memory_format=predictor.memory_format)
            predictor(rows)
            devices.synchronize(side.device)
            times: list[float] = []
            while len(times) < CALLS or sum(times) < min(SECONDS, side.seconds):
                start = time.perf_counter()
                predictor(rows)
                devices.synchronize(side.device)
                times.append(time.perf_counter() - start)
    except (RuntimeError, MemoryError):  # memory, most of the time; what a run cannot have is no choice
        return None
    if predictor.most < most:
        predictor.most = most
        return None
    return b / min(times)
