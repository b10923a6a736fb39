"""What it brings to compile the writing of rows together with the model: the same masks, batches and fit on both sides.

The engine compiles the model alone, since the number of segments changes from flight to flight. Here it is that of one
photograph, and the compiler makes one graph of the whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.compiled import compiled, needs_a_compiler
from benchmarks.rungs import fitted
from benchmarks.setups import Setup
from benchmarks.sides import segment_means
from benchmarks.timer import Array, Forward
from gpulime.ops.masked_images import masked_images, masked_images_reference

Classify = Callable[..., Tensor]  # what `masked_images` takes -> logits (b, classes)


def op_outside(setup: Setup) -> Forward:
    """As the engine does it: the op, and then the compiled model."""
    model = compiled(setup.model)
    return explained(setup, lambda *given: model(masked_images(*given)))


def op_inside(setup: Setup) -> Forward:
    """The op's definition, which the compiler can see into, and the model, as one graph."""
    needs_a_compiler()
    model = setup.model
    return explained(setup, torch.compile(lambda *given: model(masked_images_reference(*given)), dynamic=False, fullgraph=True))


def explained(setup: Setup, classify: Classify) -> Forward:
    """Image after image, in batches of one size: the last is filled up."""

    @torch.no_grad()
    def outputs(i: int, masks: Tensor) -> Array:
        labels = setup.label_maps[i][None].int()
        image = setup.normalised[i][None]
        fill = segment_means(image[0], labels[0].long())[None]
        dtype = getattr(torch, setup.precision)
        ready = (tensor.to(dtype).contiguous(memory_format=torch.channels_last) for tensor in (image, fill))
        index = torch.zeros(setup.batch, dtype=torch.int64, device=setup.device)
        given, found = (*ready, labels, index), []
        for part in masks.to(setup.device).split(setup.batch):
            full = torch.cat([part, part[:1].expand(setup.batch - len(part), -1)])
            with setup.autocast():
                logits = classify(*given, full)
            found.append(logits[: len(part)].float().softmax(1)[:, int(setup.targets[i])])
        return torch.cat(found).cpu().numpy()

    return fitted(setup, outputs)
