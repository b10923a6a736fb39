"""Methods to compare with: each explains labels of images by heat maps, or says why it cannot."""

from __future__ import annotations

from gpulime.evaluate.methods.activations import NotCoveredWarning
from gpulime.evaluate.methods.complete import DeepLift, IntegratedGradients, Lrp
from gpulime.evaluate.methods.fgvis import Fgvis
from gpulime.evaluate.methods.gradcam import GradCam
from gpulime.evaluate.methods.gradients import Gradient, GuidedBackprop, Noisy
from gpulime.evaluate.methods.method import Method, NotAvailableError
from gpulime.evaluate.methods.own_relus import own_relus
from gpulime.evaluate.methods.perturbations import KernelShap, Occlusion
from gpulime.evaluate.methods.rise import Rise

METHODS: dict[str, Method] = {
    "gradient": Gradient(),
    "gradcam": GradCam(),
    "ig": IntegratedGradients(),
    "smoothgrad": Noisy(),
    "vargrad": Noisy(kind="vargrad"),
    "guided_backprop": GuidedBackprop(),
    "deeplift": DeepLift(),
    "lrp": Lrp(),
    "occlusion": Occlusion(),
    "kernelshap": KernelShap(),
    "rise": Rise(),
    "fgvis": Fgvis(),
}

__all__ = [
    "METHODS",
    "DeepLift",
    "Fgvis",
    "GradCam",
    "Gradient",
    "GuidedBackprop",
    "IntegratedGradients",
    "KernelShap",
    "Lrp",
    "Method",
    "Noisy",
    "NotAvailableError",
    "NotCoveredWarning",
    "Occlusion",
    "Rise",
    "own_relus",
]
