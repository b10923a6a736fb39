"""FGVis: a mask of pixels and channels, optimised to take away the label's evidence, and a defence against false evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.evaluate.methods.activations import warn_of_others
from gpulime.evaluate.methods.method import Attribution, Attributor, Classifier, NotAvailableError
from gpulime.evaluate.methods.own_relus import matching, own_relus

LEAST = 0.1  # of the image's probability, at which an image is finished
ROUNDING = 1.0001  # of activations, which are no further than this beyond those of the image


@dataclass(frozen=True)
class Fgvis(Attribution):
    """FGVis in its deletion game: the least change of the image, towards 0, that takes the label's probability away.

    A mask of pixels and channels starts at 1. Each step of gradient descent lowers ``p + sparsity * mean(1 - mask)``, for the
    softmax probability p of the image times the mask, divided by that of the image; the gradient's largest entry is scaled to
    1. An image is finished once p has fallen to a tenth. The map is ``1 - mask``, by default summed over the channels.

    The defence: at each ReLU, gradients of units beyond their activation for the image itself are set to 0. Otherwise the mask
    draws patterns that lower p as adversarial examples do, and are no evidence in the image.
    Other activations are not defended; a `NotCoveredWarning` names them.

    The steps amplify rounding: on a deep network in float32 an image's map may differ visibly with the other images of its
    batch, also with a mask in float64. ``at_once=1`` optimises each image alone, so that its map is the same in any batch.

    Parameters
    ----------
    steps : int, at most
    step : float
        Length of a step, of the entry with the largest gradient.
    sparsity : float
    defence : bool

    References
    ----------
    Wagner, Köhler, Gindele, Hetzel, Wiedemer and Behnke, "Interpretable and fine-grained visual explanations for convolutional
    neural networks", CVPR 2019.
    """

    steps: int = 500
    step: float = 0.1
    sparsity: float = 1e-3
    defence: bool = True

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        model = matching(Classifier(own_relus(classifier.model, split=False)).eval(), classifier, example)
        if not any(map(_is_relu, model.modules())):
            raise NotAvailableError("the model has no ReLU, for which FGVis defines its defence")
        if self.defence:
            warn_of_others(model, "FGVis' defence")

        def attribute(images: Tensor, labels: Tensor) -> Tensor:
            with defended(model, images) if self.defence else nullcontext():
                return 1 - self._mask(model, images, labels)

        return attribute

    def _mask(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Optimise masks (b, c, h, w)."""
        mask, first = torch.ones_like(images), None
        for _ in range(self.steps):
            mask.requires_grad_()
            outputs = model(mask * images)
            probabilities = outputs.sigmoid() if outputs.shape[1] == 1 else outputs.softmax(1)
            probability = probabilities.gather(1, labels[:, None])[:, 0]
            first = probability.detach() if first is None else first
            left = probability / first
            active = left.detach() > LEAST
            if not bool(active.any()):
                break
            loss = left + self.sparsity * (1 - mask).flatten(1).mean(1)
            (slope,) = torch.autograd.grad(loss.sum(), mask)
            largest = slope.flatten(1).abs().amax(1).clamp(min=1e-30)
            pace = self.step * active / largest
            mask = (mask.detach() - pace[:, None, None, None] * slope).clamp(0, 1)
        return mask.detach()


@contextmanager
def defended(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Set gradients of units to 0 in which the activation is beyond that for the images (b, c, h, w)."""
    bounds: dict[nn.Module, Tensor] = {}

    def note(part: nn.Module, _: Any, output: Tensor) -> None:
        bounds[part] = ROUNDING * output

    def defend(part: nn.Module, _: Any, output: Tensor) -> None:
        inside = output.detach() <= bounds[part]
        output.register_hook(lambda slope: slope * inside)

    with hooked(model, note), torch.no_grad():
        model(images)
    with hooked(model, defend):
        yield


@contextmanager
def hooked(model: nn.Module, hook: Callable[[nn.Module, Any, Tensor], None]) -> Iterator[None]:
    """Register a forward hook on all ReLUs of a model."""
    handles = [part.register_forward_hook(hook) for part in model.modules() if _is_relu(part)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_relu(part: nn.Module) -> bool:
    """True for a ReLU, or a ReLU6 as `own_relus` makes it."""
    return isinstance(part, nn.ReLU) or (isinstance(part, nn.Hardtanh) and part.min_val == 0)
