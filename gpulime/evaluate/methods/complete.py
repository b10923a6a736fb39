"""Methods whose attributions must add up: Integrated Gradients, DeepLIFT and LRP. If they do not, they are not available."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gpulime.evaluate.methods import relevance
from gpulime.evaluate.methods.method import Attribution, Attributor, Classifier, NotAvailableError, check_outputs
from gpulime.evaluate.methods.own_relus import traced


@dataclass(frozen=True)
class Complete(Attribution):
    """Base of methods whose attributions add up to ``score(image) - score(zeros)``, or for LRP to ``score(image)``.

    Zeros are the mean colour, since images are normalised.

    Parameters
    ----------
    tolerance : float
        The largest error of the sum: a share of the change of the score or, if that is larger, of the standard deviation of the
        image's scores over the classes.
    """

    tolerance: float = 0.01

    packages: ClassVar[tuple[str, ...]] = ("captum.attr",)
    from_zero: ClassVar[bool] = True  # False: attributions add up to the score

    def library(self, classifier: Classifier, example: Tensor) -> Attributor:
        """Prepare the library's method, as `Attribution.attributor` does."""
        raise NotImplementedError

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        attribute = self.library(classifier, example)

        def checked(images: Tensor, labels: Tensor) -> Tensor:
            found = attribute(images, labels)
            change, allowed = self.allowed(classifier, images, labels)
            check_outputs(change)
            total = found.detach().flatten(1).sum(1)
            error = (total - change).abs()
            worst = int((error / allowed).nan_to_num(torch.inf).argmax())
            if not bool((error <= allowed).all()):  # NaN, too
                added, right, near = (f"{float(values[worst]):.4g}" for values in (total, change, allowed))
                score = "the score changes by" if self.from_zero else "the score is"
                raise NotAvailableError(
                    f"it is not complete: attributions add up to {added}, and {score} {right} "
                    f"(label {int(labels[worst])}, tolerance {near})"
                )
            return found

        return checked

    def allowed(self, classifier: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What attributions must add up to (b,), and the largest error (b,)."""
        with torch.no_grad():
            outputs = classifier(images)
            change = outputs.gather(1, labels[:, None])[:, 0]
            if self.from_zero:
                change = change - classifier(torch.zeros_like(images[:1]))[0, labels]
        scale = torch.maximum(change.abs(), outputs.std(1, correction=0))
        return change, self.tolerance * scale


@dataclass(frozen=True)
class IntegratedGradients(Complete):
    """Mean gradient on the way from zeros to the image, times the image, by captum.

    Parameters
    ----------
    tolerance : float
        5 % by default, as the paper suggests.
    steps : int
        Gradients for each image, at the points of a Gauss-Legendre quadrature. If attributions do not add up, the number is
        doubled until they do, up to eightfold.

    References
    ----------
    Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017.
    """

    tolerance: float = 0.05
    steps: int = 50

    def library(self, classifier: Classifier, example: Tensor) -> Attributor:
        from captum.attr import IntegratedGradients as Integrated

        integrated = Integrated(classifier)

        def attribute(images: Tensor, labels: Tensor) -> Tensor:
            found = torch.zeros_like(images)
            change, allowed = self.allowed(classifier, images, labels)
            left, steps = torch.arange(len(images), device=images.device), self.steps
            while len(left) and steps <= 8 * self.steps:
                parts = {"n_steps": steps, "internal_batch_size": max(self.at_once, len(left))}
                found[left] = integrated.attribute(images[left], target=labels[left], **parts).to(found.dtype)
                error = (found[left].flatten(1).sum(1) - change[left]).abs()
                left, steps = left[~(error <= allowed[left])], 2 * steps
            return found

        return attribute


@dataclass(frozen=True)
class DeepLift(Complete):
    """DeepLIFT's rescale rule against zeros, by captum, after `own_relus`.

    References
    ----------
    Shrikumar, Greenside and Kundaje, "Learning important features through propagating activation differences", ICML 2017.
    """

    def library(self, classifier: Classifier, example: Tensor) -> Attributor:
        from captum.attr import DeepLift as Lift

        lift = Lift(traced(classifier, example))
        return lambda images, labels: lift.attribute(images, torch.zeros_like(images), target=labels)


@dataclass(frozen=True)
class Lrp(Complete):
    """Layer-wise relevance propagation by zennit, after a pass of torch.fx: `gpulime.evaluate.methods.relevance`.

    The rules are z+ for convolutions and epsilon for linear layers; biases get no relevance, so that relevances add up to the
    score.

    References
    ----------
    Bach, Binder, Montavon, Klauschen, Müller and Samek, "On pixel-wise explanations for non-linear classifier decisions by
    layer-wise relevance propagation", PLOS ONE 2015.
    Montavon, Binder, Lapuschkin, Samek and Müller, "Layer-wise relevance propagation: an overview", 2019.
    """

    packages: ClassVar[tuple[str, ...]] = ("zennit.composites",)
    from_zero: ClassVar[bool] = False

    def library(self, classifier: Classifier, example: Tensor) -> Attributor:
        return relevance.attributor(classifier, example)
