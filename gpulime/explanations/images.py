"""Explanations of a batch of images: the tensors of every kind, with segments and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, overload

import numpy as np
import torch
from torch import Tensor

from gpulime.classes import Names
from gpulime.errors import GpulimeError, check
from gpulime.explanations import batch
from gpulime.explanations.image import ImageExplanation, Shown

FORMAT = 1
LATER = (
    "predicted",
    "predicted_probs",
    "scores_loo",
    "spreads",
    "standard_errors",
    "samples",
)  # fields that files of earlier versions lack
WHOLE = ("labels", "predicted", "segments", "counts", "samples", "segment_ids", "non_finite", "images")  # the rest are floats
INTEGERS = (torch.uint8, torch.int32, torch.int64)


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

    def save(self, path: str | Path) -> None:
        """Write to a NumPy .npz file, without pickle; `load` or `numpy.load` reads it."""
        arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in self._tensors().items()}
        about = {"gpulime.Explanations": FORMAT, "class_names": _plain(self.class_names)}
        with Path(path).open("wb") as file:  # a file, so that no ".npz" is appended to the name
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote.

        Raises
        ------
        GpulimeError
            If the file holds something else, or was written by a newer version.
        """
        names = [one.name for one in fields(cls) if one.name != "class_names"]
        with Path(path).open("rb") as file:
            try:
                archive = dict(np.load(file, allow_pickle=False))
                about = json.loads(str(archive["about"]))
                version, class_names = about["gpulime.Explanations"], _named(about.get("class_names"))
                tensors = {name: torch.from_numpy(archive[name]) for name in names if name in archive}
                new = version > FORMAT
            except Exception as error:  # NumPy and zipfile raise a dozen kinds of errors for damaged files
                raise GpulimeError(f"{path} was not written by Explanations.save, or only a part of it is left") from error
        check(not new, f"{path} has format {version}; this gpulime reads up to {FORMAT}: update it")
        missing = sorted(set(names) - set(tensors) - set(LATER))
        check(not missing, f"{path} lacks {missing}")
        apart = f"{path} holds arrays whose shapes, types or values do not belong together"
        check(tensors["labels"].ndim == 2, apart)
        loaded = cls(**_unknown(tensors["labels"], tensors["coefficients"]) | tensors, class_names=class_names)
        check(loaded._fits(), apart)
        return loaded

    def _fits(self) -> bool:
        if self.coefficients.ndim != 3 or self.segments.ndim != 3 or self.images.ndim != 4:
            return False
        (n, l, k), (h, w) = self.coefficients.shape, self.segments.shape[1:]
        shapes = {
            "coefficients": (n, l, k),
            "standard_errors": (n, l, k),
            "segments": (n, h, w),
            "counts": (n,),
            "segment_ids": (n, k),
            "non_finite": (n,),
        }
        shapes |= {"predicted": (n,), "predicted_probs": (n,), "samples": (n,)}
        shapes |= {"images": (n, *self.images.shape[1:2], h, w)}
        fit = all(tensor.shape == shapes.get(name, (n, l)) for name, tensor in self._tensors().items())
        types = {name: tensor.dtype for name, tensor in self._tensors().items()}
        right = all(t in INTEGERS if name in WHOLE else t.is_floating_point for name, t in types.items())
        if not (fit and right) or min(n, l, k, h, w) < 1:
            return False
        # All values of indices must be in range.
        low, high = self.segments.flatten(1).aminmax(dim=1)
        parts = (low >= 0).all() and (high <= self.counts).all() and (high < k).all() and (self.counts <= k).all()
        return bool(parts and (self.labels >= 0).all())


def _unknown(labels: Tensor, coefficients: Tensor) -> dict[str, Tensor]:
    """The fields `LATER` of labels (n, l) and coefficients (n, l, k) from a file that lacks them."""
    n, nan = len(labels), torch.full(labels.shape, torch.nan, dtype=torch.float64)
    of_images = {"predicted": torch.full((n,), -1), "predicted_probs": torch.full((n,), torch.nan)}
    of_images |= {"samples": torch.zeros(n, dtype=torch.int64), "standard_errors": torch.full_like(coefficients, torch.nan)}
    return of_images | {"scores_loo": nan, "spreads": nan.clone()}


def _plain(names: Names | None) -> list[str] | dict[str, str] | None:
    """Names as JSON, whose keys are strings."""
    if names is None or not isinstance(names, Mapping):
        return None if names is None else [str(name) for name in names]
    return {str(label): str(name) for label, name in names.items()}


def _named(plain: list[str] | dict[str, str] | None) -> Names | None:
    if isinstance(plain, dict):
        return {int(label): str(name) for label, name in plain.items()}
    return None if plain is None else [str(name) for name in plain]
