"""Measure the engine on a GPU: beside the bare model's forwards, extrapolated to a night, compiled, and in parts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import repeat
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import gpulime
from benchmarks.gpu_kernels import QUICKSHIFT, SLIC, problem
from benchmarks.gpu_rows import Bench, Row
from benchmarks.models import MEAN, MODELS, STD, model, synthetic
from benchmarks.sides import BFLOAT16, tolerance
from gpulime import device as devices
from gpulime.bench.bare import Bare
from gpulime.images.batch import Batch
from gpulime.ops import masked_images, quickshift, slic

GRID = gpulime.segments.Grid(7, 7)
NIGHT = 50_000  # images
STEADY_S, WARM_S = 60, 10
TOLERANCE = 0.05  # of a probability: a compiler rounds to bfloat16 at other places


@dataclass(frozen=True)
class Subject:
    """A model in bfloat16, the batch sizes to try, images explained at once, and the least efficiency."""

    name: str
    batches: tuple[int, ...]
    n: int
    least: float
    graphs: bool = False  # each batch is launched as one CUDA graph


# The rows of all images are a multiple of the batch, so that every batch is full.
RESNET50 = Subject("ResNet-50", (250, 500), 16, 0.97)
VIT = Subject("ViT-B/16", (125, 250), 8, 0.98)
CNN28 = Subject("28x28 CNN", (1000, 4000, 16000), 256, 0.80, graphs=True)


class Made:
    """A subject's model, images (n, 3, h, w) in [0, 1] and best bare forwards, or those of a small one for a trial."""

    def __init__(self, bench: Bench, subject: Subject) -> None:
        self.bench, self.name = bench, "28x28 CNN" if bench.tiny else subject.name
        self.compile: bool | str = "reduce-overhead" if subject.graphs else True
        self.title = subject.name  # in rows
        if bench.tiny or bench.uncompiled:
            self.compile = False
        if not bench.tiny and bench.uncompiled:
            self.title += ", uncompiled"
        self.exact = model(self.name, str(bench.device))
        self.model = deepcopy(model(self.name, str(bench.device), channels_last=True)).to(torch.bfloat16)
        side = MODELS[self.name].side
        self.images = synthetic(2 if bench.tiny else subject.n, side, side).to(bench.device)
        tried = [(b, self._bare(b)) for b in ((8, 16) if bench.tiny else subject.batches)]
        self.b, self.alone = min(tried, key=lambda one: median(one[1]) / one[0])
        self.bare_rate = self.b / median(self.alone)

    def _bare(self, b: int) -> tuple[float, ...]:
        """Seconds of a batch of the model alone."""
        rows = self.images.repeat(-(-b // len(self.images)), 1, 1, 1)[:b]
        bare = Bare(self.model, ((rows - MEAN) / STD).to(torch.bfloat16), torch.float32, last=True, compile=self.compile)
        with torch.no_grad():
            return self.bench.times(lambda: bare.model(bare.rows))

    def explainer(self, segments: gpulime.segments.Segmenter) -> gpulime.Explainer:
        """Make the engine, with the model compiled in the same way as the bare one."""
        how = {"mean": MEAN, "std": STD, "batch_size": self.b, "compile": self.compile}
        return gpulime.Explainer(self.model, self.bench.samples, segments, **how)

    def error(self, explainer: gpulime.Explainer) -> tuple[float, float]:
        """The error of the first image's coefficients, and the largest allowed one."""
        image = (self.images[0] - MEAN) / STD
        explained = explainer.explain(self.images[:1])
        return self.bench.error(explained, image, self.exact, lambda rows: self.model(rows.to(torch.bfloat16)))


def efficiency(bench: Bench, subject: Subject) -> Iterator[Row]:
    """Rows explained per second, relative to the bare model's best rate; label maps are a grid, made on the device."""
    made = Made(bench, subject)
    explainer, s, side = made.explainer(GRID), bench.samples, f"{made.title}, explained"
    yield bench.row("efficiency", f"{made.title}, bare forwards, b = {made.b}", made.alone, made.b, "forwards")
    error, most = made.error(explainer)
    if not error <= most:
        yield bench.wrong("efficiency", side, error, most)
        return
    times = bench.times(lambda: explainer.explain(made.images), seconds=10, most=20, ahead=False)
    rows = len(made.images) * s
    share = rows / median(times) / made.bare_rate
    row = bench.row("efficiency", side, times, rows, "forwards").erring(error, most)
    holds = None if bench.tiny else share >= subject.least
    yield row.kept(share, f"at least {subject.least:g} of the bare model's forwards/s", holds)


def fewer(bench: Bench, subject: Subject = RESNET50) -> Iterator[Row]:
    """The queue with ``quality="fast"`` and "high", whose fit takes longer than lime's, beside the forwards that they need."""
    made = Made(bench, subject)
    images = (made.images.repeat(1 if bench.tiny else 4, 1, 1, 1) * 255).round().to(torch.uint8).cpu()
    exact = made.exact.to(memory_format=torch.channels_last)
    for quality in ("fast",) if bench.tiny else ("fast", "high"):
        side = f"{made.title}, quality={quality!r}"
        how: dict[str, Any] = {"segments": GRID, "mean": MEAN, "std": STD, "batch_size": made.b, "quality": quality}
        explainer = gpulime.Explainer(made.model, compile=made.compile, **how)
        found = explainer.explain(made.images)
        plain, rounded = (
            gpulime.Explainer(model, **how).explain(made.images, found.labels).coefficients for model in (exact, made.model)
        )
        error, noise = (float((some - plain).abs().max() / plain.abs().max()) for some in (found.coefficients, rounded))
        most = tolerance("cuda", "bfloat16", BFLOAT16, lambda: noise)  # noqa: B023
        if not error <= most:
            yield bench.wrong("fewer", side, error, most)
            continue
        rate = steady(explainer, images, *((0.1, 0.3) if bench.tiny else (3, 10)))
        share = rate * int(found.samples[0]) / made.bare_rate
        row = Row("fewer", side, rate=f"{rate:.5g}", unit="images", **bench.place).erring(error, most)
        yield row.kept(share, "at least 0.95 of the bare model's forwards/s", None if bench.tiny else share >= 0.95)


def extrapolation(bench: Bench, subject: Subject = RESNET50) -> Iterator[Row]:
    """A validation set of 50,000 images from a minute of the queue, with segmentation and copies back."""
    made = Made(bench, subject)
    side = f"{NIGHT:,} images, {made.title}"
    made.images = (made.images * 255).to(torch.uint8) / 255  # as they are read
    explainer = made.explainer(GRID if bench.tiny else gpulime.segments.Slic(n_segments=50))
    error, most = made.error(explainer)
    if not error <= most:
        yield bench.wrong("extrapolation", side, error, most)
        return
    images = (made.images * 255).round().to(torch.uint8).cpu()
    rate = steady(explainer, images, *((0.1, 0.3) if bench.tiny else (WARM_S, STEADY_S)))
    seconds, implied = NIGHT / rate, NIGHT * bench.samples / made.bare_rate
    row = Row("extrapolation", side, rate=f"{rate:.5g}", unit="images", **bench.place).erring(error, most)
    over = seconds / implied
    yield row.kept(over, "at most 1.03 times the best bare forwards' time", None if bench.tiny else over <= 1.03)
    minutes = replace(row, side=f"{row.side}, minutes")
    yield minutes.kept(seconds / 60, "at most 60", None if bench.tiny else seconds < 3600)


def steady(explainer: gpulime.Explainer, images: Tensor, warm: float, least: float) -> float:
    """Images per second of an endless queue after ``warm`` seconds, over ``least`` seconds or more."""
    begun, since, done = time.perf_counter(), 0.0, 0
    for explanations in _fetched(explainer, repeat(Batch(images))):
        now = time.perf_counter()
        if since:
            done += len(explanations)
            if now - since >= least:
                return done / (now - since)
        elif now - begun >= warm:
            since = now
    raise AssertionError("the queue has ended")


def _fetched(explainer: gpulime.Explainer, batches: Iterable[Batch]) -> Iterator[gpulime.Explanations]:
    """Explanations on the CPU; as in a run, they are copied there while a GPU works on the next ones."""
    ahead, coming = int(explainer.device.type == "cuda"), deque[Callable[[], gpulime.Explanations]]()
    for explanations in explainer.stream(batches):
        coming.append(explanations.fetching())
        if len(coming) > ahead:
            yield coming.popleft()()
    yield from (fetched() for fetched in coming)


def profile(bench: Bench) -> Iterator[Row]:
    """The GPU's idle share, waits of the host and SLIC's time, while images of the host are explained in a queue.

    Four batches of 16 uint8 images, segmented by SLIC, after four to warm up.
    """
    made = Made(bench, RESNET50)
    images = (made.images * 255).round().to(torch.uint8).cpu()
    explainer = made.explainer(gpulime.segments.Slic(n_segments=50))

    def explain() -> None:
        for _ in _fetched(explainer, [Batch(images)] * 4):
            pass

    explain()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities[: 1 + (bench.device.type == "cuda")]) as profiled:
        explain()
        devices.synchronize(bench.device)
    yield from seen(bench, list(profiled.events()), 4 * len(images))


def seen(bench: Bench, events: Sequence[Any], images: int) -> Iterator[Row]:
    """Rows of a profiler's events while that many images are explained."""
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    if not kernels:
        raise ModuleNotFoundError("PyTorch's profiler sees no kernels here")
    spans = sorted((kernel.time_range.start, kernel.time_range.end) for kernel in kernels)
    idle = idle_share(spans)
    holds = None if bench.tiny else idle <= 0.05
    yield Row("profile", "idle share of the GPU", **bench.place).kept(idle, "at most 0.05", holds)
    waits = sum(event.name.startswith("cuda") and event.name.endswith("Synchronize") for event in events)
    yield Row("profile", "waits of the host, an image", **bench.place).kept(waits / images, "")
    connecting = sum(kernel.time_range.elapsed_us() for kernel in kernels if "slic_connect" in kernel.name)
    yield Row("profile", "slic_connect of the GPU's time", **bench.place).kept(connecting / (spans[-1][1] - spans[0][0]), "")


def idle_share(spans: list[tuple[float, float]]) -> float:
    """Share of the time from the first start to the last end in which no span, sorted by start, runs."""
    idle, busy_until = 0.0, spans[0][0]
    for start, end in spans:
        idle += max(0.0, start - busy_until)
        busy_until = max(busy_until, end)
    return idle / (busy_until - spans[0][0])


def share_of_model(bench: Bench) -> Iterator[Row]:
    """Time of an image's masks and segmentation, relative to its 1000 forwards in ResNet-50."""
    bare, images, rows = _bfloat16(bench, "ResNet-50", 2 if bench.tiny else 16)
    s, b = bench.samples, len(rows)
    forwards = median(bench.times(lambda: _forward(bare, rows))) * s / b
    side_length = 24 if bench.tiny else 224
    masked = problem((2, 3, side_length, side_length, 50, b), torch.bfloat16, torch.channels_last, bench.device)
    masking = median(bench.times(partial(masked_images.masked_images, *masked))) * s / b
    for name, op, segmenter in (("slic", slic.slic, SLIC), ("quickshift", quickshift.quickshift, QUICKSHIFT)):
        side, k = f"{name} and masking, ResNet-50", int(op(images[:1], **asdict(segmenter)).max()) + 1
        samples = max(s, 2 * k)
        explainer = gpulime.Explainer(bare, samples, segmenter, precision="bfloat16", batch_size=b)
        error, most = bench.error(explainer.explain(images[:1]), images[0], bare, partial(_forward, bare), samples)
        if not error <= most:
            yield bench.wrong("share_of_model", side, error, most)
            continue
        times = bench.times(partial(op, images, **asdict(segmenter)), most=10)
        share = (masking + median(times) / len(images)) / forwards
        row = bench.row("share_of_model", side, times, len(images), "images").erring(error, most)
        yield row.kept(share, "at most 0.02 of the forwards", share <= 0.02)


def compiled(bench: Bench, name: str) -> Iterator[Row]:
    """Rows explained per second with the model compiled and without; compiling is not timed."""
    if bench.uncompiled:
        raise ModuleNotFoundError(bench.uncompiled)
    bare, images, rows = _bfloat16(bench, name, 2 if bench.tiny else 16)
    before = None
    for mode in (False, True, "reduce-overhead"):
        how = {"precision": "bfloat16", "batch_size": len(rows), "compile": mode}
        explainer = gpulime.Explainer(bare, bench.samples, GRID, **how)
        explainer.explain(images)
        side = f"{name}, {f'compile={mode!r}' if mode else 'as it is'}"
        if (reason := explainer.predictor.not_compiled) is not None:
            yield bench.verdict("compiled", side, reason)
            continue
        times = bench.times(lambda: explainer.explain(images), seconds=5, most=20, ahead=False)  # noqa: B023
        if before is None:
            before, expected = median(times), explainer.explain(images)
        found = explainer.explain(images, expected.labels).predictions
        error = float((found / expected.predictions - 1).abs().max())
        if not error <= TOLERANCE:
            yield bench.verdict("compiled", side, f"probabilities differ by {error:.2g} of themselves")
            continue
        row = bench.row("compiled", side, times, len(images) * bench.samples, "forwards").erring(error, TOLERANCE)
        yield row.kept(before / median(times), "times the engine without compiling")


def _bfloat16(bench: Bench, name: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Make a bfloat16 model, n images, and a batch of its input rows."""
    name, b = ("28x28 CNN", 8) if bench.tiny else (name, 256)
    side = MODELS[name].side
    images = synthetic(n, side, side).to(bench.device)
    rows = images.repeat(-(-b // n), 1, 1, 1)[:b].to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return model(name, str(bench.device)), images, rows


def _forward(model: nn.Module, rows: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(rows.device.type, torch.bfloat16):
        outputs: Tensor = model(rows)
    return outputs
