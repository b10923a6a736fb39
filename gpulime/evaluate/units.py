"""Units of inputs that are hidden one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gpulime.evaluate import ranks
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.scores import Reasons
from gpulime.images.segments import Segments


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


def constant_maps(maps: Tensor) -> Tensor:
    """Tell for maps (n, l, h, w) if all pixels are equal, (n, l) bool."""
    low, high = maps.flatten(2).aminmax(dim=-1)
    return low == high
