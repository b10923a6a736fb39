"""Attributions: how important pixels and segments are for labels, from explanations or from maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpulime import arrays
from gpulime.errors import GpulimeError, check
from gpulime.evaluate.scores import Reasons
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images import fills
from gpulime.images.batch import Batch
from gpulime.images.segments import Segments


@dataclass(frozen=True, eq=False)
class Attributions:
    """Importance of the pixels of n images for l labels.

    Attributes
    ----------
    images : (n, c, h, w) float or uint8, as given
    labels : (n, l) int64
    maps : (n, l, h, w) float, finite; larger is more important
    reasons : as in `gpulime.evaluate.Scores`, of labels that cannot be judged
    explained : ExplainedImages or None
    """

    images: Tensor
    labels: Tensor
    maps: Tensor
    reasons: Reasons
    explained: ExplainedImages | None = None

    @classmethod
    def of(cls, explainer: Explainer, images: Any, given: Any, labels: Any = None) -> Attributions:
        """Check images with their explanations, or with maps (n, h, w) or (n, l, h, w).

        Raises
        ------
        GpulimeError
            If they do not belong together, or none of the labels was explained.
        """
        batch = Batch(images, labels).as_tensors(explainer.class_names)
        batch.highest_label()
        n, _, h, w = batch.images.shape
        device = explainer.predictor.device(batch.images)
        wanted = None if batch.labels is None else batch.labels.where(batch.labels >= 0, batch.labels[:, :1]).to(device)
        reasons: Reasons = {}
        if isinstance(given, ExplainedImages):
            found = tuple(given.segments.shape)
            check(found == (n, h, w), f"explanations must be of the images, (n, h, w) = {(n, h, w)}; got {found}")
            given = given.to(device)
            wanted = given.labels if wanted is None else wanted
            place = _places(given.labels, wanted, reasons)
            maps = given.heatmaps()[torch.arange(n, device=device)[:, None], place]
        else:
            maps = _maps(given, wanted, (n, h, w)).to(device)
            assert wanted is not None
        bad = ~maps.isfinite().flatten(2).all(-1)
        for i, j in bad.nonzero().tolist():
            reasons.setdefault((i, j), "the map holds NaN or infinite values")
        maps = maps.masked_fill(bad[..., None, None], 0)
        return cls(batch.images, wanted, maps, reasons, given if isinstance(given, ExplainedImages) else None)

    def segments(self, explainer: Explainer, segments: Any = None, keep: Any = None) -> Segments:
        """The segments of the explanations; else the given ones, or the explainer's."""
        if self.explained is not None:
            check(segments is None and keep is None, "explanations bring their own segments; leave segments and keep out")
            k = max(self.explained.segment_ids.shape[1], int(self.explained.segments.max()) + 1)
            ids = _widened(self.explained.segment_ids, k)
            return Segments(self.explained.segments, self.explained.counts, ids)
        batch = Batch(self.images, segments=segments, keep=keep)
        parts = [inputs.segments for inputs in explainer.preparation.masked(batch)]
        k = max(part.ids.shape[1] for part in parts)
        ids = torch.cat([_widened(part.ids, k) for part in parts])
        return Segments(torch.cat([part.labels for part in parts]), torch.cat([part.counts for part in parts]), ids)

    def pictures(self, fill: str, parts: Segments) -> Tensor:
        """A named fill of the segments as pictures (n, c, h, w), in the units of the images."""
        images = self.images if self.images.is_floating_point() else self.images.float()
        return fills.fill(fill, images.to(parts.labels.device), parts.labels, parts.ids.shape[1])


def _widened(ids: Tensor, k: int) -> Tensor:
    return torch.nn.functional.pad(ids, (0, k - ids.shape[1]), value=-1)


def _places(explained: Tensor, wanted: Tensor, reasons: Reasons) -> Tensor:
    """The place (n, l) of each label among those explained; reasons for labels that are not among them."""
    same = wanted[..., None] == explained[:, None]
    known = same.any(-1)
    check(bool(known.any()), lambda: f"none of the labels was explained; explained are {explained.unique().tolist()[:10]}")
    for i, j in (~known).nonzero().tolist():
        reasons[i, j] = f"class {int(wanted[i, j])} was not explained"
    return same.long().argmax(-1)


def _maps(given: Any, labels: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    """Maps (n, l, h, w) that fit the images and the labels."""
    n, h, w = shape
    right = f"maps must be (n, h, w) or (n, l, h, w) with n, h, w = {n}, {h}, {w}, or explanations of images"
    maps = arrays.tensor(given)
    if maps is None or maps.is_complex():
        raise GpulimeError(f"{right}; got {type(given).__name__}")
    got, maps = tuple(maps.shape), maps.detach()
    maps = maps[:, None] if maps.ndim == 3 else maps
    check(maps.ndim == 4 and maps.shape[0] == n and maps.shape[2:] == (h, w), f"{right}; got {got}")
    if labels is None:
        raise GpulimeError("labels must be the classes that the maps are for; got None")
    check(labels.shape[1] == maps.shape[1], f"labels must be (n, l) with l = {maps.shape[1]} maps; got {tuple(labels.shape)}")
    return maps if maps.is_floating_point() else maps.double()
