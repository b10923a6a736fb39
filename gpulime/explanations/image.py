"""One image's explanation with lime's fields and methods, and a list of them."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

import numpy as np

from gpulime import labels as numbers
from gpulime.classes import Names, called
from gpulime.errors import GpulimeError, whole
from gpulime.explanations import fields

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpulime.explanations.images import ExplainedImages

Array = np.ndarray[Any, np.dtype[Any]]
SHOWN_LABELS = 3  # in a line about one image


def _number(form: str, value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else form.format(float(value))


class ImageExplanation:
    """One image's explanation, with lime's fields and methods.

    Attributes
    ----------
    image : (h, w, c) array
    segments : (h, w) integers, with the segmenter's own ids; -1, or less than all of them, for pixels that are never hidden
    top_labels : list of int, the labels explained, most probable first
    local_exp : dict, label -> list of (segment id, coefficient), strongest first
    standard_errors : dict, label -> dict of segment id -> standard error of its coefficient; NaN, or no entry, if not known
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
        self.standard_errors: dict[int, dict[int, float]] = {}
        self.intercept: dict[int, float] = {}
        self.scores: dict[int, float] = {}
        self.scores_loo: dict[int, float] = {}
        self.local_preds: dict[int, Any] = {}
        self.predictions: dict[int, float] = {}
        self.score: float | None = None
        self.local_pred: Any = None

    @classmethod
    def of(cls, batch: ExplainedImages, index: int) -> ImageExplanation:
        """One image of a batch."""
        row = fields.row(batch, index)
        ids = row["segment_ids"][: int(row["counts"])]
        names = np.append(ids, min(0, ids.min()) - 1)  # the last is no segment: pixels that are never hidden
        one = cls(row["images"].transpose(1, 2, 0) / 255.0, names[row["segments"]])
        fields.fill(one, row, ids)
        one.class_names = batch.class_names
        return one

    def __repr__(self) -> str:
        from gpulime.explanations import shades

        labels = shades.labels_of(self)
        facts = [called(label, self.class_names) + _number(" {:.3f}", self.predictions.get(label)) for label in labels]
        more = ", ..." if len(facts) > SHOWN_LABELS else ""
        score = shades.score(self, labels[0]).replace("R²", ", R2").replace("\N{MINUS SIGN}", "-") if labels else ""
        h, w = self.segments.shape[:2]
        size = f"{len(np.unique(self.segments))} segments, {h} x {w} pixels"
        return f"ImageExplanation({', '.join(facts[:SHOWN_LABELS]) or 'no label'}{more}; {size}{score})"

    def _repr_html_(self) -> str:
        """HTML for a notebook: the image, the overlay of its first label, and a table of its labels."""
        from gpulime.explanations import notebook

        return notebook.one(self)

    @overload
    def as_list(self, label: int | None = None, errors: Literal[False] = False) -> list[tuple[int, float]]: ...
    @overload
    def as_list(self, label: int | None = None, *, errors: Literal[True]) -> list[tuple[int, float, float]]: ...
    def as_list(
        self, label: int | None = None, errors: bool = False
    ) -> list[tuple[int, float]] | list[tuple[int, float, float]]:
        """The segments of a label, strongest first, as lime's method of the same name lists words and columns.

        Parameters
        ----------
        label : int, optional
            An explained label, also as a tensor or array of one element; by default the first.
        errors : bool
            If True, list the standard errors too.

        Returns
        -------
        list of (segment id, coefficient), or with ``errors`` of (segment id, coefficient, standard error)
            A standard error is NaN if it is not known.

        Raises
        ------
        GpulimeError
            If the label was not explained.
        """
        from gpulime.explanations import shades

        label = shades.chosen(self, label)
        if not errors:
            return list(self.local_exp[label])
        known = self.standard_errors.get(label, {})
        return [(segment, weight, known.get(segment, math.nan)) for segment, weight in self.local_exp[label]]

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
            An explained label, also as a tensor or array of one element; by default the first.
        kind : {"overlay", "bars", "panels"}
            The picture in gray below the colours of all segments, blue for the label and orange against it, the strongest
            with their ids; a bar for each of the strongest segments, with its 95 % interval; or the four pictures of lime's
            tutorials: positive, positive and negative, image, mask. Hatched and faded are segments whose 95 % interval holds
            0; without known standard errors there are none.
        ax : matplotlib Axes, optional
            Axes to draw on; four for "panels". By default a figure is made.
        num_features : int
            The most segments that are numbered, drawn as bars or shown in the panels.
        class_names : sequence of str or mapping of int to str, optional
            Names for the title, in place of the explanation's own; a label without one is shown by its number.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook as the last value of a cell; elsewhere call its ``savefig``.

        Raises
        ------
        GpulimeError
            If matplotlib is missing, for an unknown kind or label, and for another number of axes than the kind needs.
        """
        from gpulime.explanations import plots

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
        """Return the image and a mask of its strongest segments, as lime's method of the same name does.

        Parameters
        ----------
        label : int
            One of ``top_labels``, also as a tensor or array of one element.
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
        mask : (h, w) in the segments' dtype, int64 if that dtype has no sign: 1 where a segment was taken, -1 where it was
            painted red; for `skimage.segmentation.mark_boundaries`

        Raises
        ------
        KeyError
            If the label was not explained.
        ValueError
            If both only-flags are true.
        """
        with suppress(GpulimeError):  # then it was not explained
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


class Shown:
    """Plots and HTML of several explanations; `ExplainedImages` and the lists of `gpulime.lime_image` have them."""

    def _repr_html_(self: Any) -> str:
        """HTML for a notebook: the first images with the overlay of their first label."""
        from gpulime.explanations import notebook

        shown = self[: notebook.MOST_IMAGES]
        return notebook.many(repr(self), list(shown), len(self) - len(shown))

    def plot(
        self: Any,
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
            Axes to draw on, such as the array of ``subplots``: one for each image, four for "panels"; further ones are
            emptied. By default a figure is made.
        most : int
            The most images to draw.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook as the last value of a cell; elsewhere call its ``savefig``.

        Raises
        ------
        GpulimeError
            As for one image, and if there are too few axes or no images.
        """
        from gpulime.explanations import plots

        return plots.many(list(self[: whole("most", most, 1)]), label, kind, ax, num_features, class_names)


class ImageExplanations(Shown, list[ImageExplanation]):
    """A list of explanations with plots and HTML for notebooks; so is a slice of it."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> ImageExplanation: ...
    @overload
    def __getitem__(self, index: slice, /) -> ImageExplanations: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> ImageExplanation | ImageExplanations:
        """One image's explanation, or those of several."""
        return ImageExplanations(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def __repr__(self) -> str:
        return f"ImageExplanations({len(self)} images)"
