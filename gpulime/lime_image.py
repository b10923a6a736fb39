"""lime's image explainer with lime's names: ``from lime import lime_image`` becomes ``from gpulime import lime_image``.

Masks, segments and numbers equal lime's for the same ``random_state``; docs/moving-from-lime.md lists the differences and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skimage.color import gray2rgb
from sklearn.metrics import pairwise_distances
from sklearn.utils import check_random_state
from tqdm.auto import tqdm

from gpulime import device as devices
from gpulime import lime_base
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.flight import Flight
from gpulime.engine.model import Predictor
from gpulime.engine.selection import SELECTIONS
from gpulime.engine.settings import Settings
from gpulime.errors import GpulimeError, check, unknown, whole
from gpulime.explanations.image import ImageExplanation, ImageExplanations
from gpulime.images import lime_rows
from gpulime.images.lime_rows import Array, Classifier
from gpulime.lime_base import LimeInput, LimeLabels, exponential_kernel
from gpulime.lime_queue import LimeQueue, UnexplainedError
from gpulime.segments import Quickshift

__all__ = ["ImageExplanation", "ImageExplanations", "LimeImageExplainer", "UnexplainedError", "exponential_kernel"]

AHEAD_BYTES = 2**20  # bytes of rows composed at once: for small images, a batch of ten is mostly overhead
Segmentation = Callable[[Array], Any]


@dataclass(frozen=True)
class _Call:
    """The arguments of one call."""

    labels: Sequence[int]
    top_labels: int | None
    num_samples: int
    segmentation_fn: Segmentation | None
    distance_metric: Any
    model_regressor: Any
    random_seed: int | None
    settings: Settings


@dataclass
class _Prepared(LimeInput):
    """An image in the queue, with the segments and masks of its explanation."""

    image: Array
    segments: Array
    masks: Array


class LimeImageExplainer:
    """Explains predictions on images.

    Parameters
    ----------
    kernel_width : float or None
        Width of the kernel; None means ``0.75 * sqrt(k)`` for k segments.
    kernel : callable, optional
        (distances (s,), kernel_width) -> weights (s,); by default `exponential_kernel`.
    verbose : bool
        Print intercept, local prediction and prediction of each label.
    feature_selection : str
        "auto", "none", "forward_selection", "highest_weights" or "lasso_path".
    random_state : int or numpy.random.RandomState, optional
        Random state of the masks; None is NumPy's global state.

    Raises
    ------
    GpulimeError
        If ``feature_selection`` is unknown; the message lists the valid ones.
    """

    def __init__(
        self,
        kernel_width: float | None = 0.25,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        feature_selection: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        if feature_selection not in SELECTIONS:
            raise unknown("feature_selection", feature_selection, SELECTIONS)
        check(kernel_width is None or float(kernel_width) > 0, f"kernel_width must be above 0, or None; got {kernel_width!r}")
        self.kernel_width = None if kernel_width is None else float(kernel_width)
        self.kernel = kernel or exponential_kernel
        self.verbose = verbose
        self.feature_selection = feature_selection
        self.random_state: np.random.RandomState = check_random_state(random_state)

    def explain_instance(
        self,
        image: Array,
        classifier_fn: Classifier,
        labels: Iterable[int] = (1,),
        hide_color: Any = None,
        top_labels: int | None = 5,
        num_features: int = 100000,
        num_samples: int = 1000,
        batch_size: int = 10,
        segmentation_fn: Segmentation | None = None,
        distance_metric: Any = "cosine",
        model_regressor: Any = None,
        random_seed: int | None = None,
        progress_bar: bool = True,
    ) -> ImageExplanation:
        """Explain the prediction for one image.

        Parameters
        ----------
        image : (h, w, c) array of any dtype; (h, w) is gray and is converted to RGB
        classifier_fn : callable or nn.Module
            A function (b, h, w, c) array -> (b, classes) probabilities, such as scikit-learn's ``predict_proba``; it gets the
            image's dtype. Or a module, which gets (b, c, h, w) tensors in its own dtype, on its own device. Integer images are
            scaled to [0, 1] for a module: uint16 divided by 65535, all others by 255. Floats stay as they are.
        labels : iterable of int
            Classes to explain if ``top_labels`` is None or 0.
        hide_color : number or colour, optional
            Pixels of hidden segments; None is the mean of each segment.
        top_labels : int, optional
            Number of most probable classes to explain.
        num_features : int
            The most segments an explanation may use.
        num_samples : int
            s, masked images passed to the model, including the image itself.
        batch_size : int
            Images per call of the model.
        segmentation_fn : callable, optional
            (h, w, c) array -> (h, w) integers; by default lime's quickshift.
        distance_metric : str or callable
            As for scikit-learn's ``pairwise_distances``.
        model_regressor : scikit-learn regressor, optional
            Fitted in place of the ridge; needs ``coef_``, ``intercept_`` and ``sample_weight``.
        random_seed : int, optional
            If given, no seed is drawn from ``random_state``. It has no other effect: scikit-image's quickshift takes no seed.
        progress_bar : bool
            If True, show a progress bar.

        Returns
        -------
        ImageExplanation

        Raises
        ------
        GpulimeError
            If the segmentation, the model's output or an argument is invalid.
        """
        try:
            return self.explain_instances(
                [image],
                classifier_fn,
                labels=labels,
                hide_color=hide_color,
                top_labels=top_labels,
                num_features=num_features,
                num_samples=num_samples,
                batch_size=batch_size,
                segmentation_fn=segmentation_fn,
                distance_metric=distance_metric,
                model_regressor=model_regressor,
                random_seed=random_seed,
                progress_bar=progress_bar,
            )[0]
        except UnexplainedError as unexplained:
            error = unexplained.failures[0]
        raise error  # the original error, with its own cause

    def explain_instances(
        self,
        images: Iterable[Array],
        classifier_fn: Classifier,
        labels: Iterable[int] = (1,),
        hide_color: Any = None,
        top_labels: int | None = 5,
        num_features: int = 100000,
        num_samples: int = 1000,
        batch_size: int = 10,
        segmentation_fn: Segmentation | None = None,
        distance_metric: Any = "cosine",
        model_regressor: Any = None,
        random_seed: int | None = None,
        progress_bar: bool = True,
    ) -> ImageExplanations:
        """Explain many images in one queue, so that the model's batches are full.

        The results equal those of a loop over `explain_instance`. If an image fails, the others are still explained: the error
        is raised at the end and holds their explanations. If the first three images all fail, the rest are not tried. A
        KeyboardInterrupt also holds the ``explanations`` so far.

        Parameters
        ----------
        images : sequence or iterable of arrays, each as for `explain_instance`; or one array (n, h, w, c)
        classifier_fn, ..., progress_bar
            As for `explain_instance`.

        Returns
        -------
        ImageExplanations
            A list of `ImageExplanation`, in the order of the images.

        Raises
        ------
        UnexplainedError
            If some images could not be explained; a `GpulimeError` with the dicts ``explanations`` and ``failures``, by the
            image's number.
        GpulimeError
            If an argument is invalid.
        """
        images = _sequence(images)
        n = len(images)
        call = _Call(
            labels=[] if top_labels else lime_base.given_labels(labels),
            top_labels=whole("top_labels", top_labels, 1) if top_labels else None,
            num_samples=whole("num_samples", num_samples, 2, ", the whole image and one mask"),
            segmentation_fn=segmentation_fn,
            distance_metric=distance_metric,
            model_regressor=model_regressor,
            random_seed=random_seed,
            settings=Settings(feature_selection=self.feature_selection, num_features=num_features),
        )
        predictor = lime_rows.predictor(classifier_fn)
        with tqdm(total=n * num_samples, disable=not progress_bar) as bar:
            queue = LimeQueue[_Prepared, ImageExplanation](
                predictor,
                BatchSize(batch_size),
                prepare=lambda i: self._prepare(np.asarray(images[i]), call),
                flight=lambda i, one: _flight(i, one, predictor, hide_color, call),
                solve=lambda one, flight: self._solve(one, flight, call),
                progress=bar.update,
            )
            return ImageExplanations(queue.run(n))

    def _prepare(self, image: Array, call: _Call) -> _Prepared:
        """Draw in lime's order: the segmentation's seed, unless one is given, then the masks."""
        if image.ndim == 2:
            image = gray2rgb(image)
        check(image.ndim == 3 and image.size > 0, f"an image must be (h, w, c) or (h, w); got {image.shape}")
        ahead = image.shape[0] in (1, 3, 4) and min(image.shape[1:]) > 4
        turned = "is that (c, h, w)? transpose(1, 2, 0) makes it so, for a tensor permute(1, 2, 0)"
        check(not ahead, f"an image must be (h, w, c) or (h, w); got {image.shape}: {turned}")
        if call.random_seed is None:
            self.random_state.randint(0, high=1000)
        segments = np.asarray((call.segmentation_fn or _quickshift)(image))
        h, w = image.shape[:2]
        check(segments.shape == (h, w), f"segmentation_fn must return (h, w) = {(h, w)}; got {segments.shape}")
        check(segments.dtype.kind in "iufb", f"segmentation_fn must return numbers; got {segments.dtype}")
        k = np.unique(segments).size
        masks = self.random_state.randint(0, 2, call.num_samples * k).reshape(call.num_samples, k)
        masks[0] = 1
        return _Prepared(image, segments, masks)

    def _solve(self, one: _Prepared, flight: Flight, call: _Call) -> Callable[[], ImageExplanation]:
        """Fit a linear model to each label, as lime does; the returned function waits for them and fills lime's fields."""
        distances = pairwise_distances(one.masks, one.masks[:1], metric=call.distance_metric).ravel()
        width = self.kernel_width if self.kernel_width is not None else 0.75 * one.masks.shape[1] ** 0.5
        weights = lime_base.weights(self.kernel, distances, width)
        fitted = lime_base.fits(one.masks, weights, flight.outputs(), call.settings, call.model_regressor)

        def explained() -> ImageExplanation:
            found = fitted()
            explanation = ImageExplanation(one.image, one.segments)
            if call.top_labels:
                explanation.top_labels = one.labels
            ids = np.unique(one.segments)
            lime_base.fill(explanation, one.labels, found, bool(call.top_labels), ids, self.verbose)
            return explanation

        return explained


def _flight(number: int, one: _Prepared, predictor: Predictor, hide_color: Any, call: _Call) -> Flight:
    labels = LimeLabels(given=call.labels, most=call.top_labels, one=one)
    return Flight(
        lime_rows.masked(number, one.image, one.segments, hide_color, predictor, labels),
        call.num_samples,
        devices.sent(torch.from_numpy(one.masks.astype(bool))[None], predictor.device(torch.empty(0))),
        ahead_bytes=AHEAD_BYTES,
    )


def _sequence(images: Any) -> Sequence[Array] | Array:
    """Turn images into a sequence or an array with a length; refuse a single image, whose rows would be taken for images."""
    shape = getattr(images, "shape", None)
    if len(shape) not in (1, 4) if shape is not None else not isinstance(images, Iterable):
        got = type(images).__name__ if shape is None else tuple(shape)
        right = "[image] for one image, list(images) for gray ones (n, h, w)"
        raise GpulimeError(f"images must be a sequence of arrays, or one array (n, h, w, c); got {got}: pass {right}")
    return images if isinstance(images, Sequence | np.ndarray) else list(images)


def _quickshift(image: Array) -> Array:
    """Lime's default segmentation; a single channel is repeated as RGB; other numbers of channels skip the Lab conversion."""
    return Quickshift()(image.repeat(3, axis=2) if image.shape[2] == 1 else image)
