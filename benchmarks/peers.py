"""lime, captum's Lime (extra ``peers``) and our `gpulime.lime_image`, given the same photographs, label maps and samples."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.models import MEAN, STD, Setup
from benchmarks.sides import padded, segment_means
from benchmarks.timer import Array, Forward
from gpulime import ImageExplanation

Images = np.ndarray[tuple[int, ...], np.dtype[np.float32]]  # (b, h, w, c)
Classifier = Callable[[Images], Images]


def lime_tutorial(setup: Setup) -> Forward:
    """As tutorials call lime: a plain model and batch, normalised as it comes, with gradients left on."""
    return _lime("lime.lime_image", setup, setup.images, _classify_as_tutorials(setup))


def drop_in(setup: Setup) -> Forward:
    """The tutorials' code with the import changed."""
    return _lime("gpulime.lime_image", setup, setup.images, _classify_as_tutorials(setup))


def drop_in_module(setup: Setup) -> Forward:
    """The tutorials' code with the import changed and the model given as it is."""
    return _lime("gpulime.lime_image", setup, setup.normalised, nn.Sequential(setup.model, nn.Softmax(1)))


def drop_in_many(setup: Setup) -> Forward:
    """The same for all images in one queue, in place of the tutorials' loop."""
    from gpulime.lime_image import LimeImageExplainer

    images, classify = _arrays(setup.normalised), nn.Sequential(setup.model, nn.Softmax(1))
    targets = setup.targets.tolist()

    def forward() -> Array:
        explainer = LimeImageExplainer(random_state=0)
        explanations = explainer.explain_instances(images, classify, progress_bar=False, **_call(setup))
        return _coefficients(explanations, targets)

    return forward


def drop_in_best(setup: Setup) -> Forward:
    """`lime_best` with the import changed."""
    return _lime("gpulime.lime_image", setup, setup.normalised, _classify_at_best(setup))


def _classify_as_tutorials(setup: Setup) -> Classifier:
    model = setup.model

    def classify(images: Images) -> Images:
        rows = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return model((rows - MEAN) / STD).softmax(1).detach().numpy()

    return classify


def lime_best(setup: Setup) -> Forward:
    """The best one can do for lime: images normalised beforehand, model and batch in channels_last, no gradients."""
    return _lime("lime.lime_image", setup, setup.normalised, _classify_at_best(setup))


def _classify_at_best(setup: Setup) -> Classifier:
    model = setup.model_channels_last

    @torch.no_grad()
    def classify(images: Images) -> Images:
        return model(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1).numpy()

    return classify


def _lime(module: str, setup: Setup, images: Tensor, classify: Classifier | nn.Module) -> Forward:
    new_explainer = import_module(module).LimeImageExplainer
    arrays, targets = _arrays(images), setup.targets.tolist()

    def forward() -> Array:
        explainer, call = new_explainer(random_state=0), _call(setup)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return _coefficients((explainer.explain_instance(image, classify, **call) for image in arrays), targets)

    return forward


def _arrays(images: Tensor) -> list[Images]:
    return [np.ascontiguousarray(image.permute(1, 2, 0)) for image in images]


def _call(setup: Setup) -> dict[str, Any]:
    """The arguments of one pass over the images; the label maps come in their order."""
    maps = iter([labels.numpy() for labels in setup.label_maps])
    return {"num_samples": setup.s, "batch_size": 10, "random_seed": 0, "segmentation_fn": lambda _: next(maps)}


def _coefficients(explanations: Iterable[ImageExplanation], targets: Sequence[int]) -> Array:
    """(n, k), those of the targets."""
    found = (dict(one.local_exp[target]) for one, target in zip(explanations, targets, strict=True))
    return padded(np.array([weights[segment] for segment in range(len(weights))]) for weights in found)


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
