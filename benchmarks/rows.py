"""Rows of results/<device>.csv: one for each side of an entry, time and error together."""

from __future__ import annotations

import csv
import platform
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpulime.bench.machine import processor

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where and when something was measured: the last columns of every file, from `where`."""

    device: str = ""
    torch: str = ""
    python: str = ""
    commit: str = ""
    date: str = ""


@dataclass(frozen=True)
class Row(Placed):
    """What is kept of one side; the file holds it as text, empty where there is nothing.

    ``ratio`` is that of the medians, our side's to this one's, and in our own row, which comes first, the worst of the
    others': the one that must keep the bound. ``paired`` is the median of the ratios of neighbouring runs. ``q20`` and
    ``q80`` belong to ``cpu_s``. ``error`` is our coefficients' greatest difference from those of ``error_what``, as a part of
    the largest, and may not pass ``error_limit``; ``top5`` is the part of the five strongest segments that both have.
    """

    entry: str
    side: str
    cpu_s: str = ""
    wall_s: str = ""
    q20: str = ""
    q80: str = ""
    ratio: str = ""
    paired: str = ""
    bound: str = ""
    ok: str = ""
    error: str = ""
    error_limit: str = ""
    error_what: str = ""
    top5: str = ""
    rows: str = ""
    repeats: str = ""


def read(path: Path, kind: type[Any] = Row) -> list[Any]:
    """The rows of a file, of a dataclass of text; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [kind(**row) for row in csv.DictReader(file)]


def write(path: Path, rows: Iterable[Any], kind: type[Any] = Row) -> None:
    """Write a file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        place = [f.name for f in fields(Placed)]
        own = [f.name for f in fields(kind) if f.name not in place]
        writer = csv.DictWriter(file, [*own, *place], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def keep(path: Path, rows: Sequence[Any], key: Callable[[Any], tuple[str, ...]]) -> None:
    """Put rows, all of one dataclass, in the place of earlier ones with the same key, in the order of the keys."""
    kind, fresh = type(rows[0]), {key(row) for row in rows}
    earlier = [row for row in read(path, kind) if key(row) not in fresh]
    write(path, sorted([*rows, *earlier], key=key), kind)


def where(device: str = "cpu") -> dict[str, str]:
    """The columns that say where and when a row was measured."""
    dirty = _git("status", "--porcelain", "../gpulime", "../kernels", "*.py")
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return {
        "device": gpu or f"{processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("-dirty" if dirty else ""),
        "date": datetime.now(UTC).date().isoformat(),
    }


def results_file(device: str, folder: str = "", tiny: bool = False) -> Path:
    """Where the rows of a device are kept; those of a trial lie apart, in results/tiny/, and are no results."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".csv"
    return RESULTS / ("tiny" if tiny else "") / folder / name


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(HERE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
