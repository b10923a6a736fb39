"""The engine's own parts on a GPU, beside the forwards that they serve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu_kernels import QUICKSHIFT, SLIC, problem
from benchmarks.gpu_rows import Bench, Row, kept
from benchmarks.models import MODELS, model
from benchmarks.pictures import synthetic
from gpulime.ops import masked_images, quickshift, slic

SAMPLES = 1000


def share_of_model(bench: Bench) -> Iterator[Row]:
    """Masking and segmentation of an image, beside its 1000 forwards in ResNet-50."""
    bare, images, rows = _bfloat16(bench, "ResNet-50", 16)
    s, b = _samples(bench), len(rows)
    forwards = bench.times(lambda: _forward(bare, rows)).median * s / b
    masking = bench.times(partial(masked_images.masked_images, *_problem(bench, b))).median * s / b
    for name, op, segmenter in (("slic", slic.slic, SLIC), ("quickshift", quickshift.quickshift, QUICKSHIFT)):
        times = bench.times(partial(op, images, **asdict(segmenter)), most=10)
        share = (masking + times.median / len(images)) / forwards
        row = times.row("share_of_model", f"{name} and masking, ResNet-50", bench, len(images), "images")
        yield kept(row, share, "at most 0.02 of the forwards", share <= 0.02)


def _bfloat16(bench: Bench, name: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, n images, and a batch of rows as it takes them."""
    name, b = ("28x28 CNN", 8) if bench.tiny else (name, 256)
    side = MODELS[name].side
    images = synthetic(n, side, side).to(bench.device)
    rows = images.repeat(-(-b // n), 1, 1, 1)[:b].to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return model(name, str(bench.device)), images, rows


def _forward(model: nn.Module, rows: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(rows.device.type, torch.bfloat16):
        outputs: Tensor = model(rows)
    return outputs


def _samples(bench: Bench) -> int:
    return 60 if bench.tiny else SAMPLES


def _problem(bench: Bench, b: int) -> list[Tensor]:
    side = 24 if bench.tiny else 224
    return problem((2, 3, side, side, 50, b), torch.bfloat16, torch.channels_last, bench.device)
