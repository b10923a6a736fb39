"""Grad-CAM at the last convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gpulime.evaluate.methods.method import Attribution, Attributor, Classifier, NotAvailableError


@dataclass(frozen=True)
class GradCam(Attribution):
    """Activations of a layer, weighted by the mean gradient of their channel, upsampled to the image; by captum.

    Parameters
    ----------
    layer : str, optional
        Name of the layer in the model; by default its last convolution with an output of more than one pixel.
    relu : bool
        True sets negative values to 0, as the paper does. The zeros are ties, so by default they are kept: the order of the
        other pixels is the same.

    References
    ----------
    Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV 2017.
    """

    layer: str | None = None
    relu: bool = False

    packages: ClassVar[tuple[str, ...]] = ("captum.attr",)

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        from captum.attr import LayerAttribution, LayerGradCam

        layer = last_convolution(classifier, example) if self.layer is None else classifier.get_submodule(f"model.{self.layer}")
        cam, size = LayerGradCam(classifier, layer), tuple(example.shape[2:])

        def attribute(images: Tensor, labels: Tensor) -> Tensor:
            coarse = cam.attribute(images, target=labels, relu_attributions=self.relu)
            found: Tensor = LayerAttribution.interpolate(coarse, size, "bilinear")
            return found

        return attribute


def last_convolution(model: nn.Module, example: Tensor) -> nn.Module:
    """Find the last convolution of a forward whose output has more than one pixel.

    Raises
    ------
    NotAvailableError
        If there is none.
    """
    found: list[nn.Module] = []

    def note(part: nn.Module, _: Any, output: Tensor) -> None:
        if output.shape[-2:].numel() > 1:
            found.append(part)

    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    handles = [part.register_forward_hook(note) for part in convolutions]
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise NotAvailableError(f"the model has no convolution with more than one pixel, of {len(convolutions)} convolutions")
    return found[-1]
