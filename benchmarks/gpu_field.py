"""The engine beside the bare model on a GPU: what share of its forwards a second is explained, and what a night would bring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import repeat

import torch
from torch import Tensor, nn

import gpulime
from benchmarks import gpu_error
from benchmarks.compiled import compiled
from benchmarks.gpu_rows import Bench, Row, Times, kept
from benchmarks.models import MEAN, MODELS, STD, model
from benchmarks.pictures import synthetic
from gpulime.explanations.batch import fetched
from gpulime.images.batch import Batch

SAMPLES = 1000
GRID = gpulime.segments.Grid(7, 7)
NIGHT = 50_000  # images
STEADY_S, WARM_S = 60, 10


@dataclass(frozen=True)
class Subject:
    """A model in bfloat16, the batches among which it has its best, images explained at once, and the least efficiency.

    ``graphs``: each of its batches is launched as one CUDA graph.
    """

    name: str
    batches: tuple[int, ...]
    n: int
    least: float
    graphs: bool = False

    def called(self, bench: Bench) -> str:
        """The model's name, or that of a small one."""
        return "28x28 CNN" if bench.tiny else self.name

    def model(self, bench: Bench) -> nn.Module:
        """Weights in bfloat16 and channels_last."""
        return deepcopy(model(self.called(bench), str(bench.device), channels_last=True)).to(torch.bfloat16)

    def images(self, bench: Bench) -> Tensor:
        """(n, 3, h, w) in [0, 1]."""
        side = MODELS[self.called(bench)].side
        return synthetic(2 if bench.tiny else self.n, side, side).to(bench.device)

    def explainer(self, bench: Bench, bare: nn.Module, b: int, segments: gpulime.segments.Segmenter) -> gpulime.Explainer:
        """The engine, which compiles the model as the bare one is."""
        how = False if bench.tiny else "reduce-overhead" if self.graphs else True
        return gpulime.Explainer(bare, samples(bench), segments, mean=MEAN, std=STD, batch_size=b, compile=how)

    def best(self, bench: Bench, made: nn.Module) -> tuple[int, Times]:
        """The batch with which the compiled model alone sees most rows a second, and the time of one."""
        bare = made if bench.tiny else compiled(made, self.graphs)
        images, found = self.images(bench), []
        for b in (8, 16) if bench.tiny else self.batches:
            rows = images.repeat(-(-b // len(images)), 1, 1, 1)[:b]
            ready = ((rows - MEAN) / STD).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                found.append((b, bench.times(lambda: bare(ready))))  # noqa: B023 (called before the next)
        return min(found, key=lambda one: one[1].median / one[0])

    def error(self, bench: Bench, bare: nn.Module, explainer: gpulime.Explainer, images: Tensor) -> gpu_error.Error:
        """That of the engine which is timed, for the first of the images."""
        explained, image = explainer.explain(images[:1]), (images[0] - MEAN) / STD
        exact = model(self.called(bench), str(bench.device))
        return gpu_error.of(explained, image, samples(bench), exact, lambda rows: bare(rows.to(torch.bfloat16)))


# The rows of all images are a multiple of the batch: what is left over would be filled up.
RESNET50 = Subject("ResNet-50", (250, 500), 16, 0.97)
VIT = Subject("ViT-B/16", (125, 250), 8, 0.98)
CNN28 = Subject("28x28 CNN", (1000, 4000, 16000), 256, 0.80, graphs=True)


def efficiency(bench: Bench, subject: Subject) -> Iterator[Row]:
    """Rows explained in a second, of those that the bare model sees at its best; label maps are a grid, made on the device."""
    bare, images, s = subject.model(bench), subject.images(bench), samples(bench)
    b, alone = subject.best(bench, bare)
    yield alone.row("efficiency", f"{subject.name}, bare forwards, b = {b}", bench, b, "forwards")
    explainer, side = subject.explainer(bench, bare, b, GRID), f"{subject.name}, explained"
    error = subject.error(bench, bare, explainer, images)
    if not error.small:
        yield error.verdict(bench, "efficiency", side)
        return
    engine = bench.times(lambda: explainer.explain(images), seconds=10, most=20, ahead=False)
    share = (len(images) * s / engine.median) / (b / alone.median)
    row = error.beside(engine.row("efficiency", side, bench, len(images) * s, "forwards"))
    yield kept(
        row, share, f"at least {subject.least:g} of the bare model's forwards/s", None if bench.tiny else share >= subject.least
    )


def extrapolation(bench: Bench, subject: Subject = RESNET50) -> Iterator[Row]:
    """A validation set of 50,000 images by what a minute of the queue brings, segmentation and copies back included."""
    bare, images, s = subject.model(bench), (subject.images(bench) * 255).to(torch.uint8), samples(bench)
    b, alone = subject.best(bench, bare)
    segments = GRID if bench.tiny else gpulime.segments.Slic(n_segments=50)
    explainer, side = subject.explainer(bench, bare, b, segments), f"{NIGHT:,} images, {subject.name}"
    error = subject.error(bench, bare, explainer, images / 255)
    if not error.small:
        yield error.verdict(bench, "extrapolation", side)
        return
    rate = steady(explainer, images.cpu(), *((0.1, 0.3) if bench.tiny else (WARM_S, STEADY_S)))
    seconds, implied = NIGHT / rate, NIGHT * s * alone.median / b
    row = error.beside(Row("extrapolation", side, rate=f"{rate:.5g}", unit="images", **bench.place))
    over = seconds / implied
    yield kept(row, over, "at most 1.03 times the best bare forwards' time", None if bench.tiny else over <= 1.03)
    minutes = replace(row, side=f"{row.side}, minutes")
    yield kept(minutes, seconds / 60, "at most 60", None if bench.tiny else seconds < 3600)


def steady(explainer: gpulime.Explainer, images: Tensor, warm: float, least: float) -> float:
    """Images a second of an endless queue, once it has run for ``warm`` seconds, over ``least`` seconds or more.

    As in a run, what is explained is on its way to the CPU while a GPU works on the next.
    """
    begun, since, done = time.perf_counter(), 0.0, 0
    for explanations in fetched(explainer.stream(repeat(Batch(images))), ahead=int(explainer.device.type == "cuda")):
        now = time.perf_counter()
        if since:
            done += len(explanations)
            if now - since >= least:
                return done / (now - since)
        elif now - begun >= warm:
            since = now
    raise AssertionError("the queue has ended")


def samples(bench: Bench) -> int:
    """S."""
    return 60 if bench.tiny else SAMPLES
