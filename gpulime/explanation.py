"""Explanations: the tensors of a whole batch, one image of it in lime's own terms, and a list of such images."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, overload

import numpy as np
import torch
from torch import Tensor

from gpulime import device as devices
from gpulime import labels as numbers
from gpulime.classes import Names, called
from gpulime.errors import GpulimeError, check, whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = np.ndarray[Any, np.dtype[Any]]
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
SHOWN_LABELS = 3  # in a line about one image


class _Sliceable(Protocol):
    """A collection of explanations, and a part of one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ImageExplanation]: ...
    def __getitem__(self, index: slice, /) -> _Sliceable: ...


class _Shown:
    """How several explanations are shown."""

    def _repr_html_(self: _Sliceable) -> str:
        """What a notebook shows: the first images with the overlay of their first label."""
        from gpulime import notebook

        shown = self[: notebook.MOST_IMAGES]
        return notebook.many(repr(self), list(shown), len(self) - len(shown))

    def plot(
        self: _Sliceable,
        label: int | None = None,
        kind: str = "overlay",
        ax: Any = None,
        num_features: int = 5,
        class_names: Names | None = None,
        most: int = 12,
    ) -> Figure:
        """Draw the first images, as `ImageExplanation.plot` draws one; needs the extra ``plots``.

        Parameters
        ----------
        label, kind, num_features, class_names
            As for one image; by default each image shows its own first label.
        ax : several matplotlib Axes, optional
            Where to draw: an array such as ``subplots`` returns, with an axes for each image, four for "panels"; those beyond
            are emptied. By default a figure is made.
        most : int
            The most images to draw.

        Returns
        -------
        matplotlib.figure.Figure
            As the last value of a notebook's cell it shows itself; elsewhere call its ``savefig``.

        Raises
        ------
        GpulimeError
            As for one image, and where there are too few axes or no images.
        """
        from gpulime import plots

        return plots.many(list(self[: whole("most", most, 1)]), label, kind, ax, num_features, class_names)


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


def _number(form: str, value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else form.format(float(value))


def _widen(tensor: Tensor, k: int, value: float) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, k - tensor.shape[-1]), value=value)


class ImageExplanation:
    """One image's explanation, with lime's fields and methods.

    Attributes
    ----------
    image : (h, w, c) array
    segments : (h, w) integers, with the segmenter's own ids; -1, or less than all of them, for pixels that are never hidden
    top_labels : list of int, the labels explained, most probable first
    local_exp : dict, label -> list of (segment id, coefficient), strongest first
    intercept, scores, local_preds, predictions : dict, label -> float
    scores_loo : dict, label -> float, the leave-one-out R2 beside lime's ``scores``
    score, local_pred : those of the first label, as lime keeps them
    class_names : sequence of str or mapping of int to str, or None if they are not known
    """

    class_names: Names | None = None

    def __init__(self, image: Array, segments: Array) -> None:
        self.image, self.segments = image, segments
        self.top_labels: list[int]
        self.local_exp: dict[int, list[tuple[int, float]]] = {}
        self.intercept: dict[int, float] = {}
        self.scores: dict[int, float] = {}
        self.scores_loo: dict[int, float] = {}
        self.local_preds: dict[int, Any] = {}
        self.predictions: dict[int, float] = {}
        self.score: float | None = None
        self.local_pred: Any = None

    @classmethod
    def of(cls, batch: Explanations, index: int) -> ImageExplanation:
        """One image of a batch."""
        row = {name: tensor[index].cpu().numpy() for name, tensor in batch._tensors().items()}
        count = int(row["counts"])
        ids = row["segment_ids"][:count]
        names = np.append(ids, min(0, ids.min()) - 1)  # the last is no segment: pixels that are never hidden
        one = cls(row["images"].transpose(1, 2, 0) / 255.0, names[row["segments"]])
        explained = row["labels"].tolist()
        one.top_labels = list(dict.fromkeys(explained))
        for label, weights in zip(explained, row["coefficients"][:, :count], strict=True):
            order = np.argsort(-np.abs(weights), kind="stable")
            used = order[weights[order] != 0] if weights.any() else order  # those not selected have 0
            one.local_exp[label] = [(int(ids[j]), float(weights[j])) for j in used]
        one.intercept, one.scores, one.scores_loo, one.local_preds, one.predictions = (
            dict(zip(explained, row[name].astype(float).tolist(), strict=True))
            for name in ("intercepts", "scores", "scores_loo", "local_predictions", "predictions")
        )
        first = explained[0]
        one.score, one.local_pred = one.scores[first], one.local_preds[first]
        one.class_names = batch.class_names
        return one

    def __repr__(self) -> str:
        from gpulime import shades

        labels = shades.labels_of(self)
        facts = [called(label, self.class_names) + _number(" {:.3f}", self.predictions.get(label)) for label in labels]
        more = ", ..." if len(facts) > SHOWN_LABELS else ""
        score = shades.score(self, labels[0]).replace("R²", ", R2") if labels else ""
        h, w = self.segments.shape[:2]
        size = f"{len(np.unique(self.segments))} segments, {h} x {w} pixels"
        return f"ImageExplanation({', '.join(facts[:SHOWN_LABELS]) or 'no label'}{more}; {size}{score})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the image, the overlay of its first label, and a table of its labels."""
        from gpulime import notebook

        return notebook.one(self)

    def plot(
        self,
        label: int | None = None,
        kind: str = "overlay",
        ax: Any = None,
        num_features: int = 5,
        class_names: Names | None = None,
    ) -> Figure:
        """Draw the explanation of a label; needs the extra ``plots``.

        Parameters
        ----------
        label : int, optional
            One of those explained, as a tensor or an array of one, too; by default the first.
        kind : {"overlay", "bars", "panels"}
            The picture in gray below the colours of all segments, blue for the label and orange against it, the strongest
            with their ids; a bar for each of the strongest segments; or the four pictures of lime's tutorials: positive,
            positive and negative, image, mask.
        ax : matplotlib Axes, optional
            Where to draw; four of them for "panels". By default a figure is made.
        num_features : int
            The most segments that are numbered, drawn as bars or shown in the panels.
        class_names : sequence of str or mapping of int to str, optional
            Names for the title, in place of the explanation's own; a label without one is shown by its number.

        Returns
        -------
        matplotlib.figure.Figure
            As the last value of a notebook's cell it shows itself; elsewhere call its ``savefig``.

        Raises
        ------
        GpulimeError
            If matplotlib is missing, for an unknown kind or label, and for another number of axes than the kind needs.
        """
        from gpulime import plots

        return plots.one(self, label, kind, ax, num_features, class_names)

    def get_image_and_mask(
        self,
        label: int,
        positive_only: bool = True,
        negative_only: bool = False,
        hide_rest: bool = False,
        num_features: int = 5,
        min_weight: float = 0.0,
    ) -> tuple[Array, Array]:
        """The image and a mask of its strongest segments, as lime's method of that name gives them.

        Parameters
        ----------
        label : int
            One of ``top_labels``; as a tensor or an array of one, too.
        positive_only, negative_only : bool
            Take only segments that speak for, or against, the label; at most one of the two. With neither, both are taken
            and painted: green for, red against.
        hide_rest : bool
            Show only the chosen segments, on black.
        num_features : int
            The most segments to take.
        min_weight : float
            The least size of a coefficient.

        Returns
        -------
        image : (h, w, c) in the image's own range, and in its dtype; with ``hide_rest`` float64
        mask : (h, w) in the segments' dtype, int64 where that has no sign: 1 where a segment was taken, -1 where it was
            painted red; for `skimage.segmentation.mark_boundaries`

        Raises
        ------
        KeyError
            If the label was not explained.
        ValueError
            If both only-flags are true.
        """
        with suppress(GpulimeError):  # then it is none of those explained
            label = numbers.number(label, self.class_names)
        if not isinstance(label, int) or label not in list(self.local_exp):
            raise KeyError(f"Label not in explanation: {label}; explained were {list(self.local_exp)}")
        if positive_only and negative_only:
            raise ValueError("Positive_only and negative_only cannot be true at the same time.")
        picked = self.local_exp[label]
        if positive_only or negative_only:
            sign = 1 if positive_only else -1
            picked = [(segment, w) for segment, w in picked if sign * w > 0 and abs(w) > min_weight][:num_features]
        else:
            picked = [(segment, w) for segment, w in picked[:num_features] if abs(w) >= min_weight]
        image = np.zeros(self.image.shape) if hide_rest else self.image.copy()
        signed = self.segments.dtype.kind in "if"
        mask = np.zeros(self.segments.shape, dtype=self.segments.dtype if signed else np.int64)  # it may hold -1
        for segment, w in picked:
            inside = self.segments == segment
            image[inside] = self.image[inside]
            mask[inside] = 1
            if not (positive_only or negative_only):
                mask[inside] = -1 if w < 0 else 1
                image[inside, 0 if w < 0 else min(1, self.image.shape[-1] - 1)] = self.image.max()
        return image, mask


class ImageExplanations(_Shown, list[ImageExplanation]):
    """A list of explanations that can be drawn, and that shows itself in a notebook; a slice of it can too."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> ImageExplanation: ...
    @overload
    def __getitem__(self, index: slice, /) -> ImageExplanations: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> ImageExplanation | ImageExplanations:
        """One image's explanation, or those of several."""
        return ImageExplanations(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def __repr__(self) -> str:
        return f"ImageExplanations({len(self)} images)"
