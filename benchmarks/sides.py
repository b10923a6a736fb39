"""gpulime, the bare model, and the definition that gives the error; what explains returns the targets' coefficients (n, k)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gpulime
from benchmarks.models import MEAN, STD
from benchmarks.pictures import SEGMENTS
from benchmarks.setups import Setup
from benchmarks.timer import Array, Forward

Classifier = Callable[[Tensor], Tensor]  # rows (b, c, h, w) -> logits (b, classes)


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
    """LIME as its paper has it, image by image and with scikit-learn's ridge; the reference where the setup says float32."""
    sampler, targets = gpulime.masks.resolve(setup.sampler, setup.seed, setup.s), setup.targets.tolist()

    def classify(rows: Tensor) -> Tensor:
        with setup.autocast():
            outputs: Tensor = setup.model(rows)
        return outputs

    def coefficients(image: Tensor, labels: Tensor, target: int) -> Array:
        k = int(labels.max()) + 1
        masks = sampler(torch.tensor(0), torch.arange(setup.s), torch.tensor(k), k)
        return defined(classify, image, labels, target, masks, setup.batch)

    return lambda: padded(coefficients(*image) for image in zip(setup.normalised, setup.label_maps, targets, strict=True))


@torch.no_grad()
def defined(classify: Classifier, image: Tensor, labels: Tensor, target: int, masks: Tensor, b: int) -> Array:
    """The coefficients (k,) of an image (c, h, w), its segments (h, w) and a class, from masks (s, k), b rows at a time."""
    from sklearn.linear_model import Ridge

    fill = segment_means(image, labels)
    rows = (torch.where(part[:, None, labels], image, fill) for part in masks.to(image.device).split(b))
    with without_tf32():
        outputs = torch.cat([classify(batch).float().softmax(1)[:, target] for batch in rows]).double().cpu()
    masks = masks.double()
    weights = (-((1 - masks.mean(1).sqrt()) ** 2) / (2 * 0.25**2)).exp()
    return Ridge(alpha=1.0).fit(masks.numpy(), outputs.numpy(), sample_weight=weights.numpy()).coef_


@contextmanager
def without_tf32() -> Iterator[None]:
    """Inside it a GPU's convolutions take float32 as it is; by default PyTorch lets them round it."""
    cudnn: Any = torch.backends.cudnn
    new = hasattr(cudnn, "conv")  # PyTorch 2.6 has one flag for all, which later ones warn of
    of, name, off = (cudnn.conv, "fp32_precision", "ieee") if new else (cudnn, "allow_tf32", False)
    before = getattr(of, name)
    setattr(of, name, off)
    try:
        yield
    finally:
        setattr(of, name, before)


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
