"""Occlusion and KernelSHAP: outputs for images with some pixels hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gpulime.engine.model import ACTIVATIONS, Activation
from gpulime.errors import whole
from gpulime.evaluate.methods.method import OWN_ACTIVATION, Attribution, Attributor, Classifier, chosen, prepared
from gpulime.explainer import Explainer


@dataclass(frozen=True)
class Occlusion(Attribution):
    """Fall of the label's output while a window is set to 0, the mean over the windows that cover a pixel; by captum.

    Parameters
    ----------
    windows : int
        A window's side is the image's, divided by this; windows move by half their side. 7 makes 169 windows of 32 pixels at
        224 x 224.
    activation : "own", or as for `gpulime.Explainer`
        "own" is that of the explainer whose images are compared or evaluated; softmax if there is none.

    References
    ----------
    Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014.
    """

    windows: int = 7
    activation: Activation = OWN_ACTIVATION

    packages: ClassVar[tuple[str, ...]] = ("captum.attr",)

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        from captum.attr import Occlusion as Occluded

        c, *sides = example.shape[1:]
        window = [max(1, side // whole("windows", self.windows, 1)) for side in sides]
        shapes = {"sliding_window_shapes": (c, *window), "strides": (c, *(max(1, side // 2) for side in window))}
        given = chosen(self.activation)
        activation = ACTIVATIONS[given] if isinstance(given, str) else given
        occluded = Occluded(lambda images: classifier(images) if activation is None else activation(classifier(images)))
        return lambda images, labels: occluded.attribute(images, target=labels, **shapes)[:, :1]


@dataclass(frozen=True)
class KernelShap:
    """Shapley values of segments by KernelSHAP, through `gpulime.Explainer`; hidden segments are 0.

    Parameters
    ----------
    n_samples : int
        Masks of each image, in pairs.
    segments : as for `gpulime.Explainer`, or label maps (n, h, w); optional
        By default cells of a 7 x 7 grid, since a segmenter sees normalised images here.
    activation : "own", or as for `gpulime.Explainer`
        "own" is that of the explainer whose images are compared or evaluated; softmax if there is none.
    seed : int
    batch_size : int or "auto"

    References
    ----------
    Lundberg and Lee, "A unified approach to interpreting model predictions", NeurIPS 2017.
    """

    n_samples: int = 1000
    segments: Any = None
    activation: Activation = OWN_ACTIVATION
    seed: int = 0
    batch_size: int | str = "auto"

    def __call__(self, model: Any, images: Tensor, labels: Tensor) -> Tensor:
        """Explain, as `Method` says."""
        given = self.segments if isinstance(self.segments, Tensor) else None
        with prepared(model, images, labels) as (_, inputs, wanted):
            explainer = Explainer(
                model,
                self.n_samples,
                "grid" if given is not None or self.segments is None else self.segments,
                fill=0.0,
                sampler="antithetic",
                estimator="wls",
                kernel="shapley",
                activation=chosen(self.activation),
                mean=0.0,
                std=1.0,
                normalized=True,
                batch_size=self.batch_size,
                device=inputs.device,
                seed=self.seed,
            )
            return explainer.explain(inputs, wanted, given).heatmaps().float()
