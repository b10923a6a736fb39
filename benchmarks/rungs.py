"""The rungs from lime's loop to gpulime: each adds one thing; all draw the same masks and explain the same classes.

The first three are small loops without the engine's later parts; the others are the engine itself.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import gpulime
from benchmarks.models import MEAN, STD
from benchmarks.setups import Setup
from benchmarks.sides import Array, Forward, fitted, segment_means
from gpulime.ops.masked_images import masked_images, masked_images_reference

Predict = Callable[[Tensor], Tensor]  # rows (b, c, h, w) -> logits (b, classes)
# An image (c, h, w), its segments (h, w), its fill (c, h, w) and masks (s, k) -> arguments of the model, a batch at a time
Batches = Callable[[Tensor, Tensor, Tensor, Tensor], Iterator[tuple[Tensor, ...]]]


def small(setup: Setup, batches: Batches, model: Callable[..., Tensor] | None = None) -> Forward:
    """Explain one image at a time, with the batches that a function makes."""
    classify = model or setup.model

    @torch.no_grad()
    def outputs(i: int, masks: Tensor) -> Tensor:
        image, labels = setup.normalised[i], setup.label_maps[i]
        given = batches(image, labels, segment_means(image, labels), masks.to(setup.device))
        with setup.autocast():
            return torch.cat([classify(*batch).float().softmax(1)[:, int(setup.targets[i])] for batch in given]).cpu()

    return fitted(setup, outputs)


def loop(setup: Setup) -> Forward:
    """Do as lime does: each row is a copy of the image, hidden one segment at a time; the model gets ten rows at a time."""

    def batches(image: Tensor, labels: Tensor, fill: Tensor, masks: Tensor) -> Iterator[tuple[Tensor]]:
        array, filled = (t.permute(1, 2, 0).cpu().numpy() for t in (image, fill))
        segments, rows = labels.cpu().numpy(), []
        for number, mask in enumerate(masks.cpu().numpy(), 1):
            row = copy.deepcopy(array)
            hidden = np.zeros(segments.shape, dtype=bool)
            for segment in np.where(~mask)[0]:
                hidden[segments == segment] = True
            row[hidden] = filled[hidden]
            rows.append(row)
            if len(rows) == 10 or number == len(masks):
                yield (torch.from_numpy(np.array(rows)).permute(0, 3, 1, 2).contiguous().to(setup.device),)
                rows = []

    return small(setup, batches)


def batched_masks(setup: Setup) -> Forward:
    """Mask the rows of a batch at once, by indexing."""

    def batches(image: Tensor, labels: Tensor, fill: Tensor, masks: Tensor) -> Iterator[tuple[Tensor]]:
        return ((torch.where(part[:, labels][:, None], image, fill),) for part in masks.split(setup.batch))

    return small(setup, batches)


def fused_op(setup: Setup) -> Forward:
    """Make rows with the engine's operation, which reads image, fill, labels and masks, and writes the model's input."""
    return small(setup, arguments(setup), lambda *given: setup.model(masked_images(*given)))


def op_outside(setup: Setup) -> Forward:
    """The op and then the compiled model, as in the engine, with the sizes of one photograph."""
    model = torch.compile(setup.model, dynamic=False)
    return small(setup, arguments(setup, torch.channels_last), lambda *given: model(masked_images(*given)))


def op_inside(setup: Setup) -> Forward:
    """The op's definition, which the compiler can trace, and the model, as one compiled graph."""
    model = setup.model
    whole = torch.compile(lambda *given: model(masked_images_reference(*given)), dynamic=False, fullgraph=True)
    return small(setup, arguments(setup, torch.channels_last), whole)


def arguments(setup: Setup, memory_format: torch.memory_format = torch.contiguous_format) -> Batches:
    """The arguments of `masked_images`, in the setup's precision."""

    def batches(image: Tensor, labels: Tensor, fill: Tensor, masks: Tensor) -> Iterator[tuple[Tensor, ...]]:
        dtype = getattr(torch, setup.precision)
        images = [one[None].to(dtype).contiguous(memory_format=memory_format) for one in (image, fill)]
        index = torch.zeros(len(masks), dtype=torch.int64, device=masks.device)
        return ((*images, labels[None].int(), index[: len(part)], part) for part in masks.split(setup.batch))

    return batches


def packed_queue(setup: Setup) -> Forward:
    """The engine: one queue for all images, one fit for all; rows for a function are contiguous."""
    return engine(setup, setup.model.forward)


def channels_last(setup: Setup) -> Forward:
    """The model as a module, and rows in its memory format."""
    return engine(setup, setup.model)


def compiled_model(setup: Setup) -> Forward:
    """The engine compiles the model."""
    return engine(setup, setup.model, compiling=True)


def graphed(setup: Setup) -> Forward:
    """The same, launched as CUDA graphs."""
    return engine(setup, setup.model, compiling="reduce-overhead")


@dataclass(frozen=True)
class Rung:
    """One way of explaining, in one precision; ``on``: the only kind of device where it differs from the rung before."""

    name: str
    make: Callable[[Setup], Forward]
    precision: str = "float32"
    on: str = ""


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
    """The engine with that model; the Explainer is kept between calls."""
    images, label_maps, targets = setup.images, setup.label_maps, setup.targets
    how = {"precision": setup.precision, "batch_size": setup.b, "compile": compiling}
    explainer = gpulime.Explainer(model, setup.s, seed=setup.seed, mean=MEAN, std=STD, **how)

    def forward() -> Array:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="the model cannot be compiled")  # that would be the rung before
            return explainer.explain(images, labels=targets, segments=label_maps).coefficients[:, 0].cpu().numpy()

    return forward
