"""Localisation: how much of a map lies on the object, given as a box or a mask.

References
----------
Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016 (pointing game).
Zhou et al., "Learning deep features for discriminative localization", CVPR 2016 (regions above a share of the maximum).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from gpulime import arrays
from gpulime.errors import GpulimeError, check, whole
from gpulime.evaluate.attributions import finite
from gpulime.evaluate.scores import Reasons, Scores, reasons_at, without
from gpulime.evaluate.units import constant_maps
from gpulime.explanations.images import ExplainedImages


@dataclass(frozen=True, eq=False, kw_only=True)
class Localisation(Scores):
    """Agreement of the maps of n images for l labels with regions.

    Attributes
    ----------
    pointing : (n, l) float64, 1 if the largest value lies inside, or within ``tolerance`` pixels, else 0; if several pixels
        have it, as in a segment, their share that does
    share : (n, l) float64 in [0, 1], share of the sum of positive values that lies inside
    iou : (n, l) float64 in [0, 1], intersection over union of the region and the pixels whose value is at least ``threshold``
        of the largest one
    """

    pointing: Tensor
    share: Tensor
    iou: Tensor

    NAMES: ClassVar[tuple[str, ...]] = ("pointing", "share", "iou")
    MISSING: ClassVar[dict[str, str]] = dict.fromkeys(("share", "iou"), "the map has no positive value")


def localisation(explained: Any, regions: Any, threshold: float = 0.5, tolerance: int = 0) -> Localisation:
    """Compare maps with regions.

    Parameters
    ----------
    explained : ExplainedImages, or maps (n, h, w) or (n, l, h, w)
    regions : (n, h, w) or (n, l, h, w) bool, or boxes (n, 4) or (n, l, 4)
        The object in each image, or for each label. Boxes are left, top, right and bottom in pixels, right and bottom outside.
    threshold : float
        In (0, 1], share of the largest value.
    tolerance : int
        Pixels by which the largest value may miss the region, 15 in the pointing game of its paper.

    Returns
    -------
    Localisation
        NaN, with a reason, for maps that are constant or not finite, and for empty regions.

    Raises
    ------
    GpulimeError
        If regions do not belong to the maps, or another argument is invalid.
    """
    fits = isinstance(threshold, Real) and not isinstance(threshold, bool) and 0 < threshold <= 1
    check(fits, f"threshold must be a number in (0, 1]; got {threshold!r}")
    tolerance = whole("tolerance", tolerance, 0, " pixels")
    if isinstance(explained, ExplainedImages):
        maps, labels = explained.heatmaps(), explained.labels
    else:
        found = arrays.tensor(explained)
        if found is None or found.ndim not in (3, 4):
            got = type(explained).__name__ if found is None else str(tuple(found.shape))
            raise GpulimeError(f"maps must be (n, h, w) or (n, l, h, w), or explanations of images; got {got}")
        maps = found[:, None] if found.ndim == 3 else found
        labels = torch.full(maps.shape[:2], -1, device=maps.device)
    maps, infinite = finite(maps.double(), "the map holds NaN or infinite values")
    inside = _regions(regions, maps)
    empty = reasons_at(~inside.flatten(2).any(-1), "the region is empty")
    reasons: Reasons = empty | reasons_at(constant_maps(maps), "the map is constant, the same in all pixels") | infinite
    near = torch.nn.functional.max_pool2d(inside.double(), 2 * tolerance + 1, 1, tolerance) > 0
    largest = maps.flatten(2).amax(-1)[..., None, None]
    top, positive = maps == largest, maps.clamp(min=0)
    above = (maps >= threshold * largest) & (maps > 0)
    scores = {
        "pointing": _sum(top & near) / _sum(top),
        "share": _sum(positive * inside) / _sum(positive),
        "iou": (_sum(above & inside) / _sum(above | inside)).masked_fill(largest[..., 0, 0] <= 0, torch.nan),
    }
    return Localisation(labels=labels, reasons=reasons, **{name: without(one, reasons) for name, one in scores.items()})


def _sum(maps: Tensor) -> Tensor:
    return maps.double().sum((-2, -1))


def _regions(regions: Any, maps: Tensor) -> Tensor:
    """Regions (n, l, h, w) bool of masks or boxes."""
    n, l, h, w = maps.shape
    found = arrays.tensor(regions)
    right = (
        f"regions must be (n, h, w) or (n, l, h, w) bool, or boxes (n, 4) or (n, l, 4), with n, l, h, w = {n}, {l}, {h}, {w}"
    )
    if found is None or found.is_complex():
        raise GpulimeError(f"{right}; got {type(regions).__name__}")
    shape, found = tuple(found.shape), found.to(maps.device)
    if found.dtype == torch.bool:
        check(shape in ((n, h, w), (n, l, h, w)), f"{right}; got {shape}")
        return (found[:, None] if found.ndim == 3 else found).expand(n, l, h, w)
    check(shape in ((n, 4), (n, l, 4)), f"{right}; got {shape} {found.dtype}")
    boxes = (found[:, None] if found.ndim == 2 else found)[..., None, None]
    y, x = torch.arange(h, device=maps.device)[:, None], torch.arange(w, device=maps.device)
    left, top, right_, bottom = boxes.unbind(2)
    return ((x >= left) & (x < right_) & (y >= top) & (y < bottom)).expand(n, l, h, w)
