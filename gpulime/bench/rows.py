"""The best batch size: rows per second of the model for larger and smaller batches."""

from __future__ import annotations

import warnings

import torch

from gpulime.bench.clock import timed
from gpulime.bench.side import Side

CALLS, SECONDS = 2, 0.2  # the least calls and seconds to time a size; the seconds never exceed those of a piece
GAIN = 1.03  # below, a size is as good as another
MOST_BYTES = 2**29  # of rows


def by_rows(side: Side, images: torch.Tensor) -> dict[int, float]:
    """Forwards per second of the model, called as in a run, by the rows of a batch.

    Tries the present size, then halves and doubles it while that is faster and a batch takes less time than a piece.
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
    """The smallest batch that is about as fast as any; None if nothing is known."""
    if not found:
        return None
    return min(b for b, rate in found.items() if rate * GAIN >= max(found.values()))


def _rate(side: Side, images: torch.Tensor, b: int) -> float | None:
    """Rows per second; None if the model fails with this many rows."""
    predictor = side.explainer.predictor
    most = predictor.most
    try:
        with warnings.catch_warnings(), predictor.inference(side.device):
            warnings.simplefilter("ignore")
            rows = side.ready(images, b).contiguous(memory_format=predictor.memory_format)
            predictor(rows)
            times: list[float] = []
            while len(times) < CALLS or sum(times) < min(SECONDS, side.seconds):
                times.append(timed(lambda: predictor(rows), side.device).wall)
    except (RuntimeError, MemoryError):  # usually out of memory
        return None
    if predictor.most < most:
        predictor.most = most
        return None
    return b / min(times)
