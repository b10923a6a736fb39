"""Methods to compare with: each explains labels of images by heat maps, or says why it cannot."""

from __future__ import annotations

from gpulime.evaluate.methods.complete import DeepLift, IntegratedGradients, Lrp
from gpulime.evaluate.methods.gradcam import GradCam
from gpulime.evaluate.methods.gradients import Gradient, GuidedBackprop, Noisy
from gpulime.evaluate.methods.method import Method, NotAvailableError
from gpulime.evaluate.methods.own_relus import own_relus

METHODS: dict[str, Method] = {
    "gradient": Gradient(),
    "gradcam": GradCam(),
    "ig": IntegratedGradients(),
    "smoothgrad": Noisy(),
    "vargrad": Noisy(kind="vargrad"),
    "guided_backprop": GuidedBackprop(),
    "deeplift": DeepLift(),
    "lrp": Lrp(),
}

__all__ = [
    "METHODS",
    "DeepLift",
    "GradCam",
    "Gradient",
    "GuidedBackprop",
    "IntegratedGradients",
    "Lrp",
    "Method",
    "Noisy",
    "NotAvailableError",
    "own_relus",
]
