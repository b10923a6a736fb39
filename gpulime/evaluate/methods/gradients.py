"""Gradient, SmoothGrad, VarGrad and Guided Backprop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gpulime.evaluate.methods.activations import other_activations, warn_of_others
from gpulime.evaluate.methods.method import Attribution, Attributor, Classifier, NotAvailableError
from gpulime.evaluate.methods.own_relus import traced


@dataclass(frozen=True)
class Gradient(Attribution):
    """Gradient of the label's score with respect to the image.

    References
    ----------
    Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", ICLR 2014 workshop.
    """

    channels: str = "abs"

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        return lambda images, labels: gradient(classifier, images, labels)


@dataclass(frozen=True)
class Noisy(Attribution):
    """Gradients at ``draws`` noisy copies of the image, by captum: their mean (SmoothGrad) or variance (VarGrad).

    Parameters
    ----------
    kind : "smoothgrad" or "vargrad"
    draws : int
    spread : float
        Standard deviation of the noise, as a share of the image's range.
    seed : int
        Seed of the noise, which is the same for each image.

    References
    ----------
    Smilkov, Thorat, Kim, Viegas and Wattenberg, "SmoothGrad", 2017.
    Adebayo, Gilmer, Goodfellow and Kim, "Local explanation methods for deep neural networks lack sensitivity to parameter
    values", ICLR 2018 workshop (VarGrad).
    Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018 (draws and spread).
    """

    channels: str = "abs"
    kind: str = "smoothgrad"
    draws: int = 50
    spread: float = 0.15
    seed: int = 0

    packages: ClassVar[tuple[str, ...]] = ("captum.attr",)

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        from captum.attr import NoiseTunnel, Saliency

        tunnel = NoiseTunnel(Saliency(classifier))

        def one(image: Tensor, label: Tensor) -> Tensor:
            spread = self.spread * float(image.max() - image.min())
            noise = {"nt_samples": self.draws, "nt_samples_batch_size": self.at_once, "stdevs": spread}
            with torch.random.fork_rng([image.device] if image.is_cuda else [], device_type="cuda"):
                torch.manual_seed(self.seed)
                found: Tensor = tunnel.attribute(image[None], nt_type=self.kind, target=label, abs=False, **noise)
            return found.detach()

        return lambda images, labels: torch.cat([one(*pair) for pair in zip(images, labels, strict=True)])


@dataclass(frozen=True)
class GuidedBackprop(Attribution):
    """Gradient in which every ReLU passes back only positive gradients, by captum.

    Other activations pass back their plain gradient; a `NotCoveredWarning` names them.

    References
    ----------
    Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for simplicity", ICLR 2015 workshop.
    """

    channels: str = "abs"

    packages: ClassVar[tuple[str, ...]] = ("captum.attr",)

    @property
    def plain(self) -> Gradient:
        """The plain gradient, which equals this method if no gradient at a ReLU is negative."""
        return Gradient(self.channels, self.at_once)

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        from captum.attr import GuidedBackprop as Guided

        model = traced(classifier, example)
        if not any(isinstance(part, nn.ReLU) for part in model.modules()):
            others = ", ".join(other_activations(model))
            has = f" among its activations, {others}" if others else ""
            raise NotAvailableError(f"the model has no ReLU{has}: Guided Backprop would be the gradient")
        warn_of_others(model, "Guided Backprop")
        guided = Guided(model)
        return lambda images, labels: guided.attribute(images, target=labels)


def gradient(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient (b, c, h, w) of each image's label (b,)."""
    images = images.detach().requires_grad_()
    chosen = classifier(images).gather(1, labels[:, None])
    return torch.autograd.grad(chosen.sum(), images)[0]
