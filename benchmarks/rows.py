"""Rows of results/: one CSV file for each device in a folder for each command; and the options that the commands share."""

from __future__ import annotations

import argparse
import csv
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from gpulime.bench.clock import Quantiles
from gpulime.bench.machine import processor

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Place and time of a measurement: the last columns of every file, from `where`.

    ``FOLDER`` of results/ holds the rows of a class; a new row replaces the one with the same ``KEY``.
    """

    FOLDER: ClassVar[str] = ""
    KEY: ClassVar[tuple[str, ...]] = ("entry", "side")

    device: str = ""
    torch: str = ""
    python: str = ""
    commit: str = ""
    date: str = ""


def columns(names: str) -> type[Placed]:
    """A frozen dataclass of text columns, empty by default, followed by those of `Placed`."""
    return make_dataclass("Columns", [(name, str, "") for name in names.split()], bases=(Placed,), frozen=True)


@cache
def where(device: str = "cpu") -> dict[str, str]:
    """Columns with the place and time of a row's measurement."""
    dirty = _git("status", "--porcelain", "../gpulime", "../kernels", "*.py")
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return {
        "device": gpu or f"{processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("-dirty" if dirty else ""),
        "date": datetime.now(UTC).date().isoformat(),
    }


def file_of(device: str, folder: str = "", tiny: bool = False) -> Path:
    """The file of a device's rows; those of a ``--tiny`` trial are kept apart, in results/tiny/."""
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".csv"
    return RESULTS / ("tiny" if tiny else "") / folder / name


def read(path: Path, kind: type[Any]) -> list[Any]:
    """The rows of a file, of a dataclass of text; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [kind(**row) for row in csv.DictReader(file)]


def write(path: Path, rows: Iterable[Any], kind: type[Any]) -> None:
    """Replace a file; at any moment it has its old rows or the new ones, since a benchmark may be killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coming = path.with_suffix(".coming")
    with coming.open("w", newline="", encoding="utf-8") as file:
        place = [f.name for f in fields(Placed)]
        own = [f.name for f in fields(kind) if f.name not in place]
        writer = csv.DictWriter(file, [*own, *place], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    coming.replace(path)


def save(rows: Sequence[Any], tiny: bool = False, entries: Sequence[str] | None = None) -> Path:
    """Replace rows with the same key, in the order of keys; or of ``entries``, without the rows of other entries."""
    kind, path = type(rows[0]), file_of(rows[0].device, rows[0].FOLDER, tiny)
    fresh = {_key(row) for row in rows}
    kept = [*rows, *(row for row in read(path, kind) if _key(row) not in fresh)]
    if entries is None:
        kept.sort(key=_key)
    else:
        kept = sorted((row for row in kept if row.entry in entries), key=lambda row: entries.index(row.entry))
    write(path, kept, kind)
    return path


def _key(row: Any) -> list[tuple[int, str]]:
    """The values of a row's key; numbers sort by value."""
    values = [getattr(row, name) for name in row.KEY]
    return tuple((int(value), "") if value.isdigit() else (0, value) for value in values)


def seconds(spread: Quantiles) -> dict[str, str]:
    """The columns of a time in seconds."""
    return {"s": f"{spread.median:.4g}", "q20": f"{spread.low:.4g}", "q80": f"{spread.high:.4g}"}


def judged(limit: float, error: float, top5: float) -> dict[str, str]:
    """The columns of an error; one that is not a number is too large."""
    return {"error": f"{error:.2g}", "error_limit": f"{limit:g}", "top5": f"{top5:.2f}", "ok": yes(error <= limit)}


def yes(condition: bool) -> str:
    """A condition as a file holds it."""
    return "yes" if condition else "no"


def parser(name: str, about: str | None, only: Iterable[str] = (), repeats: int | None = None) -> argparse.ArgumentParser:
    """The parser of ``python -m benchmarks.NAME`` with ``--save``, ``--repeats`` and, given names, ``--only``."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    if names := list(only):
        made.add_argument("--only", nargs="+", metavar="NAME", choices=names, help=f"of these: {'; '.join(names)}")
    made.add_argument("--repeats", type=int, default=repeats, help="instead of each entry's own number")
    made.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/")
    return made


def on_device(parser: argparse.ArgumentParser, argv: Sequence[str] | None, default: str = "cpu") -> argparse.Namespace:
    """Parse the options of a command that also has ``--device`` and ``--tiny``; exit if the device is missing."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default=default)
    parser.add_argument("--tiny", action="store_true", help="a trial of few small problems: its times mean nothing")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "PyTorch sees no GPU: gpulime doctor says more\n")
    return options


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(HERE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # measurements also run on a machine without git
        return ""
    return done.stdout.strip()
