"""Masked images: images with segments as their parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gpulime.classes import Names
from gpulime.engine.batch_size import Kind
from gpulime.engine.masked import Masked, Wanted
from gpulime.explanations.images import ExplainedImages
from gpulime.images.segments import Segments
from gpulime.ops.masked_images import composer


@dataclass(eq=False)
class MaskedImages(Masked):
    """Images ready for the model, with their segments and fill."""

    images: Tensor  # (n, c, h, w), normalised, in the model's dtype
    fill: Tensor  # the same
    segments: Segments
    pictures: Tensor  # (n, c, h, w) uint8, for showing
    keys: Tensor
    wanted: Wanted
    extra: tuple[Tensor, ...] = ()
    class_names: Names | None = None

    one, parts, by_mask = "image", "segments", True

    def __post_init__(self) -> None:
        self.counts, self.k, self.most = self.segments.counts, self.segments.ids.shape[1], self.segments.most
        if self.segments.sizes is not None:
            self.sizes = self.segments.sizes
        self.kind: Kind = tuple(self.images.shape[1:]), self.images.dtype, self.images.device

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Compose rows (b, c, h, w)."""
        if self.segments.keeps:  # pixels that are never hidden have the label of the first column beyond the segments
            masks = masks | (torch.arange(masks.shape[1], device=masks.device) >= self.counts[index, None])
        return self._compose(index, masks)

    @cached_property
    def _compose(self) -> Callable[[Tensor, Tensor], Tensor]:
        return composer(self.images, self.fill, self.segments.labels)

    def part(self, where: slice) -> MaskedImages:
        """Select images by a slice."""
        return replace(
            self,
            images=self.images[where],
            fill=self.fill[where],
            segments=self.segments.part(where),
            pictures=self.pictures[where],
            keys=self.keys[where],
            wanted=self.wanted.part(where),
            extra=tuple(tensor[where] for tensor in self.extra),
        )

    def explained(self, found: dict[str, Any]) -> ExplainedImages:
        """Build the explanations, with segments and pictures."""
        return ExplainedImages(
            **found,
            segments=self.segments.labels,
            segment_ids=self.segments.ids,
            images=self.pictures,
            class_names=self.class_names,
        )
