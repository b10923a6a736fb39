"""Explanations of a batch of images: the tensors of every kind, with segments and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self, overload

from torch import Tensor

from gpulime.errors import check
from gpulime.explanations import batch
from gpulime.explanations.image import ImageExplanation, Shown


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ExplainedImages(Shown, batch.Explanations):
    """The explanations of n images: the attributes of `gpulime.Explanations`, and these.

    Attributes
    ----------
    segments : (n, h, w) int32, the segment of each pixel; the image's count for pixels that are never hidden (``keep``)
    segment_ids : (n, k) int64, the segmenter's id of each segment; -1 beyond an image's count
    images : (n, c, h, w) uint8, the pictures, for showing only
    """

    segments: Tensor
    segment_ids: Tensor
    images: Tensor

    PADDED: ClassVar[dict[str, float]] = batch.Explanations.PADDED | {"segment_ids": -1}
    WHOLE: ClassVar[tuple[str, ...]] = (*batch.Explanations.WHOLE, "segments", "segment_ids", "images")

    @overload
    def __getitem__(self, index: int) -> ImageExplanation: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> ImageExplanation | Self:
        """One image's explanation, or those of several."""
        if isinstance(index, slice):
            return self.part(index)
        check(-len(self) <= index < len(self), f"index must be in [{-len(self)}, {len(self)}); got {index}")
        return ImageExplanation.of(self, index % len(self))

    def __iter__(self) -> Iterator[ImageExplanation]:
        here = self.cpu()
        return (here[i] for i in range(len(self)))

    def __repr__(self) -> str:
        n, l, k = self.coefficients.shape
        return f"Explanations({n} images, {l} labels, up to {k} segments, on {self.labels.device})"

    def heatmaps(self) -> Tensor:
        """Each pixel's coefficient: (n, l, h, w) float64."""
        n, l, _ = self.coefficients.shape
        where = self.segments.flatten(1).long()[:, None].expand(n, l, -1)
        return self.coefficients.gather(2, where).view(n, l, *self.segments.shape[1:])

    def _parts(self) -> Tensor:
        return self.segment_ids

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Concatenate batches of images of one size; segments are padded, as within a batch."""
        shapes = {tuple(part.images.shape[1:]) for part in parts}
        check(len(shapes) <= 1, f"parts must have images of the same (c, h, w); got {sorted(shapes)}")
        return super().cat(parts)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        (n, _, k), (h, w) = self.coefficients.shape, self.segments.shape[1:]
        own = {"segments": (n, h, w), "segment_ids": (n, k), "images": (n, *self.images.shape[1:2], h, w)}
        return super()._shapes() | own

    def _sound(self) -> bool:
        if self.segments.ndim != 3 or self.images.ndim != 4 or not super()._sound() or min(self.segments.shape) < 1:
            return False
        # All segments must be in range.
        low, high = self.segments.flatten(1).aminmax(dim=1)
        parts = (low >= 0).all() and (high <= self.counts).all() and (high < self.coefficients.shape[2]).all()
        return bool(parts)
