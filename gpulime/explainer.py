"""Explainer of images: the settings, and the engine that runs them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpulime import arrays, classes
from gpulime.engine import masks
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.engine import Engine
from gpulime.engine.model import Activation, Model, Predictor
from gpulime.engine.proximity import Distance, Kernel
from gpulime.engine.quality import sampling
from gpulime.engine.settings import Settings
from gpulime.engine.stopping import Stopping
from gpulime.errors import GpulimeError, check, whole
from gpulime.explanations.images import ExplainedImages
from gpulime.images import fills, pretrained
from gpulime.images.batch import Batch
from gpulime.images.normalisation import Normalisation
from gpulime.images.preparation import Preparation
from gpulime.images.segments import describe
from gpulime.segments import Segmenter
from gpulime.segments import resolve as resolve_segments

LOG = logging.getLogger(__package__)


class Explainer(Engine[ExplainedImages]):
    """LIME for batches of images.

    Parameters
    ----------
    model : nn.Module or callable
        (b, c, h, w) tensor -> (b, classes) tensor; pass further inputs with ``explain(images, extra=(meta,))``. A module is
        never modified and may be in train mode. A function is called as it is, so a model inside it must be in eval mode.
    n_samples : int or "auto"
        s, the masks, and so the forwards, per image, including the whole image; 1000 by default. "auto" draws blocks of masks
        until an image is settled; it needs the sampler "blocks", "antithetic" or "exhaustive".
    segments : str, mapping, dataclass or callable
        "slic", "quickshift", "felzenszwalb", "grid"; ``{"slic": {"n_segments": 60}}``; ``segments.Slic(n_segments=60)``;
        or a callable (h, w, c) array in [0, 1] -> (h, w) integer labels.
    fill : str, float, sequence or tensor
        Pixels of hidden segments: "mean" of the segment, "blur", a number, a colour (c,), or images (n, c, h, w). Numbers are
        in the units of the images: 0..255 for uint8, normalised with ``normalized=True``, else 0..1.
    sampler : str
        "bernoulli", the default: each segment is shown with probability 1/2; "lime": the same, drawn from numpy's
        RandomState(seed). "antithetic": each mask is followed by its complement. "blocks": the same, with masks from randomised
        Hadamard matrices, whose segments are uncorrelated; it needs the fewest samples, best 1 + a multiple of a block (128 for
        32 to 63 segments, 256 for 64 to 127). With these two, an image of k segments gets all 2^k masks if they are no more
        than ``n_samples`` (or ``max_samples``). Its coefficients are then exact; "ridge" has the penalty of so many samples.
        "exhaustive": all 2^k masks of every image, or an error if they are more.
    estimator : str
        "ridge", the default, is lime's. "wls": weighted least squares without a penalty. "gp": a Gaussian process over masks,
        for "antithetic" and "blocks": it needs the fewest samples.
    link : str
        For "gp": "identity", "logit" (a model of the log-probabilities, for classifiers that are nearly sure), or "auto", which
        takes the one that predicts left-out samples better.
    quality : str, optional
        "fast", "lime" or "high" sets ``n_samples``, ``sampler``, ``estimator`` and ``link``; an argument given beside it wins.
    tolerance : float, optional
        For ``n_samples="auto"``: the samples of an image end once the root mean square of its standard errors is at most this,
        in units of the output. By default they end once each label's five largest coefficients and their signs are known, up to
        differences below a twentieth of the largest. Both rules look at all segments, before ``num_features`` selects some.
    confidence : float
        For ``n_samples="auto"`` without a tolerance: the probability that they are the right ones.
    max_samples : int
        For ``n_samples="auto"``: the most samples of an image.
    top_labels : int
        l, the classes explained per image if ``explain`` gets no labels: the ones with the highest output, at most all.
    kernel_width : float or None
        Width of the proximity kernel, in distances; None means ``0.75 * sqrt(k)``, as lime documents.
    alpha : float
        The ridge penalty of the fit, on coefficients, not on the intercept.
    kernel : str, callable or None
        None or "exponential", "uniform", "shapley", or a callable (distances (s,), kernel_width) -> weights (s,).
        "uniform" makes the coefficients Banzhaf values, and "shapley" Shapley values: they add up to the output for the whole
        image less that for an empty one, which is a sample, too. "shapley" needs ``sampler="antithetic"``, which then draws
        sizes for this kernel, and ``estimator="gp"`` or "wls". Up to 2^k = ``n_samples`` the values are exact.
        Callables get the samples in pieces, so they must treat each row independently.
    distance : str or callable
        Distance from each mask to the whole image: "cosine", "euclidean", "hamming", ..., or a callable masks (s, k) -> (s,).
    feature_selection : str
        "none", "forward_selection", "highest_weights", "lasso_path" or "auto" (forward selection up to 6 segments, highest
        weights beyond), by lime's rules.
    num_features : int or None
        The most segments a label's model may use; None means all.
    activation : str, callable or None
        Applied to the model's output before it is explained: "softmax", "sigmoid", or a callable; None explains the raw output.
    mean, std : float or (c,) sequences, optional
        The model's normalisation, ``(image - mean) / std``. If neither is given, a timm model's own (``pretrained_cfg``) is
        used: ``normalisation.source`` tells, and the log "gpulime" at level INFO. ``mean=0, std=1`` leaves images unchanged.
    normalized : bool
        False: images are in [0, 1] (or uint8) and are normalised here. True: images are already normalised, and mean and std
        only undo that, for segmentation and pictures.
    precision : str
        "float32" runs the model as it is; "bfloat16" and "float16" run it under autocast.
    batch_size : int or "auto"
        b, the rows of a model batch. On a CPU "auto" chooses by the bytes of a row. On a GPU it times the first batches of the
        queue and keeps the fastest size; sizes are tried before a model is compiled.
    compile : bool or str
        True compiles the model by torch.compile; on a CPU this fuses BatchNorm and ReLU into convolutions. "auto" compiles if
        the remaining forwards take ten times as long as compiling, and reports it in the log "gpulime" at level INFO; on a GPU
        in the mode "reduce-overhead" if launches bind the model, measured on one batch. A string is a mode of torch.compile:
        "reduce-overhead" (with CUDA graphs, for models bound by launch overhead), "max-autotune" or
        "max-autotune-no-cudagraphs". Compiling takes seconds to minutes for each batch shape, so batches are padded to b rows.
        New weights take effect: the first change recompiles the model once, later ones cost nothing. If the model cannot be
        compiled, a warning is given and it runs uncompiled. So do further image shapes beyond PyTorch's limit, 8 by default.
    device : str or torch.device, optional
        By default the model's, else the images'.
    seed : int
        Seed of the masks.

    Raises
    ------
    GpulimeError
        If a setting is invalid.

    References
    ----------
    Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016.
    """

    def __init__(
        self,
        model: Model,
        n_samples: int | str | None = None,
        segments: str | Mapping[str, Any] | Segmenter = "slic",
        fill: fills.Fill = "mean",
        sampler: str | None = None,
        estimator: str | None = None,
        link: str | None = None,
        quality: str | None = None,
        tolerance: float | None = None,
        confidence: float = 0.95,
        max_samples: int = 4096,
        top_labels: int = 5,
        kernel_width: float | None = 0.25,
        alpha: float = 1.0,
        kernel: Kernel | None = None,
        distance: Distance = "cosine",
        feature_selection: str = "auto",
        num_features: int | None = None,
        activation: Activation = "softmax",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        normalized: bool = False,
        precision: str = "float32",
        batch_size: int | str = "auto",
        compile: bool | str = False,
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.sampling = sampling(quality, n_samples=n_samples, sampler=sampler, estimator=estimator, link=link)
        stopping = Stopping.of(self.sampling.n_samples, tolerance, confidence, max_samples)
        top_labels = whole("top_labels", top_labels, 1)
        self.seed = seed
        self.normalisation = Normalisation.of(mean, std, normalized, pretrained.normalisation(model))
        if self.normalisation.source == "model":
            used = ", ".join(f"{name}={getattr(self.normalisation, name).tolist()}" for name in ("mean", "std"))
            LOG.info("images are normalised as the model's pretrained_cfg says: %s", used)
        self.segmenter = resolve_segments(segments)
        draw, expected = masks.resolve(self.sampling.sampler, seed, self.sampling.expected), self.sampling.expected
        settings = Settings(
            alpha,
            kernel or "exponential",
            kernel_width,
            distance,
            feature_selection,
            num_features,
            self.sampling.estimator,
            self.sampling.link,
        )
        predictor = Predictor(model, activation, precision, device, compile)
        self.class_names = classes.of_model(pretrained.bare(model))
        self.preparation = Preparation(predictor, self.normalisation, self.segmenter, fills.resolve(fill), self.class_names)
        sizes = BatchSize(batch_size)
        super().__init__(predictor, sizes, self.preparation, draw, expected, top_labels, settings, stopping)

    def __repr__(self) -> str:
        model, fill = self.predictor.model, self.preparation.fill
        facts = {
            "n_samples": self.sampling.n_samples,
            "segments": describe(self.segmenter, self.device),
            "fill": fill if isinstance(fill, str) else fill.tolist() if fill.ndim < 2 else f"images {tuple(fill.shape)}",
            "normalisation": self.normalisation,
            "device": self.device,
        }
        name = getattr(model, "__name__", type(model).__name__)
        return f"Explainer({name}, {', '.join(f'{term}: {fact}' for term, fact in facts.items())})"

    def explain(
        self,
        images: Any,
        labels: Any = None,
        segments: Any = None,
        keys: Any = None,
        keep: int | Sequence[int] | Tensor | None = None,
        extra: Sequence[Tensor] = (),
    ) -> ExplainedImages:
        """Explain images.

        Parameters
        ----------
        images : (n, c, h, w) float or uint8
            Tensor or array; floats in [0, 1], or normalised with ``normalized=True``.
        labels : int, (n,) or (n, l) integers, or a sequence of n entries, optional
            Classes to explain: one for all images, or for each image one, a list of several, or a multi-hot vector (floats or
            bools of 0 and 1). By default the ``top_labels`` with the highest output. Names are allowed if the model has them
            (``config.id2label``). An image with fewer labels than another repeats its first one in ``Explanations.labels``.
        segments : (n, h, w) integers, optional
            Label maps, in place of the segmenter's.
        keys : (n,) int64, optional
            ``gpulime.key(image_id)`` of each image, which seeds its masks; 0 by default. With equal keys, images with the same
            number of segments share masks, and so their sampling noise, which does not average out over images.
        keep : int or several, optional
            Ids of segments that are never hidden, such as a background of 0, 255 or -1; they are not explained.
        extra : tuple of tensors (n, ...)
            Further inputs of the model, such as ids or metadata: ``model(rows, *extra)`` gets the entries of each row's image,
            in their own dtypes.

        Returns
        -------
        ExplainedImages, on the device of the work

        Raises
        ------
        GpulimeError
            If an argument is invalid, or the model's output is not (b, classes).
        """
        batch = Batch(images, labels, segments, keys, extra=extra, keep=keep)
        explanations = ExplainedImages.cat(list(self.explained(batch)))
        for i in explanations.non_finite.nonzero().flatten().tolist():
            count = int(explanations.non_finite[i])
            unusable = "no probabilities, NaN or infinite" if self.sampling.link == "logit" else "NaN or infinite"
            warnings.warn(
                f"image {i}: the model's output was {unusable} for {count} of {int(explanations.samples[i])} samples; "
                "its coefficients are NaN",
                stacklevel=2,
            )
        return explanations

    def outputs(
        self,
        images: Any,
        masks: Any,
        labels: Any,
        segments: Any = None,
        keys: Any = None,
        keep: int | Sequence[int] | Tensor | None = None,
        extra: Sequence[Tensor] = (),
    ) -> Tensor:
        """Outputs of the model for masked images, without a fit: for deletion curves, Shapley values and checks.

        Parameters
        ----------
        images, segments, keys, keep, extra
            As for `explain`.
        masks : (n, s, k) bool
            True if a segment is shown; k is the largest number of segments of any image, and columns beyond an image's count
            have no meaning.
        labels : as for `explain`
            Classes of the outputs; they must be given.

        Returns
        -------
        (n, s, l) float32, or float64 if the model's outputs are

        Raises
        ------
        GpulimeError
            If an argument is invalid.
        """
        check(labels is not None, "labels must be the classes whose outputs are returned; got None")
        batch = Batch(images, labels, segments, keys, extra=extra, keep=keep).as_tensors(self.class_names)
        given, n = arrays.tensor(masks), len(batch.images)
        if given is None or given.ndim != 3 or given.dtype != torch.bool or len(given) != n or not given.numel():
            got = type(masks).__name__ if given is None else f"{tuple(given.shape)} {given.dtype}"
            raise GpulimeError(f"masks must be (n, s, k) bool with n = {n} images, none of them 0; got {got}")
        return torch.cat(list(self.predicted(batch, given)))

    def with_fill(self, fill: fills.Fill) -> Explainer:
        """The same explainer, with the same model, and another fill of hidden segments.

        Parameters
        ----------
        fill : str, float, sequence or tensor
            As for `Explainer`.

        Raises
        ------
        GpulimeError
            If there is no such fill.
        """
        made = copy(self)
        made.preparation = made.masker = replace(self.preparation, fill=fills.resolve(fill))
        return made

    def count_classes(self, images: Tensor) -> int:
        """Count the columns of the model's output by a call with images (n, c, h, w)."""
        with self.predictor.inference(device := self.predictor.device(images)):
            batch = Batch(images.clone()).on(device)  # a copy, since the caller's may be an inference tensor
            return self.predictor(self.preparation.for_model(batch.images)).shape[1]
