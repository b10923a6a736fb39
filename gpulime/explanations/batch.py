"""Explanations: the tensors of a whole batch."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.classes import Names
from gpulime.errors import GpulimeError, check
from gpulime.explanations.image import ImageExplanation
from gpulime.explanations.shown import _Shown

if TYPE_CHECKING:
    pass

FORMAT = 1
LATER = ("predicted", "predicted_probs", "scores_loo", "spreads")  # fields that files of earlier versions lack
WHOLE = (
    "labels",
    "predicted",
    "segments",
    "counts",
    "segment_ids",
    "non_finite",
    "images",
)  # fields of whole numbers; the rest are floats
INTEGERS = (torch.uint8, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Explanations(_Shown):
    """What n images were explained by; every tensor is on the device that did the work.

    Attributes
    ----------
    coefficients : (n, l, k) float64, how much each segment adds to each label; 0 beyond an image's count
    labels : (n, l) int64, classes; an image with fewer than another repeats its first one
    predictions : (n, l) float32, the model's (activated) output for the whole image
    predicted : (n,) int64, the class with the highest output for the whole image, also if it is not explained; -1 if not
        known, or if the model has one output
    predicted_probs : (n,) float32, that output; NaN if not known
    local_predictions : (n, l) float64, the linear model's
    intercepts : (n, l) float64
    scores : (n, l) float64, weighted R2 of the linear model on the samples it was fitted to, as lime's; NaN where the output is
        constant or not finite
    scores_loo : (n, l) float64, weighted leave-one-out R2: each sample is predicted by the model fitted to all others. 1 is
        exact, 0 no better than the mean, below 0 worse. ``1 - sum(w (y - y_left_out)**2) / sum(w (y - mean)**2)``, with the
        weighted mean of all samples. NaN where ``scores`` is, and if a sample fixes a coefficient alone, as with a kernel so
        narrow that the whole image has all the weight
    spreads : (n, l) float64, weighted standard deviation of the output over the masked samples; NaN if none has any weight
    segments : (n, h, w) int32, the segment of each pixel; the image's count for pixels that are never hidden (``keep``)
    counts : (n,) int64, segments of each image
    segment_ids : (n, k) int64, what the segmenter called each segment; -1 beyond an image's count
    non_finite : (n,) int64, samples whose output was NaN, infinite or beyond 1e30; then coefficients are NaN
    images : (n, c, h, w) uint8, the pictures, for showing only
    class_names : sequence of str or mapping of int to str, or None if they are not known
    """

    coefficients: Tensor
    labels: Tensor
    predictions: Tensor
    predicted: Tensor
    predicted_probs: Tensor
    local_predictions: Tensor
    intercepts: Tensor
    scores: Tensor
    scores_loo: Tensor
    spreads: Tensor
    segments: Tensor
    counts: Tensor
    segment_ids: Tensor
    non_finite: Tensor
    images: Tensor
    class_names: Names | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    @overload
    def __getitem__(self, index: int) -> ImageExplanation: ...
    @overload
    def __getitem__(self, index: slice) -> Explanations: ...
    def __getitem__(self, index: int | slice) -> ImageExplanation | Explanations:
        """One image's explanation, or those of several."""
        if isinstance(index, slice):
            return replace(self, **{name: tensor[index] for name, tensor in self._tensors().items()})
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

    def to(self, device: torch.device | str) -> Explanations:
        """The same on another device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def cpu(self) -> Explanations:
        """The same on the CPU."""
        return self.fetching()()

    def fetching(self) -> Callable[[], Explanations]:
        """Begin to copy them to the CPU; the call of what is returned gives them there, and waits for nothing else."""
        tensors = self._tensors()
        arrived = devices.fetching(list(tensors.values()))

        def here() -> Explanations:
            copies: dict[str, Any] = dict(zip(tensors, arrived(), strict=True))
            return replace(self, **copies)

        return here

    def save(self, path: str | Path) -> None:
        """Write to a NumPy .npz file, without pickle; `load` or `numpy.load` reads it."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self._tensors().items()}
        about = {"gpulime.Explanations": FORMAT, "class_names": _plain(self.class_names)}
        with Path(path).open("wb") as file:  # a file, so that no ".npz" is put behind the name
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Explanations:
        """Read what `save` wrote.

        Raises
        ------
        GpulimeError
            If the file holds something else, or was written by a newer version.
        """
        names = _tensor_names()
        with Path(path).open("rb") as file:
            try:
                archive = dict(np.load(file, allow_pickle=False))
                about = json.loads(str(archive["about"]))
                version, class_names = about["gpulime.Explanations"], _named(about.get("class_names"))
                tensors = {name: torch.from_numpy(archive[name]) for name in names if name in archive}
                new = version > FORMAT
            except Exception as error:  # a pickle, a part, rot: NumPy and zipfile raise a dozen kinds of errors for them
                raise GpulimeError(f"{path} was not written by Explanations.save, or only a part of it is left") from error
        check(not new, f"{path} has format {version}; this gpulime reads up to {FORMAT}: update it")
        missing = sorted(set(names) - set(tensors) - set(LATER))
        check(not missing, f"{path} lacks {missing}")
        apart = f"{path} holds arrays whose shapes, types or values do not belong together"
        check(tensors["labels"].ndim == 2, apart)
        loaded = cls(**_unknown(tensors["labels"]) | tensors, class_names=class_names)
        check(loaded._fits(), apart)
        return loaded

    def _fits(self) -> bool:
        if self.coefficients.ndim != 3 or self.segments.ndim != 3 or self.images.ndim != 4:
            return False
        (n, l, k), (h, w) = self.coefficients.shape, self.segments.shape[1:]
        shapes = {"coefficients": (n, l, k), "segments": (n, h, w), "counts": (n,), "segment_ids": (n, k), "non_finite": (n,)}
        shapes |= {"predicted": (n,), "predicted_probs": (n,)}
        shapes |= {"images": (n, *self.images.shape[1:2], h, w)}
        fit = all(tensor.shape == shapes.get(name, (n, l)) for name, tensor in self._tensors().items())
        types = {name: tensor.dtype for name, tensor in self._tensors().items()}
        right = all(t in INTEGERS if name in WHOLE else t.is_floating_point for name, t in types.items())
        if not (fit and right) or min(n, l, k, h, w) < 1:
            return False
        # All that is looked up by number must be there.
        low, high = self.segments.flatten(1).aminmax(dim=1)
        parts = (low >= 0).all() and (high <= self.counts).all() and (high < k).all() and (self.counts <= k).all()
        return bool(parts and (self.labels >= 0).all())

    def _tensors(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _tensor_names()}

    @classmethod
    def cat(cls, parts: list[Explanations]) -> Explanations:
        """Put batches behind each other; fewer segments are padded, as within a batch."""
        check(len(parts) > 0, "there are no explanations to put together")
        if len(parts) == 1:
            return parts[0]
        labels = {part.labels.shape[1] for part in parts}
        check(len(labels) == 1, f"parts must have the same number of labels; got {sorted(labels)}")
        shapes = {tuple(part.images.shape[1:]) for part in parts}
        check(len(shapes) == 1, f"parts must have images of the same (c, h, w); got {sorted(shapes)}")
        k = max(part.coefficients.shape[2] for part in parts)
        padded = [
            replace(
                part,
                coefficients=_widen(part.coefficients, k, 0.0),
                segment_ids=_widen(part.segment_ids, k, -1),
            )
            for part in parts
        ]
        together = {name: torch.cat([getattr(part, name) for part in padded]) for name in _tensor_names()}
        return cls(**together, class_names=parts[0].class_names)


def fetched(explained: Iterable[Explanations], ahead: int = 0) -> Iterator[Explanations]:
    """Explanations on the CPU, as they come and in order.

    ``ahead`` of them may be on their way there while a device works on the next ones; after an error these are lost.
    """
    coming: deque[Callable[[], Explanations]] = deque()
    for explanations in explained:
        coming.append(explanations.fetching())
        while len(coming) > ahead:
            yield coming.popleft()()
    while coming:
        yield coming.popleft()()


def _tensor_names() -> list[str]:
    return [f.name for f in fields(Explanations) if f.name != "class_names"]


def _unknown(labels: Tensor) -> dict[str, Tensor]:
    """The fields `LATER` of labels (n, l) from a file that lacks them."""
    n, nan = len(labels), torch.full(labels.shape, torch.nan, dtype=torch.float64)
    of_images = {"predicted": torch.full((n,), -1), "predicted_probs": torch.full((n,), torch.nan)}
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


def _widen(tensor: Tensor, k: int, value: float) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, k - tensor.shape[-1]), value=value)
