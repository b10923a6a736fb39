"""BAM: attributions of objects that are known to matter to one model, and not to another.

Yang and Kim, "Benchmarking Attribution Methods with Relative Feature Importance", 2019. Images are scenes with an object pasted
into them. The object matters to a model that learned the objects, and not to one that learned the scenes. Only images that all
models involved classify right count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.errors import check
from gpulime.evaluate.method_maps import check_images
from gpulime.evaluate.methods.method import Method
from gpulime.evaluate.object_attributions import attributions
from gpulime.evaluate.patches import insignificant_patches

__all__ = ["Score", "idr", "iir", "insignificant_patches", "mcs", "relative_mcs"]

LEAST_CHANGE = 0.1  # relative, of an attribution, that counts as one


@dataclass(frozen=True, eq=False)
class Score:
    """A score of BAM over n images.

    Attributes
    ----------
    values : (n,) float64, of each image; NaN for images that do not count
    reasons : dict of image -> str, why it does not count
    """

    values: Tensor
    reasons: dict[int, str]

    @property
    def count(self) -> int:
        """Number of images that count."""
        return len(self.values) - len(self.reasons)

    @property
    def mean(self) -> float:
        """The score: the mean over images that count; NaN if there is none."""
        return float(self.values.nanmean())

    def __str__(self) -> str:
        counts = {why: list(self.reasons.values()).count(why) for why in self.reasons.values()}
        left_out = "; ".join(f"{count} left out: {why}" for why, count in counts.items())
        return f"{self.mean:.3f} over {self.count} of {len(self.values)} images" + f" ({left_out})" * bool(left_out)


def mcs(
    object_model: nn.Module,
    scene_model: nn.Module,
    images: Tensor,
    objects: Tensor,
    object_labels: Any,
    scene_labels: Any,
    method: Method,
) -> Score:
    """Model contrast score: the object's attribution for the model of objects, less that for the model of scenes.

    Parameters
    ----------
    object_model, scene_model : nn.Module
        Trained on the same images, with the objects and with the scenes as classes.
    images : (n, c, h, w) float
        With an object, as the models take them.
    objects : (n, h, w) bool
        True on the object's pixels.
    object_labels, scene_labels : (n,) integers
        The right classes, which are explained.
    method : callable
        (model, images, labels (n, l)) -> maps (n, l, h, w); `gpulime.evaluate.as_method` makes one of an explainer. Each map's
        positive part is clipped at its 99th percentile and scaled to [0, 1]; an attribution is its mean over the object.

    Returns
    -------
    Score, from -1 to 1; high is good

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    """
    first, reasons = attributions("object model", object_model, images, objects, object_labels, method)
    second, more = attributions("scene model", scene_model, images, objects, scene_labels, method)
    return _score(first - second, more | reasons)


def relative_mcs(
    models: Mapping[int, nn.Module], images: Tensor, objects: Tensor, labels: Any, method: Method
) -> dict[int, Score]:
    """Model contrast scores of models by commonality k: the number of classes whose training images have the object.

    The more classes have it, the less it tells, so scores should fall with k.

    Parameters
    ----------
    models : mapping of k to nn.Module
        Models of scenes. The one with the largest k is the reference: the object matters least to it.
    images, objects, method
        As for `mcs`.
    labels : (n,) integers
        The right scenes.

    Returns
    -------
    dict of k -> Score, the attribution for the model of k less that for the reference, without the reference itself

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    """
    check(len(models) > 1, f"models must have at least two, by their commonality k; got {list(models)}")
    found = {
        k: attributions(f"model of k = {k}", model, images, objects, labels, method) for k, model in sorted(models.items())
    }
    reference, more = found.pop(max(found))
    return {k: _score(values - reference, more | reasons) for k, (values, reasons) in found.items()}


def idr(scene_model: nn.Module, images: Tensor, scenes: Tensor, objects: Tensor, labels: Any, method: Method) -> Score:
    """Input dependence rate: the share of images in which the object gets less attribution than the scene that it hides.

    Parameters
    ----------
    scene_model : nn.Module
        A model to which the object does not matter: it learned scenes with objects.
    images, scenes : (n, c, h, w) float
        With and without the object.
    objects, method
        As for `mcs`.
    labels : (n,) integers
        The right scenes.

    Returns
    -------
    Score, 0 to 1; high is good, and 1 less it is the rate of false positives

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    """
    _check_pairs(images, scenes)
    hidden, reasons = attributions("model without the object", scene_model, scenes, objects, labels, method)
    shown, more = attributions("model with the object", scene_model, images, objects, labels, method)
    return _score((hidden > shown).double(), more | reasons)


def iir(
    scene_only_model: nn.Module,
    patched: Tensor,
    scenes: Tensor,
    objects: Tensor,
    labels: Any,
    method: Method,
    least_change: float = LEAST_CHANGE,
) -> Score:
    """Input independence rate: the share of scenes whose attribution stays the same under a patch that changes no output.

    Parameters
    ----------
    scene_only_model : nn.Module
        A model of scenes that saw no object in training.
    patched : (n, c, h, w) float
        Scenes with patches that look like objects and hardly change the model's output, from `insignificant_patches`.
    scenes, objects, labels, method
        As for `idr`. The attribution is that of the object's pixels.
    least_change : float
        A change of the attribution by this share or more counts as one.

    Returns
    -------
    Score, 0 to 1; high is good

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    """
    _check_pairs(patched, scenes)
    before, reasons = attributions("model of the scene", scene_only_model, scenes, objects, labels, method)
    after, more = attributions("model of the patched scene", scene_only_model, patched, objects, labels, method)
    return _score(((before - after).abs() < least_change * before).double(), more | reasons)


def _score(values: Tensor, reasons: dict[int, str]) -> Score:
    counts = torch.tensor([i not in reasons for i in range(len(values))], device=values.device)
    return Score(torch.where(counts, values, torch.nan), dict(sorted(reasons.items())))


def _check_pairs(images: Tensor, scenes: Tensor) -> None:
    check_images(images)
    check_images(scenes, "scenes")
    check(images.shape == scenes.shape, f"scenes must be {tuple(images.shape)}, as images are; got {tuple(scenes.shape)}")
