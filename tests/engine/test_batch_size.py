"""Number of rows in a batch: by their bytes on a CPU, the fastest size on a GPU."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from gpulime import Explainer
from gpulime.engine.batch_size import BatchSize
from gpulime.segments import Grid

KIND = (3, 224, 224), torch.float32, torch.device("cuda")
PLENTY = 2**20


def used(batch_size, seconds, batches=60, kind=KIND, most=PLENTY, left=math.inf, first=0.0):
    """The sizes that are passed while a batch of b rows takes ``seconds(b)``, and ``first`` more at first."""
    sizes, clock = [], SimpleNamespace(now=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpulime.engine.batch_size.time", SimpleNamespace(perf_counter=lambda: clock.now))
        patch.setattr("gpulime.device.synchronize", lambda device: None)
        for _ in range(batches):
            b = batch_size.get(kind, most)
            with batch_size.timed(b, kind, left):
                clock.now += seconds(b) + first * (b not in sizes)
            sizes.append(b)
    return sizes


def used_as(batch_size, b, seconds):
    """Pass a batch of b rows, regardless of the size to try."""
    clock = SimpleNamespace(now=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpulime.engine.batch_size.time", SimpleNamespace(perf_counter=lambda: clock.now))
        patch.setattr("gpulime.device.synchronize", lambda device: None)
        with batch_size.timed(b, KIND):
            clock.now += seconds(b)
    return [b]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda b: 10 + 0.1 * b, 1024),  # ever better, up to 2**30 bytes of rows
        (lambda b: 4 + 0.1 * b, 1024),  # beyond, each doubling gains less than 3 %
        (lambda b: b + 0.1 * max(0, b - 280) ** 2, 128),
        (lambda b: 20 + b + max(0, b - 280) ** 2, 256),
        (lambda b: b * 0.99 ** b.bit_length(), 128),  # a hundredth is no gain
        (lambda b: b * (2 if b == 256 else 1) / min(b, 512), 512),  # one bad size does not end the search
    ],
)
def test_auto_finds_the_fastest_size_on_a_gpu(seconds, best):
    sizes = used(BatchSize("auto"), seconds)
    assert sizes[:6] == [128] * 3 + [256] * 3
    assert sizes[-20:] == [best] * 20


@pytest.mark.parametrize(
    ("shape", "dtype", "b"),
    [
        ((3, 224, 224), torch.float32, 16),
        ((3, 96, 96), torch.float32, 18),
        ((3, 32, 32), torch.float32, 170),
        ((1, 28, 28), torch.float32, 256),
        ((3, 96, 96), torch.bfloat16, 37),
        ((128,), torch.int64, 256),
    ],
)
def test_auto_goes_by_the_bytes_of_a_row_on_a_cpu(shape, dtype, b):
    batch_size, kind = BatchSize("auto"), (shape, dtype, torch.device("cpu"))
    assert batch_size.get(kind, PLENTY) == b
    assert batch_size.is_found(kind)
    assert batch_size.get(kind, 9) == 9


def test_where_memory_runs_out_the_search_ends():
    batch_size = BatchSize("auto")
    assert used(batch_size, lambda b: 4 + 0.1 * b, 6) == [128] * 3 + [256] * 3
    assert not batch_size.is_found(KIND)
    assert batch_size.get(KIND, 300) == 256  # 512 were too many, and 256 are the best yet
    assert batch_size.is_found(KIND)
    assert batch_size.get(KIND, 30) == 30


@pytest.mark.parametrize(("left", "found"), [(1e5, True), (1e7, False)])
def test_with_few_rows_left_no_further_size_is_tried(left, found):
    """Measured: the first batch of a size takes 2.5 s longer on an H200, and 12,800 rows take a second."""
    batch_size = BatchSize("auto")
    assert used(batch_size, lambda b: b / 12_800, 3, left=left, first=2.5) == [128] * 3
    assert batch_size.is_found(KIND) == found


@pytest.mark.parametrize(
    ("shape", "dtype", "b"),
    [
        ((3, 224, 224), torch.bfloat16, 256),
        ((3, 600, 600), torch.float32, 32),
        ((1, 28, 28), torch.float32, 1024),
        ((3, 1024, 1024), torch.float32, 32),
    ],
)
def test_the_first_size_goes_by_the_bytes_of_a_row(shape, dtype, b):
    assert BatchSize("auto").get((shape, dtype, torch.device("cuda")), PLENTY) == b


def test_a_fixed_size_is_found_at_once():
    batch_size = BatchSize(7)
    assert batch_size.is_found(KIND)
    assert [batch_size.get(KIND, most) for most in (PLENTY, 7, 3)] == [7, 7, 3]


def test_auto_passes_the_same_rows(cnn, calls, pictures):
    def explain(batch_size):
        return Explainer(cnn, 60, Grid(3, 3), batch_size=batch_size).explain(pictures(5)).coefficients

    expected = explain(16)
    calls.clear()
    actual = explain("auto")
    assert sum(len(rows) for rows in calls) == 300
    assert float((actual - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_a_search_that_its_rows_do_not_fill_ends():
    """Otherwise a model would never be compiled if few images are explained at a time."""
    batch_size, sizes = BatchSize("auto"), []
    for _ in range(30):  # explanations of 200 rows: the fastest they can be is 128 at a time
        left = 200
        while left:
            b = min(left, batch_size.get(KIND, PLENTY))
            sizes += used_as(batch_size, b, lambda b: 4 + 0.1 * b)
            left -= b
    assert batch_size.is_found(KIND)
    assert batch_size.get(KIND, PLENTY) == 128
    assert 0 < sizes.count(200) <= BatchSize.MISSED


def test_a_batch_now_and_then_that_is_too_small_ends_no_search():
    batch_size = BatchSize("auto")
    for number in range(100):
        b = batch_size.get(KIND, PLENTY)
        used_as(batch_size, b // 2 if number % 5 else b, lambda b: 4 + 0.1 * b)
    assert batch_size.get(KIND, PLENTY) == 1024
