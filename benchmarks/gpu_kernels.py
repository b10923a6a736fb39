"""Measure the kernels on a GPU: each beside its reference, the speed of the device's memory, and other implementations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_rows import Bench, Row
from benchmarks.models import synthetic
from gpulime import segments
from gpulime.images.segments import OPS
from gpulime.ops import bernoulli as drawing
from gpulime.ops import masked_images as masking
from gpulime.ops import quickshift as shifting
from gpulime.ops import slic as clustering
from gpulime.ops import source

SLIC, QUICKSHIFT = segments.Slic(n_segments=256), segments.Quickshift()
REFERENCES = {segments.Slic: clustering.slic_reference, segments.Quickshift: shifting.quickshift_reference}
# n, c, h, w, k, b; the last is timed
SHAPES = ((1, 1, 1, 1, 1, 1), (3, 3, 63, 65, 31, 7), (2, 5, 63, 65, 33, 130), (8, 3, 224, 224, 50, 512))
MASKS = ((1, 1, 1), (3, 7, 129), (16, 1000, 50))  # n, s, k; the last is timed
NUMBERS = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)
FORMATS = (torch.contiguous_format, torch.channels_last)
UNLIKE = "not what the reference gives"


def checks(bench: Bench) -> Iterator[Row]:
    """Every kernel next to its reference, at awkward and full sizes."""
    if not source.available(bench.device):
        yield bench.verdict("kernels", "CuPy", "kernels cannot run here: gpulime doctor says why")
        return
    wrong = [
        (shape, dtype, memory_format)
        for shape in SHAPES[: 2 if bench.tiny else 4]
        for dtype in NUMBERS
        for memory_format in FORMATS
        if not _same_rows(problem(shape, dtype, memory_format, bench.device))
    ]
    yield bench.verdict("masked_images", "kernel beside its reference", f"another for {wrong[:3]}" if wrong else "")
    other = [size for size in MASKS[: 2 if bench.tiny else 3] if not _same_masks(*draws(size, bench.device))]
    yield bench.verdict("bernoulli", "kernel beside its reference", f"another for {other}" if other else "")
    sizes = ((1, 1), (9, 11)) if bench.tiny else ((1, 1), (63, 65), (224, 224))
    for segmenter in (_slic(bench), QUICKSHIFT):
        error = " ".join(filter(None, (_other_ids(bench, segmenter, *size) for size in sizes)))
        yield bench.verdict(OPS[type(segmenter)].__name__, "kernel beside its reference", error)


def masked_images(bench: Bench) -> Iterator[Row]:
    """512 rows of 224x224 in bfloat16 and channels_last, next to a plain fill of as much memory."""
    arguments = problem(SHAPES[1 if bench.tiny else 3], torch.bfloat16, torch.channels_last, bench.device)
    if not _same_rows(arguments):
        yield bench.verdict("masked_images", "kernel", UNLIKE)
        return
    rows = masking.masked_images(*arguments)
    counted = {"count": len(rows), "unit": "rows", "moved": rows.nbytes}
    fill, kernel = bench.times(rows.zero_), bench.times(lambda: masking.masked_images(*arguments))
    share = median(fill) / median(kernel)
    yield bench.row("masked_images", "fill of as much memory", fill, **counted)
    row = bench.row("masked_images", "kernel", kernel, **counted).erring(0, 0)
    yield row.kept(share, "at least 0.75 of the fill's GB/s", share >= 0.75)
    reference = bench.times(lambda: masking.masked_images_reference(*arguments))
    yield bench.row("masked_images", "reference", reference, **counted)
    if bench.device.type == "cuda":
        if bench.uncompiled:
            raise ModuleNotFoundError(bench.uncompiled)
        compiled = torch.compile(masking.masked_images_reference, fullgraph=True)
        times = bench.times(lambda: compiled(*arguments))
        ratio = median(kernel) / median(times)
        row = bench.row("masked_images", "reference, torch.compile", times, **counted)
        yield row.kept(ratio, "at most 1: the kernel's time over this", ratio <= 1)


def bernoulli(bench: Bench) -> Iterator[Row]:
    """The masks of a flight, 16 images with 1000 samples of 50 segments."""
    arguments = draws(MASKS[1 if bench.tiny else 2], bench.device)
    if not _same_masks(*arguments):
        yield bench.verdict("bernoulli", "kernel", UNLIKE)
        return
    masks = drawing.bernoulli(*arguments)
    counted = {"count": masks.shape[0] * masks.shape[1], "unit": "masks", "moved": masks.nbytes}
    kernel, reference = (bench.times(partial(draw, *arguments)) for draw in (drawing.bernoulli, drawing.bernoulli_reference))
    ratio = median(reference) / median(kernel)
    row = bench.row("bernoulli", "kernel", kernel, **counted).erring(0, 0)
    yield row.kept(ratio, "at least 10: the reference's time over this", ratio >= 10)
    yield bench.row("bernoulli", "reference", reference, **counted)


def slic(bench: Bench) -> Iterator[Row]:
    """256 segments per image, before and after the pass that connects them."""
    segmenter = _slic(bench)
    loose = replace(segmenter, enforce_connectivity=False)
    yield from _segmenter(bench, "slic", loose, "kernel, before connectivity", 10_000)
    yield from _segmenter(bench, "slic", segmenter, "kernel", 1_000)
    yield from _one_core(bench, "slic", segmenter)


def quickshift(bench: Bench) -> Iterator[Row]:
    """Lime's defaults."""
    yield from _segmenter(bench, "quickshift", QUICKSHIFT, "kernel", 3_000)
    yield from _one_core(bench, "quickshift", QUICKSHIFT)


def _slic(bench: Bench) -> segments.Slic:
    """256 segments, or so few that the smallest images have some pixels for each."""
    return replace(SLIC, n_segments=12) if bench.tiny else SLIC


def problem(
    shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format, device: torch.device
) -> list[Tensor]:
    """The arguments of `masked_images`: n images of noise, rectangles as segments, random masks."""
    n, c, h, w, k, b = shape
    random = torch.Generator().manual_seed(0)
    images, fills = ((torch.rand(n, c, h, w, generator=random) * 255).to(dtype) for _ in range(2))
    labels = segments.Grid(max(1, k // 10), min(k, 10)).labels(n, h, w, torch.device("cpu"))
    index = torch.arange(b) * n // b
    masks = torch.rand(b, k, generator=random) < 0.5
    ready = [tensor.contiguous(memory_format=memory_format) for tensor in (images, fills)]
    return [tensor.to(device) for tensor in (*ready, labels, index, masks)]


def draws(size: tuple[int, int, int], device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    """The arguments of `bernoulli`: keys of all 64 bits, rows from 0, k and a seed."""
    n, s, k = size
    keys = torch.arange(n, device=device)[:, None] * 0x123456789ABCDEF - 5
    return keys, torch.arange(s, device=device), k, 2**63 + 7


def _same_masks(keys: Tensor, rows: Tensor, k: int, seed: int) -> bool:
    return torch.equal(drawing.bernoulli(keys, rows, k, seed), drawing.bernoulli_reference(keys, rows, k, seed))


def _same_rows(arguments: list[Tensor]) -> bool:
    return torch.equal(masking.masked_images(*arguments), masking.masked_images_reference(*arguments))


def _other_ids(bench: Bench, segmenter: Any, h: int, w: int) -> str:
    """Share of pixels of small pictures with the reference's id; empty if all have it."""
    images, op = synthetic(2, h, w).to(bench.device), OPS[type(segmenter)]
    reference = REFERENCES[type(segmenter)]
    share = (op(images, **asdict(segmenter)) == reference(images, **asdict(segmenter))).float().mean().item()
    return f"{share:.5f} of the ids at {h}x{w}" if share < 1 else ""


def _segmenter(bench: Bench, entry: str, segmenter: Any, side: str, least: int) -> Iterator[Row]:
    n, size = (2, 24) if bench.tiny else (256, 224)
    if error := _other_ids(bench, segmenter, *((9, 11) if bench.tiny else (63, 65))):
        yield bench.verdict(entry, side, error)
        return
    images = synthetic(n, size, size).to(bench.device)
    times = bench.times(partial(OPS[type(segmenter)], images, **asdict(segmenter)), most=20)
    rate = n / median(times)
    moved = images.nbytes + 4 * images[:, 0].numel()  # pixels in, labels out
    row = bench.row(entry, side, times, n, "images", moved).erring(0, 0)
    yield row.kept(rate, f"at least {least:,} images/s", rate >= least)


def _one_core(bench: Bench, entry: str, segmenter: Any) -> Iterator[Row]:
    """scikit-image, one image at a time."""
    images = synthetic(2, 24, 24) if bench.tiny else synthetic(4, 224, 224)
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    times = Bench(torch.device("cpu"), tiny=True).times(lambda: [segmenter(array) for array in arrays])
    yield bench.row(entry, "scikit-image, one core", times, len(arrays), "images")
