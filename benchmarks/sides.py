"""Sides of a comparison, each timed in its own process.

This file has gpulime, the bare model, and the definition from which errors are computed; peers/ and rungs.py have the other
sides. A side that explains returns the coefficients (n, k) of the setup's targets.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

import gpulime
from benchmarks.models import MEAN, STD
from benchmarks.setups import SEGMENTS, Setup
from gpulime.bench.bare import Bare
from gpulime.bench.clock import Quantiles, timed

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Forward = Callable[[], Array | None]
Classifier = Callable[[Tensor], Tensor]  # rows (b, c, h, w) -> logits (b, classes)
T = TypeVar("T")

# glibc returns large blocks to the system as they are freed; then each layer of a model may have to map and clear its memory
# again. These settings keep the memory.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


class Run(NamedTuple):
    """One repeat: coefficients (n, k) of a side that explains, and seconds; CPU time is of all threads."""

    coefficients: Array | None
    wall: float
    cpu: float


@dataclass(frozen=True)
class Process:
    """The process of a side."""

    name: str
    keeps_memory: bool = False
    fresh: bool = False  # a new one for each repeat, as in a script for one image: first calls are timed, imports not


_RUNNING: dict[Process, ProcessPoolExecutor] = {}


@dataclass(frozen=True)
class Side:
    """``make(setup)`` prepares outside the clock; one call of the function that it returns is one repeat."""

    name: str
    make: Callable[[Setup], Forward]
    process: Process | None = None  # None: this one
    b: int | None = None  # instead of the setup's
    precision: str | None = None

    def run(self, setup: Setup) -> Run:
        """One repeat, in the side's process."""
        own = {"b": self.b, "precision": self.precision}
        setup = replace(setup, **{name: value for name, value in own.items() if value is not None})
        if self.process is None:
            return _run(self.make, setup)
        if self.process.fresh:
            return apart(self.process, _run, self.make, setup)
        if self.process not in _RUNNING:
            _RUNNING[self.process] = _start(self.process)
        try:
            return _RUNNING[self.process].submit(_run, self.make, setup).result()
        except BrokenProcessPool:
            _RUNNING.pop(self.process, None)  # the next repeat starts a new one
            raise


def cpu(runs: Sequence[Run]) -> Quantiles:
    """CPU seconds."""
    return Quantiles.of([run.cpu for run in runs])


def wall(runs: Sequence[Run]) -> Quantiles:
    """Seconds on the wall."""
    return Quantiles.of([run.wall for run in runs])


def apart(process: Process, call: Callable[..., T], *arguments: Any) -> T:
    """``call(*arguments)`` in a new process."""
    with _start(process) as executor:
        return executor.submit(call, *arguments).result()


def _start(process: Process) -> ProcessPoolExecutor:
    """One process, started with its environment, since glibc reads it once."""
    environment = dict(os.environ)
    os.environ.update(KEEP_MEMORY if process.keeps_memory else {}, GPULIME_CACHE="off")  # learning is timed
    try:
        executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        executor.submit(os.getpid).result()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    return executor


def _run(make: Callable[[Setup], Forward], setup: Setup) -> Run:
    forward, found = _forward(make, setup), []
    gc.collect()
    seconds = timed(lambda: found.append(forward()), torch.device(setup.device))
    return Run(found[0], *seconds)


@cache
def _forward(make: Callable[[Setup], Forward], setup: Setup) -> Forward:
    return make(setup)


def engine(setup: Setup) -> Forward:
    """gpulime, with a new Explainer for each repeat, so that the search for a batch size is timed."""
    new_explainer, explain = _explainer(setup), _explaining(setup)
    return lambda: explain(new_explainer())


def compiled(setup: Setup) -> Forward:
    """One Explainer whose model is compiled before the clock starts, as after the first images of a run."""
    explainer, explain = _explainer(setup, compile=True)(), _explaining(setup)
    explain(explainer)
    return lambda: explain(explainer)


def _explainer(setup: Setup, **options: Any) -> Callable[[], gpulime.Explainer]:
    how = {"sampler": setup.sampler, "seed": setup.seed, "mean": MEAN, "std": STD}
    how |= {"precision": setup.precision, "batch_size": setup.b, "segments": {"slic": {"n_segments": SEGMENTS}}}
    return partial(gpulime.Explainer, setup.model, setup.s, **how | options)  # imports the class here, outside the clock


def _explaining(setup: Setup) -> Callable[[gpulime.Explainer], Array]:
    images, targets = setup.images, setup.targets
    label_maps = None if setup.segments else setup.label_maps

    def explain(explainer: gpulime.Explainer) -> Array:
        explanations = explainer.explain(images, segments=label_maps).cpu()
        place = (explanations.labels == targets[:, None]).int().argmax(1)
        return explanations.coefficients[torch.arange(setup.n), place].numpy()

    return explain


def bare(setup: Setup) -> Forward:
    """The model alone, on as many rows of photographs, in the fastest layout."""
    rows = setup.normalised.repeat(-(-setup.batch // setup.n), 1, 1, 1)[: setup.batch]
    alone = Bare(setup.model, rows, getattr(torch, setup.precision), last=True)

    def forward() -> None:
        alone.forward(setup.rows)

    return forward


def definition(setup: Setup) -> Forward:
    """LIME as in its paper, one image at a time, with scikit-learn's ridge; the reference if the setup says float32."""

    def classify(rows: Tensor) -> Tensor:
        with setup.autocast():
            outputs: Tensor = setup.model(rows)
        return outputs

    def outputs(i: int, masks: Tensor) -> Tensor:
        return masked_outputs(classify, setup.normalised[i], setup.label_maps[i], int(setup.targets[i]), masks, setup.batch)

    return fitted(setup, outputs)


def fitted(setup: Setup, outputs: Callable[[int, Tensor], Any]) -> Forward:
    """Explain one image at a time: draw masks (s, k), get outputs (s,) of image i, fit."""
    sampler = gpulime.masks.resolve(setup.sampler, setup.seed, setup.s)

    def coefficients(i: int) -> Array:
        k = int(setup.label_maps[i].max()) + 1
        masks = sampler(torch.tensor(0), torch.arange(setup.s), torch.tensor(k), k)
        return ridge(masks, np.asarray(outputs(i, masks), np.float64))

    return lambda: padded(coefficients(i) for i in range(setup.n))


@torch.no_grad()
def masked_outputs(classify: Classifier, image: Tensor, labels: Tensor, target: int, masks: Tensor, b: int) -> Tensor:
    """The probabilities (s,) of a class for an image (c, h, w) with segments (h, w) and masks (s, k), b rows at a time."""
    fill = segment_means(image, labels)
    rows = (torch.where(part[:, None, labels], image, fill) for part in masks.to(image.device).split(b))
    with without_tf32():
        return torch.cat([classify(batch).float().softmax(1)[:, target] for batch in rows]).cpu()


def ridge(masks: Tensor, outputs: Array) -> Array:
    """Lime's fit: coefficients (k,) from masks (s, k) and outputs (s,)."""
    from sklearn.linear_model import Ridge

    masks = masks.double()
    weights = (-((1 - masks.mean(1).sqrt()) ** 2) / (2 * 0.25**2)).exp()
    return Ridge(alpha=1.0).fit(masks.numpy(), outputs, sample_weight=weights.numpy()).coef_


@contextmanager
def without_tf32() -> Iterator[None]:
    """Keep convolutions on a GPU from rounding float32 to TF32, which is PyTorch's default."""
    cudnn: Any = torch.backends.cudnn
    new = hasattr(cudnn, "conv")  # PyTorch 2.6 has one flag for all, and newer versions warn of it
    of, name, off = (cudnn.conv, "fp32_precision", "ieee") if new else (cudnn, "allow_tf32", False)
    before = getattr(of, name)
    setattr(of, name, off)
    try:
        yield
    finally:
        setattr(of, name, before)


def segment_means(image: Tensor, labels: Tensor) -> Tensor:
    """The image (c, h, w) with every segment in its mean colour: the fill of all sides."""
    pixels = labels.flatten().bincount()
    sums = torch.zeros(len(image), len(pixels), dtype=torch.float64, device=image.device)
    sums.index_add_(1, labels.flatten(), image.flatten(1).double())
    return (sums / pixels)[:, labels].to(image.dtype)


def padded(coefficients: Iterable[Array]) -> Array:
    """Coefficients of images with different numbers of segments as one array, padded with 0."""
    rows = list(coefficients)
    k = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, k - len(row))) for row in rows])


def difference(coefficients: Array | None, reference: Array | None) -> tuple[float, float]:
    """The largest difference, relative to an image's largest coefficient; and the share of the top 5 in common."""
    assert coefficients is not None
    assert reference is not None
    error = np.abs(coefficients - reference).max(1) / np.abs(reference).max(1)
    strongest = [np.abs(part).argsort(1)[:, -5:] for part in (coefficients, reference)]
    common = (strongest[0][:, :, None] == strongest[1][:, None]).any(2)
    return float(error.max()), float(common.mean())


# Tolerances. Bfloat16 keeps 8 bits of every output: a fraction of what another seed's masks would change.
FLOAT32, BFLOAT16 = 1e-5, 0.2
RANDOM = 1e-4  # float32, random weights: the last layer takes small differences between large numbers


def tolerance(device: str, precision: str, on_cpu: float, noise: Callable[[], float]) -> float:
    """The largest allowed error.

    On a GPU that follows from ``noise()``, the definition's own error with the model in bfloat16, because random weights
    amplify rounding: twice that, but at least `BFLOAT16`, and at most 0.9, since coefficients of 0 have an error of 1. Float32
    rounds convolutions to TF32, which keeps 11 bits instead of 8: an eighth.
    """
    if device == "cpu":
        return on_cpu
    return min(0.9, max(BFLOAT16, 2 * noise())) / (1 if precision == "bfloat16" else 8)
