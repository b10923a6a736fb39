"""Our `gpulime.lime_image`, called as lime is."""

from __future__ import annotations

from torch import nn

from benchmarks.peers.lime import arrays, as_tutorials, at_best, call, coefficients, explained
from benchmarks.setups import Setup
from benchmarks.timer import Array, Forward


def drop_in(setup: Setup) -> Forward:
    """The tutorials' code with the import changed."""
    return explained("gpulime.lime_image", setup, setup.images, as_tutorials(setup))


def drop_in_best(setup: Setup) -> Forward:
    """`lime_best` with the import changed."""
    return explained("gpulime.lime_image", setup, setup.normalised, at_best(setup))


def drop_in_module(setup: Setup) -> Forward:
    """The tutorials' code with the import changed and the model given as it is."""
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
