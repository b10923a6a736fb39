"""Pixels hidden one after the other, in buckets of equal area: every pair of an image and a label is an input of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpulime.engine.stopping import first_of
from gpulime.errors import check
from gpulime.evaluate import ranks
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.games import Engines, Played, play
from gpulime.evaluate.scores import Reasons, reasons_at
from gpulime.evaluate.units import Units, constant_maps
from gpulime.images.batch import Batch

PAIRS = 64  # of image and label whose pixels are ranked at once, to bound memory


def play_pixels(
    engines: Callable[[Tensor], Engines], given: Attributions, steps: int, extra: Sequence[Tensor] = ()
) -> tuple[Played, Reasons]:
    """Play both games for every label of every image; a label that repeats is played once.

    Parameters
    ----------
    engines : callable
        Numbers of images (p,) -> the engines for these images.
    given : Attributions
    steps : int
        Buckets, at most h * w.
    extra : tensors (n, ...), further inputs of the model

    Returns
    -------
    The games, and reasons of constant maps
    """
    n, l = given.labels.shape
    h, w = given.images.shape[2:]
    check(steps <= h * w, f"steps must be at most h * w = {h * w} pixels; got {steps}")
    first = first_of(given.labels)
    fresh = first == torch.arange(l, device=first.device)
    place = (fresh.flatten().cumsum(0) - 1).view(n, l).gather(1, first)
    played: list[Played] = []
    constant: list[Tensor] = []
    for i, j in zip(*(some.split(PAIRS) for some in fresh.nonzero(as_tuple=True)), strict=True):
        maps = given.maps_of(i, j)[:, None]
        constant.append(constant_maps(maps))
        buckets = ranks.buckets(maps, steps)[:, 0]
        images, *more = (tensor[i.to(tensor.device)] for tensor in (given.images, *extra))
        batch = Batch(images, given.labels[i, j][:, None], buckets, extra=tuple(more))
        played.append(play(engines(i), batch, _units(buckets, batch.labels, steps)))
    together: dict[str, Any] = {name: torch.cat([getattr(one, name) for one in played]) for name in vars(played[0])}
    hidden = together.pop("hidden")[place[:, 0]]
    found = {name: values[:, 0][place] for name, values in together.items()}
    same = torch.cat(constant)[:, 0][place]
    return Played(hidden=hidden, **found), reasons_at(same, "the map is constant, the same in all pixels")


def _units(buckets: Tensor, labels: Tensor, steps: int) -> Units:
    """Buckets (p, h, w) as units, in their order."""
    p, pixels = len(buckets), buckets[0].numel()
    values = -torch.arange(steps, device=buckets.device).double().expand(p, 1, steps)
    counts = torch.full((p,), steps, device=buckets.device)
    return Units(labels, values, counts, ranks.sizes(buckets, steps) / pixels)
