"""Units of images that are hidden one after the other: segments, or buckets of pixels of equal area."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gpulime.errors import check
from gpulime.evaluate import ranks
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.scores import Reasons
from gpulime.images.segments import Segments

PAIRS = 64  # of image and label whose pixels are ranked at once, to bound memory


@dataclass(frozen=True, eq=False)
class Units:
    """The units of n inputs and their importance for l labels.

    Attributes
    ----------
    labels : (n, l) int64
    values : (n, l, k) float64, finite; larger is more important; 0 beyond an input's count
    counts : (n,) int64, units of each input; the ones beyond are never hidden
    shares : (n, k) float64, the share of each unit in the area that can be hidden; 0 beyond an input's count
    """

    labels: Tensor
    values: Tensor
    counts: Tensor
    shares: Tensor

    def part(self, where: slice) -> Units:
        """The units of some inputs."""
        return Units(self.labels[where], self.values[where], self.counts[where], self.shares[where])

    def constant(self) -> Reasons:
        """Reasons of labels that give no order, since all units of an input, more than one, are equal."""
        beyond = torch.arange(self.values.shape[2], device=self.counts.device) >= self.counts[:, None, None]
        low, high = self.values.masked_fill(beyond, torch.inf).amin(-1), self.values.masked_fill(beyond, -torch.inf).amax(-1)
        places = ((low == high) & (self.counts > 1)[:, None]).nonzero().tolist()
        return {(i, j): f"the map is constant, {float(low[i, j]):.3g} in {int(self.counts[i])} units" for i, j in places}


def of_segments(given: Attributions, parts: Segments) -> Units:
    """Segments, by their coefficient or the mean of the map inside."""
    k = parts.most
    pixels = ranks.sizes(parts.labels, k + 1)[:, :k]  # kept pixels have the label k
    if given.maps is not None:
        values = ranks.segment_means(given.maps, parts.labels, k + 1)[..., :k]
    else:
        assert given.coefficients is not None
        values = given.coefficients[..., :k]
    valid = torch.arange(k, device=values.device) < parts.counts[:, None, None]
    return Units(given.labels, values.where(valid, 0), parts.counts, pixels / pixels.sum(1, keepdim=True))


def at_once(n: int, l: int) -> Iterator[slice]:
    """A few of n images with l labels at a time."""
    size = max(1, PAIRS // l)
    return (slice(start, start + size) for start in range(0, n, size))


def of_pixels(maps: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, Units]:
    """Buckets of pixels of maps (n, l, h, w): a label map (n * l, h, w) for each label, and its units, of n * l inputs."""
    pixels = maps.shape[2] * maps.shape[3]
    check(steps <= pixels, f"steps must be at most h * w = {pixels} pixels; got {steps}")
    buckets = ranks.buckets(maps, steps).flatten(0, 1)
    number = torch.arange(steps, device=maps.device)
    values = (-number).double().expand(len(buckets), 1, steps)
    counts = torch.full((len(buckets),), steps, device=maps.device)
    return buckets, Units(labels.reshape(-1, 1), values, counts, ranks.sizes(buckets, steps) / pixels)


def constant_maps(maps: Tensor, start: int) -> Reasons:
    """Reasons of maps (n, l, h, w) whose pixels are all equal; ``start`` is the number of the first image."""
    low, high = maps.flatten(2).aminmax(dim=-1)
    places = (low == high).nonzero().tolist()
    return {(start + i, j): f"the map is constant, {float(low[i, j]):.3g} in all pixels" for i, j in places}
