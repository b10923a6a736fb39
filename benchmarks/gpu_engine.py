"""The engine's own parts on a GPU, beside the forwards that they serve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor, nn

import gpulime
from benchmarks import gpu_error
from benchmarks.gpu_kernels import QUICKSHIFT, SLIC, problem
from benchmarks.gpu_rows import Bench, Row, kept
from benchmarks.models import MODELS, model
from benchmarks.pictures import synthetic
from gpulime.ops import masked_images, quickshift, slic

SAMPLES = 1000
TOLERANCE = 0.05  # of a probability: a compiler rounds to bfloat16 at other places
NAMES = ("ResNet-50", "ViT-B/16", "28x28 CNN")
GRID = gpulime.segments.Grid(7, 7)


def share_of_model(bench: Bench) -> Iterator[Row]:
    """Masking and segmentation of an image, beside its 1000 forwards in ResNet-50."""
    bare, images, rows = _bfloat16(bench, "ResNet-50", 16)
    s, b = _samples(bench), len(rows)
    forwards = bench.times(lambda: _forward(bare, rows)).median * s / b
    masking = bench.times(partial(masked_images.masked_images, *_problem(bench, b))).median * s / b
    for name, op, segmenter in (("slic", slic.slic, SLIC), ("quickshift", quickshift.quickshift, QUICKSHIFT)):
        side, k = f"{name} and masking, ResNet-50", int(op(images[:1], **asdict(segmenter)).max()) + 1
        samples = max(s, 2 * k)
        explainer = gpulime.Explainer(bare, samples, segmenter, precision="bfloat16", batch_size=b)
        explained = explainer.explain(images[:1])
        error = gpu_error.of(explained, images[0], samples, bare, partial(_forward, bare))
        if not error.small:
            yield error.verdict(bench, "share_of_model", side)
            continue
        times = bench.times(partial(op, images, **asdict(segmenter)), most=10)
        share = (masking + times.median / len(images)) / forwards
        row = error.beside(times.row("share_of_model", side, bench, len(images), "images"))
        yield kept(row, share, "at most 0.02 of the forwards", share <= 0.02)


def compiled(bench: Bench) -> Iterator[Row]:
    """What is explained in a second with the model compiled, beside the same without; compiling is done before the clock."""
    for name in NAMES:
        try:
            bare, images, rows = _bfloat16(bench, name, 2 if bench.tiny else 16)
        except ModuleNotFoundError as missing:
            print(f"{name}: left out, {missing}", flush=True)
            continue
        s, before = _samples(bench), None
        for mode in (False, True, "reduce-overhead"):
            explainer = gpulime.Explainer(
                bare, n_samples=s, segments=GRID, precision="bfloat16", batch_size=len(rows), compile=mode
            )
            explainer.explain(images)
            times = bench.times(lambda: explainer.explain(images), seconds=5, most=20, ahead=False)  # noqa: B023
            side = f"{name}, {f'compile={mode!r}' if mode else 'as it is'}"
            if before is None:
                before, expected = times, explainer.explain(images)
            found = explainer.explain(images, expected.labels).predictions
            error = float((found / expected.predictions - 1).abs().max())
            if not error <= TOLERANCE:
                yield bench.verdict("compiled", side, f"probabilities differ by {error:.2g} of themselves")
                continue
            row = times.row("compiled", side, bench, len(images) * s, "forwards")
            row = replace(row, error=f"{error:.2g}", error_limit=f"{TOLERANCE:g}")
            yield kept(row, before.median / times.median, "times the engine without compiling")


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
