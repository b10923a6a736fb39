"""The store's numbers: seconds to read it, bytes of an image, rows that SIGKILL costs."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import signal
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import torch

import gpulime
from benchmarks.models import Pixels
from benchmarks.setups import PHOTOGRAPHS
from gpulime import config
from gpulime.bench.clock import timed
from gpulime.runs.store import shards, store

FLUSH_ROWS = 16  # in the runs that are killed: a shard every second or so
MOST_SECONDS = 1.0  # from a run's first row to its SIGKILL
SETTINGS: dict[str, Any] = {"n_samples": 200, "segments": "slic", "top_labels": 5, "report": False}


class Measured(NamedTuple):
    """A number, what else was found, and whether all of that is right."""

    value: float
    detail: str
    sound: bool = True


class Crops(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Crops of scikit-image's photographs, 224 x 224, with ids as ImageNet's files have."""

    def __init__(self, n: int) -> None:
        from skimage import data

        self.photographs = [getattr(data, name)() for name in PHOTOGRAPHS]
        self.root = "imagenet/val"
        self.samples = [(f"imagenet/val/n{i % 1000:08d}/ILSVRC2012_val_{i:08d}.JPEG", i % 10) for i in range(n)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        """(3, 224, 224) uint8 and a target."""
        photograph, where = self.photographs[i % len(self.photographs)], random.Random(i)
        top, left = (where.randrange(side - 223) for side in photograph.shape[:2])
        crop = photograph[top : top + 224, left : left + 224]
        return torch.from_numpy(crop.copy()).permute(2, 0, 1), self.samples[i][1]


class Noise(torch.utils.data.Dataset[torch.Tensor]):
    """Images of 64 x 64 that cost nothing to read."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> torch.Tensor:
        """(3, 64, 64) uint8."""
        return torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))


def done_set(folder: Path, n: int) -> Measured:
    """Seconds of `store.done` for n rows of 224 x 224 images, the median of nine; the files are in the page cache."""
    _explain(folder / "few", Crops(min(n, 256)))  # a shard of them: repeats would compress well
    few = store.read(folder / "few").to_pylist()
    with store.Store(folder / "many") as rows:
        for i in range(n):
            rows.append(few[i % len(few)] | {"image_id": f"n{i % 1000:08d}/ILSVRC2012_val_{i:08d}.JPEG"})
    times = [timed(lambda: store.done(folder / "many"), torch.device("cpu")).wall for _ in range(9)]
    found, files = len(store.done(folder / "many")), store.shards(folder / "many")
    size = sum(path.stat().st_size for path in files)
    detail = f"{found:,} ids in {len(files):,} shards of {size / 1e6:.0f} MB, {min(times):.2f} to {max(times):.2f} s"
    return Measured(median(times), detail, found == n)


def bytes_per_image(folder: Path, n: int) -> Measured:
    """Kilobytes of explanations of n photographs with SLIC's defaults, by a model that sees their pixels."""
    _explain(folder, Crops(n))
    rows = store.read(folder, ["status", "n_segments", "labels"]).to_pylist()
    size = sum(path.stat().st_size for path in store.shards(folder))
    sound = len(rows) == n and all(row["status"] == "ok" and len(row["labels"]) == 5 for row in rows)
    segments = [row["n_segments"] for row in rows]
    return Measured(size / n / 1000, f"{min(segments)} to {max(segments)} segments, median {median(segments):.0f}", sound)


def kills(folder: Path, n: int) -> Measured:
    """The most rows in the store's memory that one SIGKILL lost. After the last run every shard is sound, every image once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.overnight_store", "gpulime.runs.from_dataset"])
    moments, begun, images = random.Random(0), datetime.now(UTC), 1000 * n
    kept: dict[Path, int | None] = {}
    worst = 0
    for _ in range(n):
        handed = context.Value("q", 0, lock=False)
        process = context.Process(target=_run_quietly, args=(folder, images, handed))
        process.start()
        while handed.value == 0 and process.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, MOST_SECONDS))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            return Measured(0, f"a run ended with {process.exitcode} before it was killed", False)
        new = {path: _rows_of(path) for path in store.shards(folder) if path not in kept}
        kept |= new
        worst = max(worst, handed.value - sum(rows or 0 for rows in new.values()))
    bad = list(kept.values()).count(None)
    rows, ids = len(shards.rows(folder, ["image_id"])), len(store.done(folder))
    left = _run_to_the_end(context, folder, ids)
    seconds = (datetime.now(UTC) - begun).total_seconds()
    detail = f"{bad} bad shards, {rows - ids} rows twice, {ids:,} images in {seconds:.0f} s, {left} left by a rerun"
    return Measured(worst, f"flush at {FLUSH_ROWS} rows; {detail}", bad == 0 and rows == ids and left == 0)


def _explain(folder: Path, dataset: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        gpulime.runs.explain(Pixels(), dataset, folder, **SETTINGS)


def _run_quietly(folder: Path, images: int, handed: Any) -> None:
    """A whole run in a process of its own; ``handed`` counts the rows that the store has taken."""
    append = store.Store.append

    def counted(self: store.Store, row: Any) -> None:
        handed.value += 1  # without a lock, which SIGKILL would leave locked
        append(self, row)

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(1)
    settings = SETTINGS | {"n_samples": 20, "segments": gpulime.segments.Grid(3, 3), "batch_size": 32, "model_id": "mean"}
    few = mock.patch.object(config, "StoreConfig", partial(config.StoreConfig, flush_rows=FLUSH_ROWS))
    with few, mock.patch.object(store.Store, "append", counted):
        gpulime.runs.explain(_mean, Noise(images), folder, **(settings | {"top_labels": 1}))


def _mean(rows: torch.Tensor) -> torch.Tensor:
    return rows[:, :, ::8, ::8].mean((2, 3))


def _run_to_the_end(context: Any, folder: Path, images: int) -> int:
    """The number of the first images that are not done after a run over them that is not killed."""
    process = context.Process(target=_run_quietly, args=(folder, images, context.Value("q", 0, lock=False)))
    process.start()
    process.join()
    return len({str(i) for i in range(images)} - set(store.done(folder))) + abs(process.exitcode)


def _rows_of(path: Path) -> int | None:
    """The rows of a shard; None if it cannot be read."""
    try:
        with shards.opened(path) as shard:
            return len(shard.read())
    except shards.CorruptError:
        return None
