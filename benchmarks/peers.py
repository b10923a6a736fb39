"""lime and captum's Lime (extra ``peers``), given the same photographs, label maps and numbers of samples as gpulime."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.models import MEAN, STD, Setup
from benchmarks.sides import padded, segment_means
from benchmarks.timer import Array, Forward

Images = np.ndarray[tuple[int, ...], np.dtype[np.float32]]  # (b, h, w, c)


def lime_tutorial(setup: Setup) -> Forward:
    """As tutorials call lime: a plain model and batch, normalised as it comes, with gradients left on."""
    model = setup.model

    def classify(images: Images) -> Images:
        rows = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return model((rows - MEAN) / STD).softmax(1).detach().numpy()

    return _lime(setup, setup.images, classify)


def lime_best(setup: Setup) -> Forward:
    """The best one can do for lime: images normalised beforehand, model and batch in channels_last, no gradients."""
    model = setup.model_channels_last

    @torch.no_grad()
    def classify(images: Images) -> Images:
        return model(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1).numpy()

    return _lime(setup, setup.normalised, classify)


def _lime(setup: Setup, images: Tensor, classify: Callable[[Images], Images]) -> Forward:
    from lime.lime_image import LimeImageExplainer

    def coefficients(image: Images, labels: Array, target: int) -> Array:
        explainer = LimeImageExplainer(random_state=0)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            explanation = explainer.explain_instance(
                image, classify, num_samples=setup.s, batch_size=10, random_seed=0, segmentation_fn=lambda _: labels
            )
        weights = dict(explanation.local_exp[target])
        return np.array([weights[segment] for segment in range(len(weights))])

    arrays = [np.ascontiguousarray(image.permute(1, 2, 0)) for image in images]
    maps = [labels.numpy() for labels in setup.label_maps]
    return lambda: padded(coefficients(*image) for image in zip(arrays, maps, setup.targets.tolist(), strict=True))


def captum(setup: Setup) -> Forward:
    """The Lime of captum with b perturbations a call; it draws other masks and fits a lasso, so only its time is taken."""
    from captum.attr import Lime

    explainer = Lime(lambda rows: setup.model(rows).softmax(1))
    images, maps = setup.normalised, setup.label_maps
    fills = [segment_means(image, labels) for image, labels in zip(images, maps, strict=True)]

    def forward() -> None:
        for image, fill, labels, target in zip(images, fills, maps, setup.targets.tolist(), strict=True):
            explainer.attribute(
                image[None],
                baselines=fill[None],
                target=target,
                feature_mask=labels[None, None],
                n_samples=setup.s,
                perturbations_per_eval=setup.b,
            )

    return forward
