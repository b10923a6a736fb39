"""captum's Lime and KernelShap, one image at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.setups import Setup
from benchmarks.sides import Array, Forward, padded, segment_means


def captum(setup: Setup) -> Forward:
    """Lime with its defaults, b perturbations a call; it weights by pixels and fits a lasso, so only its time is used."""
    from captum.attr import Lime

    explain = attributed(Lime(classifier(setup)), setup)

    def forward() -> None:
        explain()

    return forward


def captum_lime(setup: Setup) -> Forward:
    """Lime with lime's kernel and ridge: the same estimate, from other masks."""
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    return attributed(Lime(classifier(setup), SkLearnRidge(alpha=1.0), proximity), setup)


def kernel_shap(setup: Setup) -> Forward:
    """KernelShap with its defaults."""
    from captum.attr import KernelShap

    return attributed(KernelShap(classifier(setup)), setup)


def classifier(setup: Setup) -> Any:
    """Normalised rows -> probabilities, without gradients and in channels_last."""
    model = setup.model_channels_last

    @torch.no_grad()
    def classify(rows: Tensor) -> Tensor:
        with setup.autocast():
            outputs = model(rows.contiguous(memory_format=torch.channels_last))
        probabilities: Tensor = outputs.float().softmax(1)
        return probabilities

    return classify


def proximity(image: Tensor, row: Tensor, mask: Tensor, **others: Any) -> Tensor:
    """Lime's weight of a mask (1, k)."""
    del image, row, others
    return (-((1 - mask.double().mean().sqrt()) ** 2) / (2 * 0.25**2)).exp()


def attributed(explainer: Any, setup: Setup) -> Any:
    """Coefficients of all images; a hidden segment shows its mean colour."""
    images, targets = setup.normalised, setup.targets.tolist()

    def explain(i: int) -> Array:
        labels = setup.label_map(i)
        found = explainer.attribute(
            images[i][None],
            baselines=segment_means(images[i], labels)[None],
            target=targets[i],
            feature_mask=labels[None, None],
            n_samples=setup.s,
            perturbations_per_eval=setup.batch,
            return_input_shape=False,
        )
        return found[0].double().cpu().numpy()

    return lambda: padded(explain(i) for i in range(setup.n))
