"""lime as its tutorials call it, lime at its best, and our `gpulime.lime_image` called in the same ways."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models import MEAN, STD
from benchmarks.setups import Setup
from benchmarks.sides import Array, Forward, padded
from gpulime import ImageExplanation

Images = np.ndarray[tuple[int, ...], np.dtype[np.float32]]  # (b, h, w, c)
Classifier = Callable[[Images], Images]


def lime_tutorial(setup: Setup) -> Forward:
    """As tutorials call lime: a plain model, batches normalised as they come, gradients left on."""
    return explained("lime.lime_image", setup, setup.images, as_tutorials(setup))


def lime_best(setup: Setup) -> Forward:
    """The best possible use of lime: images normalised beforehand, model and batch in channels_last, no gradients."""
    return explained("lime.lime_image", setup, setup.normalised, at_best(setup))


def lime_each(setup: Setup) -> Forward:
    """`lime_best` with a new explainer for each image, which then has the masks of ``sampler="lime"``."""
    return explained("lime.lime_image", setup, setup.normalised, at_best(setup), anew=True)


def drop_in(setup: Setup) -> Forward:
    """The tutorials' code with the import changed."""
    return explained("gpulime.lime_image", setup, setup.images, as_tutorials(setup))


def drop_in_best(setup: Setup) -> Forward:
    """`lime_best` with the import changed."""
    return explained("gpulime.lime_image", setup, setup.normalised, at_best(setup))


def drop_in_module(setup: Setup) -> Forward:
    """The tutorials' code with the import changed and the module in place of a function."""
    return explained("gpulime.lime_image", setup, setup.normalised, nn.Sequential(setup.model, nn.Softmax(1)))


def drop_in_many(setup: Setup) -> Forward:
    """The same for all images in one queue, in place of the tutorials' loop."""
    from gpulime.lime_image import LimeImageExplainer

    images, classify = arrays(setup.normalised), nn.Sequential(setup.model, nn.Softmax(1))
    targets = setup.targets.tolist()

    def forward() -> Array:
        explainer = LimeImageExplainer(random_state=0)
        explanations = explainer.explain_instances(images, classify, progress_bar=False, **call(setup))
        return coefficients(explanations, targets)

    return forward


def as_tutorials(setup: Setup) -> Classifier:
    """A classifier of arrays in [0, 1], as lime's tutorials write it."""
    model = setup.model

    def classify(images: Images) -> Images:
        rows = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return model((rows - MEAN) / STD).softmax(1).detach().numpy()

    return classify


def at_best(setup: Setup) -> Classifier:
    """A classifier of normalised arrays (b, h, w, c), whose memory is in channels_last already."""
    model = setup.model_channels_last

    @torch.no_grad()
    def classify(images: Images) -> Images:
        rows = torch.from_numpy(images).permute(0, 3, 1, 2).to(setup.device)
        with setup.autocast():
            outputs = model(rows)
        return outputs.float().softmax(1).cpu().numpy()

    return classify


def explained(module: str, setup: Setup, images: Tensor, classify: Classifier | nn.Module, anew: bool = False) -> Forward:
    """The loop over images (n, c, h, w) with a ``LimeImageExplainer`` of that module; ``anew``: one for each image."""
    new_explainer = import_module(module).LimeImageExplainer
    listed, targets = arrays(images), setup.targets.tolist()

    def forward() -> Array:
        explainer, arguments = new_explainer(random_state=0), call(setup)
        one = (lambda: new_explainer(random_state=0)) if anew else lambda: explainer
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return coefficients((one().explain_instance(image, classify, **arguments) for image in listed), targets)

    return forward


def arrays(images: Tensor) -> list[Images]:
    """Images as lime takes them."""
    return [np.ascontiguousarray(image.permute(1, 2, 0).cpu()) for image in images]


def call(setup: Setup) -> dict[str, Any]:
    """The arguments of one pass over the images; the label maps come in their order."""
    number = iter(range(setup.n))
    return {
        "num_samples": setup.s,
        "batch_size": setup.batch,
        "random_seed": 0,
        "segmentation_fn": lambda _: setup.label_map(next(number)).cpu().numpy(),
    }


def coefficients(explanations: Iterable[ImageExplanation], targets: Sequence[int]) -> Array:
    """(n, k), of the targets."""
    found = (dict(one.local_exp[target]) for one, target in zip(explanations, targets, strict=True))
    return padded(np.array([weights[segment] for segment in range(len(weights))]) for weights in found)
