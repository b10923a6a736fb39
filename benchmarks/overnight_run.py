"""The numbers of a whole run: its cost next to the model, its memory, its restart, and its accuracy on photographs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image
from torch import Tensor, nn

from benchmarks.overnight_store import Measured
from benchmarks.rows import HERE
from gpulime.runs.progress import heartbeat, summary
from gpulime.runs.store import store
from gpulime.views.report import page

SIDE, SAMPLES, CELLS, CLASSES = 64, 20, 3, 10
FIRST = 1_000  # images after which memory is watched
MOST_GROWTH = 50  # megabytes
LEFT = 100  # remaining images of a resumed run
SIGN = "OVERNIGHT_FIRST_FORWARD"  # in the environment: the file that the first forward makes
CONFIG = HERE.parent / "configs" / "quickstart.yaml"  # EfficientNet-Lite0, with its weights from a package


class Free(nn.Module):
    """Ten classes from ten pixels, which costs nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, 64, 64) -> (b, 10)."""
        if SIGN in os.environ:
            Path(os.environ[SIGN]).touch()
        return images[:, 0, 3::6, 32][:, :CLASSES]


class Memory(NamedTuple):
    """Resident megabytes at one moment: of the run's process, and of it and its workers together.

    The latter excludes pages of files, since the counted share of shared libraries depends on other processes.
    """

    time: float
    images: int
    own: float
    family: float


class Night(NamedTuple):
    """A run with its report, watched by this process."""

    folder: Path
    seconds: float
    model_seconds: float
    report_from: float  # the summary is written before the report
    report_to: float  # its first page is written last
    memory: list[Memory]  # from its start to the report's end
    ok: int


def own_cost(_: Path, n: int) -> Measured:
    """Milliseconds an image without model and report: reading, masks, fits, rows, shards, the summary."""
    night = _night(n)
    seconds = night.seconds - (night.report_to - night.report_from)
    detail = f"{seconds:.0f} s, {night.model_seconds:.0f} s of them in the model; {SAMPLES} samples, {CELLS**2} segments"
    return Measured((seconds - night.model_seconds) / (n - LEFT) * 1000, f"{detail}; without the report", night.ok == n - LEFT)


def report(_: Path, n: int) -> Measured:
    """Milliseconds an image of the report at the end of that run, and the growth of its memory meanwhile."""
    night = _night(n)
    took = night.report_to - night.report_from
    before = [one.own for one in night.memory if one.time <= night.report_from]
    during = [one.own for one in night.memory if one.time > night.report_from]
    growth = max(during, default=0.0) - max(before, default=0.0)
    sizes = [path.stat().st_size for path in (night.folder / "run").glob("report*.html")]
    detail = f"{took:.0f} s, {len(sizes):,} pages of {sum(sizes) / 1e6:.0f} MB; {growth:+.1f} MB of memory"
    return Measured(took / (n - LEFT) * 1000, detail, bool(before and during) and growth < MOST_GROWTH)


def memory_growth(_: Path, n: int) -> Measured:
    """Megabytes by which the peak of memory, with the report, exceeds that after the first thousand images.

    Of the run's process and its workers together, or of the process alone, whichever grows more: the workers have ended when
    the report is written, and their memory must not hide the report's.
    """
    night = _night(n)
    later = [one for one in night.memory if one.images >= min(FIRST, n // 2)]
    if not later:
        return Measured(0.0, "it ended too soon", False)
    family, own = [one.family for one in later], [one.own for one in later]
    told = [f"{way[0]:.0f} MB after {FIRST:,} images, {max(way):.0f} MB at most" for way in (family, own)]
    detail = f"with workers {told[0]}, files left aside; the process itself {told[1]}; with the report"
    return Measured(max(max(way) - way[0] for way in (family, own)), detail, later[-1].time > night.report_from)


def start_again(_: Path, n: int) -> Measured:
    """Seconds from the start of a process to the first forward, if few of n images are left; the median of three."""
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


def photographs(source: Path, folder: Path, n: int) -> Measured:
    """Top-1 accuracy in [0, 1] of `gpulime explain` over the first n photographs of ImageNet, from its summary.

    ``source``: a folder with one folder a class or with one .csv that lists the files and their classes, or that .csv.
    """
    lists = sorted(source.glob("*.csv")) if source.is_dir() else []
    settings = {"config": str(CONFIG), "data.source": str((lists or [source])[0].resolve()), "out": str(folder / "run")}
    settings |= {
        "limit": str(n),
        "lime.quality": "lime",
        "lime.n_samples": "200",
        "lime.precision": "bfloat16",
    }  # after the config, so that they win
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    started = time.perf_counter()
    command = [sys.executable, "-m", "gpulime", "explain", *options]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if not (folder / "run" / summary.FILE).exists():
        return Measured(0.0, f"it ended with {done.returncode}: {done.stderr[-300:]!r}", False)
    facts = json.loads((folder / "run" / summary.FILE).read_text(encoding="utf-8"))
    detail = f"{facts['ok']} of {n} explained, {facts['targets']} of known class; median R2 {facts['median_r2'] or 0.0:.3f}"
    detail += f"; {seconds:.0f} s from start to exit, {100 * _in_model(facts) / seconds:.0f} % of them in the model"
    return Measured(facts["top1_accuracy"] or 0.0, detail, facts["ok"] == facts["targets"] == n)


def _in_model(facts: dict[str, Any]) -> float:
    """Seconds of a run in the model."""
    seconds: float = facts["call"]["in_model"] * facts["call"]["hours"] * 3600
    return seconds


@cache
def _night(n: int) -> Night:
    """A run over all but a few of n images; its folder is kept until this process ends."""
    _kept.append(TemporaryDirectory())
    folder = Path(_kept[-1].name)
    _make(folder, n)
    started, process = time.perf_counter(), _start(folder, "--limit", str(n - LEFT))
    run, memory = folder / "run", []
    while process.poll() is None:
        now, own = time.time(), _megabytes(process.pid, "Rss")
        family = sum(_megabytes(pid, "Pss_Anon", "Pss_Shmem") for pid in _family(process.pid))
        beats = heartbeat.read(run)
        if own and family:
            memory.append(Memory(now, beats[0].ok if beats else 0, own, family))
        time.sleep(0.1 if (run / summary.FILE).exists() else 0.5)  # the report of few images takes less than a second
    seconds = time.perf_counter() - started
    facts = json.loads((run / summary.FILE).read_text(encoding="utf-8"))
    summed_up, shown = ((run / name).stat().st_mtime for name in (summary.FILE, page.PAGE))
    # Not later: at a process's end CUDA's libraries are read from the disk once more, to be unloaded.
    memory = [one for one in memory if one.time <= shown]
    return Night(folder, seconds, _in_model(facts), summed_up, shown, memory, facts["ok"])


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
        "lime": {
            "quality": "lime",
            "n_samples": SAMPLES,
            "segments": {"grid": {"rows": CELLS, "columns": CELLS}},
            "top_labels": 1,
        },
        "out": "run",
        "report": True,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def _start(folder: Path, *options: str, sign: Path | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    command = [sys.executable, "-m", "gpulime", "explain", "--config", "run.yaml", *options]
    nowhere = subprocess.DEVNULL
    environment |= {SIGN: str(sign)} if sign else {}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=nowhere, stderr=nowhere)


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(children).split():
            yield from _family(int(child))


def _megabytes(pid: int, *kinds: str) -> float:
    """The resident memory of a process: Rss, or kinds of Pss, in which shared pages are divided among their processes."""
    lines = map(str.split, _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines())
    return sum(int(line[1]) / 1000 for line in lines if line[0].removesuffix(":") in kinds)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the process has ended
        return ""
