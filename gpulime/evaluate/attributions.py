"""Attributions: how important pixels and segments are for labels, from explanations or from maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpulime import arrays
from gpulime.errors import GpulimeError, check
from gpulime.evaluate import ranks
from gpulime.evaluate.scores import Reasons, reasons_at
from gpulime.explainer import Explainer
from gpulime.explanations.batch import Explanations
from gpulime.explanations.images import ExplainedImages
from gpulime.images import fills
from gpulime.images.batch import Batch
from gpulime.images.segments import Segments


@dataclass(frozen=True, eq=False)
class Attributions:
    """Importance of the pixels of n images for l labels: maps, or the coefficients of segments.

    Attributes
    ----------
    images : (n, c, h, w) float or uint8, as given
    labels : (n, l) int64
    reasons : as in `gpulime.evaluate.Scores`, of labels that cannot be judged
    maps : (n, l, h, w) float, finite, larger is more important; None for explanations
    explained : ExplainedImages, or None for maps
    coefficients : (n, l, k) float64, finite; None for maps
    intercepts : (n, l) float64, of the linear models; None for maps
    """

    images: Tensor
    labels: Tensor
    reasons: Reasons
    maps: Tensor | None = None
    explained: ExplainedImages | None = None
    coefficients: Tensor | None = None
    intercepts: Tensor | None = None

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
        device, wanted = explainer.predictor.device(batch.images), batch.labels
        if isinstance(given, ExplainedImages):
            found = tuple(given.segments.shape)
            check(found == (n, h, w), f"explanations must be of the images, (n, h, w) = {(n, h, w)}; got {found}")
            given = given.to(device)
            where, wanted, reasons = places(given, wanted)
            coefficients, unknown = finite(given.coefficients[where], "the explanation's coefficients are NaN")
            own = given, coefficients, given.intercepts[where]
            return cls(batch.images, wanted, unknown | reasons, None, *own)
        maps = _maps(given, wanted, (n, h, w)).to(device)
        assert wanted is not None
        wanted = wanted.where(wanted >= 0, wanted[:, :1]).to(device)
        return cls(batch.images, wanted, *finite(maps, "the map holds NaN or infinite values")[::-1])

    def pixels(self, where: slice) -> Tensor:
        """Maps (m, l, h, w) of some images."""
        if self.coefficients is None or self.explained is None:
            assert self.maps is not None
            return self.maps[where]
        return ranks.painted(self.coefficients[where], self.explained.segments[where])

    def maps_of(self, i: Tensor, j: Tensor) -> Tensor:
        """Maps (p, h, w) of images i (p,) for their labels at the places j (p,)."""
        if self.coefficients is None or self.explained is None:
            assert self.maps is not None
            return self.maps[i, j]
        return ranks.painted(self.coefficients[i, j][:, None], self.explained.segments[i])[:, 0]

    def segments(self, explainer: Explainer, segments: Any = None, keep: Any = None) -> Segments:
        """The segments of the explanations; else the given ones, or the explainer's. Kept pixels have the label ``most``."""
        if self.explained is not None:
            check(segments is None and keep is None, "explanations bring their own segments; leave segments and keep out")
            found = self.explained
            return _marked(found.segments, found.counts, found.segment_ids)
        batch = Batch(self.images, segments=segments, keep=keep)
        parts = [inputs.segments for inputs in explainer.preparation.masked(batch)]
        k = max(part.ids.shape[1] for part in parts)
        ids = [torch.nn.functional.pad(part.ids, (0, k - part.ids.shape[1]), value=-1) for part in parts]
        return _marked(*(torch.cat(tensors) for tensors in ([p.labels for p in parts], [p.counts for p in parts], ids)))

    def pictures(self, fill: str, parts: Segments) -> Tensor:
        """A named fill of the segments as pictures (n, c, h, w), in the units of the images."""
        images = self.images if self.images.is_floating_point() else self.images.float()
        return fills.fill(fill, images.to(parts.labels.device), parts.labels, parts.ids.shape[1])


def _marked(labels: Tensor, counts: Tensor, ids: Tensor) -> Segments:
    """Segments whose kept pixels, with their image's count as label, get one label in all images."""
    most, kept = int(counts.max()), labels >= counts[:, None, None]
    return Segments(
        labels.masked_fill(kept, most), counts, torch.nn.functional.pad(ids[:, :most], (0, 1), value=-1), keeps=True
    )


def finite(values: Tensor, reason: str) -> tuple[Tensor, Reasons]:
    """Values (n, l, ...) with 0 in place of all of a label's that are not finite, and the reasons of these."""
    bad = ~values.flatten(2).isfinite().all(-1)
    filled = values.masked_fill(bad.view(*bad.shape, *[1] * (values.ndim - 2)), 0)
    return filled, reasons_at(bad, reason)


def places(explained: Explanations, wanted: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor, Reasons]:
    """Find labels (n, l), by default all, among those explained.

    Returns
    -------
    Index (n, 1) and (n, l) of each label in the tensors of the explanations, the labels, and reasons of ones not explained
    """
    known = explained.labels
    rows = torch.arange(len(known), device=known.device)[:, None]
    if wanted is None:
        return (rows, torch.arange(known.shape[1], device=known.device).expand(known.shape)), known, {}
    check(len(wanted) == len(known), f"labels must be for the n = {len(known)} explanations; got {len(wanted)} of them")
    wanted = wanted.where(wanted >= 0, wanted[:, :1]).to(known.device)
    same = wanted[..., None] == known[:, None]
    found = same.any(-1)
    check(bool(found.any()), lambda: f"none of the labels was explained; explained are {known.unique().tolist()[:10]}")
    lacking = (~found).nonzero().tolist()
    reasons = {(i, j): f"class {int(wanted[i, j])} was not explained" for i, j in lacking}
    return (rows, same.long().argmax(-1)), wanted, reasons


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
