"""The ways from lime's loop to gpulime, each with one thing more: all draw the same masks and explain the same classes.

The first three are small and do what the engine would do without its later parts; from the fourth on it is the engine itself.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

import gpulime
from benchmarks.compiled import needs_a_compiler
from benchmarks.models import MEAN, STD
from benchmarks.setups import Setup
from benchmarks.sides import padded, segment_means
from benchmarks.timer import Array, Forward
from gpulime.ops.masked_images import masked_images

Predict = Callable[[Tensor], Tensor]  # masks (s, k) of an image -> outputs (s,), by its number


def loop(setup: Setup) -> Forward:
    """As lime does it: every row is a copy of the image, hidden segment by segment, and batches go to the model and back."""
    model = setup.model

    @torch.no_grad()
    def classify(rows: list[Array]) -> Array:
        batch = torch.from_numpy(np.array(rows)).permute(0, 3, 1, 2).contiguous().to(setup.device)
        return model(batch).softmax(1).cpu().numpy()

    def outputs(i: int, masks: Tensor) -> Array:
        image, labels = setup.normalised[i], setup.label_maps[i]
        array, fill = (t.permute(1, 2, 0).cpu().numpy() for t in (image, segment_means(image, labels)))
        segments, found, rows = labels.cpu().numpy(), [], []
        for mask in masks.numpy():
            row = copy.deepcopy(array)
            hidden = np.zeros(segments.shape, dtype=bool)
            for segment in np.where(~mask)[0]:
                hidden[segments == segment] = True
            row[hidden] = fill[hidden]
            rows.append(row)
            if len(rows) == 10:
                found.append(classify(rows))
                rows = []
        if rows:
            found.append(classify(rows))
        return np.concatenate(found)[:, int(setup.targets[i])]

    return fitted(setup, outputs)


def batched_masks(setup: Setup) -> Forward:
    """Rows of a batch are masked at once, by indexing."""
    model = setup.model

    @torch.no_grad()
    def outputs(i: int, masks: Tensor) -> Array:
        image, labels = setup.normalised[i], setup.label_maps[i]
        fill, target = segment_means(image, labels), int(setup.targets[i])
        parts = masks.to(setup.device).split(setup.batch)
        rows = (torch.where(part[:, labels][:, None], image, fill) for part in parts)
        return torch.cat([model(batch).softmax(1)[:, target] for batch in rows]).cpu().numpy()

    return fitted(setup, outputs)


def fused_op(setup: Setup) -> Forward:
    """The engine's one operation reads image, fill, labels and masks, and writes rows as the model takes them."""
    model = setup.model

    @torch.no_grad()
    def outputs(i: int, masks: Tensor) -> Array:
        image, labels = setup.normalised[i][None], setup.label_maps[i][None].int()
        fill, target = segment_means(image[0], labels[0].long())[None], int(setup.targets[i])
        parts = masks.to(setup.device).split(setup.batch)
        rows = (masked_images(image, fill, labels, part.new_zeros(len(part), dtype=torch.int64), part) for part in parts)
        return torch.cat([model(batch).softmax(1)[:, target] for batch in rows]).cpu().numpy()

    return fitted(setup, outputs)


def packed_queue(setup: Setup) -> Forward:
    """The engine: one queue for all images, one fit for all; of a function nothing is known, so it gets rows as they come."""
    return engine(setup, setup.model.forward)


def channels_last(setup: Setup) -> Forward:
    """The model as a module, and rows in its memory format."""
    return engine(setup, setup.model)


def compiled_model(setup: Setup) -> Forward:
    """The engine compiles the model."""
    needs_a_compiler()
    return engine(setup, setup.model, compiling=True)


def graphed(setup: Setup) -> Forward:
    """The same, launched as CUDA graphs."""
    needs_a_compiler()
    return engine(setup, setup.model, compiling="reduce-overhead")


@dataclass(frozen=True)
class Rung:
    """One way, and in which precision; ``on``: the only kind of device where it is another than the one before."""

    name: str
    make: Callable[[Setup], Forward]
    precision: str = "float32"
    on: str = ""

    def forward(self, setup: Setup) -> Forward:
        """What explains, made ready."""
        return self.make(replace(setup, precision=self.precision))


RUNGS = (
    Rung("lime's loop", loop),
    Rung("batched masks", batched_masks),
    Rung("fused op", fused_op),
    Rung("packed queue", packed_queue),
    Rung("channels_last", channels_last),
    Rung("bfloat16", channels_last, "bfloat16"),
    Rung("compile", compiled_model, "bfloat16"),
    Rung("CUDA graph", graphed, "bfloat16", on="cuda"),
)


def engine(setup: Setup, model: nn.Module | Predict, compiling: bool | str = False) -> Forward:
    """The engine with that model; the Explainer stays, as one does that explains many batches."""
    images, label_maps, targets = setup.images, setup.label_maps, setup.targets
    how = {"precision": setup.precision, "batch_size": setup.b, "compile": compiling}
    explainer = gpulime.Explainer(model, setup.s, seed=setup.seed, mean=MEAN, std=STD, **how)

    def forward() -> Array:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the model cannot be compiled")  # that would be the rung before
            return explainer.explain(images, labels=targets, segments=label_maps).coefficients[:, 0].cpu().numpy()

    return forward


def fitted(setup: Setup, outputs: Callable[[int, Tensor], Array]) -> Forward:
    """Image after image: masks, outputs, and scikit-learn's ridge."""
    from sklearn.linear_model import Ridge

    sampler = gpulime.masks.resolve(setup.sampler, setup.seed, setup.s)

    def coefficients(i: int) -> Array:
        k = int(setup.label_maps[i].max()) + 1
        masks = sampler(torch.tensor(0), torch.arange(setup.s), torch.tensor(k), k)
        x, y = masks.double(), outputs(i, masks).astype(np.float64)
        weights = (-((1 - x.mean(1).sqrt()) ** 2) / (2 * 0.25**2)).exp()
        return Ridge(alpha=1.0).fit(x.numpy(), y, sample_weight=weights.numpy()).coef_

    return lambda: padded(coefficients(i) for i in range(setup.n))
