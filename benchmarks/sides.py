"""gpulime, the bare model, and the definition that gives the error; what explains returns the targets' coefficients (n, k)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

import gpulime
from benchmarks.models import MEAN, STD
from benchmarks.pictures import SEGMENTS
from benchmarks.setups import Setup
from benchmarks.timer import Array, Forward


def engine(setup: Setup) -> Forward:
    """gpulime, with a new Explainer at every repeat, so that whatever one learns is paid for."""

    images, targets = setup.images, setup.targets
    label_maps = None if setup.segments else setup.label_maps
    new_explainer = gpulime.Explainer  # imported here

    def forward() -> Array:
        explainer = new_explainer(
            setup.model,
            n_samples=setup.s,
            segments={"slic": {"n_segments": SEGMENTS}},
            sampler=setup.sampler,
            seed=setup.seed,
            mean=MEAN,
            std=STD,
            precision=setup.precision,
            batch_size=setup.b,
        )
        explanations = explainer.explain(images, segments=label_maps).cpu()
        place = (explanations.labels == targets[:, None]).int().argmax(1)
        return explanations.coefficients[torch.arange(setup.n), place].numpy()

    return forward


def bare(setup: Setup) -> Forward:
    """The model alone, at its best: as many rows of photographs, ready in its precision and memory format."""
    b, model = setup.batch, setup.model_channels_last
    rows = setup.normalised.repeat(-(-b // setup.n), 1, 1, 1)[:b]
    rows = rows.to(getattr(torch, setup.precision), memory_format=torch.channels_last)

    def forward() -> None:
        with torch.no_grad(), setup.autocast():
            for left in range(setup.rows, 0, -len(rows)):
                model(rows[:left])

    return forward


def definition(setup: Setup) -> Forward:
    """LIME as its paper has it, image by image, in float32 and with scikit-learn's ridge."""
    from sklearn.linear_model import Ridge

    sampler = gpulime.masks.resolve(setup.sampler, setup.seed, setup.s)

    @torch.no_grad()
    def coefficients(image: Tensor, labels: Tensor, target: int) -> Array:
        k = int(labels.max()) + 1
        masks = sampler(torch.tensor(0), torch.arange(setup.s), torch.tensor(k), k)
        fill = segment_means(image, labels)
        rows = (torch.where(part[:, None, labels], image, fill) for part in masks.to(image.device).split(setup.batch))
        outputs = torch.cat([setup.model(batch).softmax(1)[:, target] for batch in rows]).double().cpu()
        masks = masks.double()
        weights = (-((1 - masks.mean(1).sqrt()) ** 2) / (2 * 0.25**2)).exp()
        return Ridge(alpha=1.0).fit(masks.numpy(), outputs.numpy(), sample_weight=weights.numpy()).coef_

    targets = setup.targets.tolist()
    return lambda: padded(coefficients(*image) for image in zip(setup.normalised, setup.label_maps, targets, strict=True))


def segment_means(image: Tensor, labels: Tensor) -> Tensor:
    """The image (c, h, w) with every segment in its mean colour, as all that explain here hide segments."""
    pixels = labels.flatten().bincount()
    sums = torch.zeros(len(image), len(pixels), dtype=torch.float64, device=image.device)
    sums.index_add_(1, labels.flatten(), image.flatten(1).double())
    return (sums / pixels)[:, labels].to(image.dtype)


def padded(coefficients: Iterable[Array]) -> Array:
    """Put images with different numbers of segments into one array, as gpulime does."""
    rows = list(coefficients)
    k = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, k - len(row))) for row in rows])
