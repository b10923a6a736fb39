"""A whole run's numbers: what it costs beside the model, how its memory grows, how soon it goes on again."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from PIL import Image
from torch import Tensor, nn

from benchmarks.overnight_store import Measured
from benchmarks.rows import HERE
from gpulime.runs import heartbeat, store

SIDE, SAMPLES, CELLS, CLASSES = 64, 20, 3, 10
FIRST = 1_000  # images after which memory is looked at
LEFT = 100  # images that a resumed run has yet to do
SIGN = "OVERNIGHT_FIRST_FORWARD"  # in the environment: the file that the first forward makes


class Free(nn.Module):
    """Ten classes from ten pixels, which costs nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, 64, 64) -> (b, 10)."""
        if SIGN in os.environ:
            Path(os.environ[SIGN]).touch()
        return images[:, 0, 3::6, 32][:, :CLASSES]


@dataclass(frozen=True)
class Night:
    """A run as another process saw it; megabytes are those of its process and its workers together."""

    folder: Path
    seconds: float
    model_seconds: float
    first: float
    most: float
    ok: int


def own_cost(_: Path, n: int) -> Measured:
    """Milliseconds an image, from start to exit, but for the model: reading, masks, fits, rows, shards, the summary."""
    night = _night(n)
    detail = f"{night.seconds:.0f} s, {night.model_seconds:.0f} s of them in the model; {SAMPLES} samples, {CELLS**2} segments"
    return Measured((night.seconds - night.model_seconds) / (n - LEFT) * 1000, detail, night.ok == n - LEFT)


def memory_growth(_: Path, n: int) -> Measured:
    """Megabytes by which the most memory exceeds that after the first thousand images."""
    night = _night(n)
    detail = f"{night.first:.0f} MB after {FIRST:,} images, {night.most:.0f} MB at most"
    return Measured(night.most - night.first, detail, night.first > 0)


def start_again(_: Path, n: int) -> Measured:
    """Seconds from the start of a process to the first forward of a run that has few of n images left; the median of three."""
    folder, seconds = _night(n).folder, []
    for i in range(3):
        sign = folder / f"sign-{i}"
        started, process = time.perf_counter(), _start(folder, sign=sign)
        while not sign.exists() and process.poll() is None:
            time.sleep(0.005)
        seconds.append(time.perf_counter() - started)
        process.kill()
        process.wait()
    done = len(store.done(folder / "run"))
    return Measured(statistics.median(seconds), f"{done:,} of {n:,} done before", sign.exists() and done == n - LEFT)


@cache
def _night(n: int) -> Night:
    """A run over all but a few of n images; its folder is kept until this process ends."""
    _kept.append(TemporaryDirectory())
    folder = Path(_kept[-1].name)
    _make(folder, n)
    started, process = time.perf_counter(), _start(folder, "--limit", str(n - LEFT))
    first = most = 0.0
    while process.poll() is None:
        megabytes = sum(_megabytes(pid) for pid in _family(process.pid))
        beats = heartbeat.read(folder / "run")
        if beats and beats[0].ok >= min(FIRST, n // 2):
            first, most = first or megabytes, max(most, megabytes)
        time.sleep(0.5)
    seconds = time.perf_counter() - started
    facts = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    in_model = facts["call"]["in_model"] * facts["call"]["hours"] * 3600
    return Night(folder, seconds, in_model, first, most, facts["ok"])


_kept: list[TemporaryDirectory[str]] = []


def _make(folder: Path, n: int) -> None:
    """Pictures of noise over a gradient, and the configuration of a run over them."""
    random = np.random.default_rng(0)
    slope = np.linspace(0, 150, SIDE, dtype=np.uint8)[None, :, None].repeat(SIDE, 0).repeat(3, 2)
    for i in range(n):
        place = folder / "pictures" / f"n{i % 100:08}" / f"{i:08}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(slope + random.integers(0, 100, slope.shape, dtype=np.uint8)).save(place)
    settings: dict[str, Any] = {
        "model": {"factory": f"{__name__}.Free"},
        "data": {"source": "pictures", "resize": SIDE, "crop": SIDE, "workers": 1, "batch_size": 64},
        "lime": {"n_samples": SAMPLES, "segments": {"grid": {"rows": CELLS, "columns": CELLS}}, "top_labels": 1},
        "out": "run",
        "report": False,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def _start(folder: Path, *options: str, sign: Path | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-m", "gpulime", "explain", "--config", "run.yaml", *options],
        cwd=folder,
        env=environment if sign is None else {**environment, SIGN: str(sign)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _family(pid: int) -> Iterator[int]:
    """A process and those that it has started."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(children).split():
            yield from _family(int(child))


def _megabytes(pid: int) -> float:
    """The resident memory of a process, what it shares divided among those that do."""
    lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the process has ended
        return ""
