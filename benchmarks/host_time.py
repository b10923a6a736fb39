"""``python -m benchmarks.host_time [BEFORE]``: the host's time beside that of an older gpulime; fail if a bound is missed.

BEFORE is a commit, or a folder with gpulime/ and kernels/. Both versions explain the same images on a CUDA that does nothing
(tests/device/stub), in turns. The GPU's own time is left out and its memory is the host's, so only ratios have a meaning.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rows import columns, parser, save, where, yes
from gpulime.bench.clock import Quantiles
from tests.device.stub import library

START = "7348a46"  # before the first work on the host's time
MOST, BOUNDED = 0.6, ("further model batch", "fit and fetch")  # of the time at START, of these parts
TURNS = 15
CASES = [{"segments": segments, "num_features": few} for segments in ("grid", "slic") for few in (None, 10)]
TINY = [{**CASES[0], "repeats": 1}]


class Row(columns("entry side before before_ms ms ratio q20 q80 bound ok repeats")):
    """A part of a flight: medians of both versions, and the median of the ratios of turns, with its quantiles."""

    FOLDER = "host_time"

    def __str__(self) -> str:
        verdict = f", {self.bound}: {'ok' if self.ok == 'yes' else 'FAILED'}" * bool(self.bound)
        times = f"{self.ms} ms, {self.before_ms} ms at {self.before}"
        return f"{self.entry}, {self.side}: {times}, ratio {self.ratio} ({self.q20} to {self.q80}){verdict}"


class Version:
    """A process with one version of gpulime, which explains when asked."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.device.stub.flights"],
            cwd=folder,
            env=library.environment(folder, tree, triton=True),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, ask: str, case: dict[str, Any]) -> Any:
        """The answer for a case; `RuntimeError` if the process has ended, whose error is on standard error."""
        print(json.dumps({"ask": ask, **case}), file=self.process.stdin, flush=True)
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"{' '.join(self.process.args)} has ended with status {self.process.wait()}")
        return json.loads(answer)


def tree(name: str, place: Path) -> Path:
    """A folder with the gpulime and kernels of a folder or a revision, and nothing else."""
    place.mkdir()
    parts = ("gpulime", "kernels")
    if Path(name, parts[0]).is_dir():
        for part in parts:
            (place / part).symlink_to(Path(name, part).resolve())
    else:
        command = ["git", "-C", library.ROOT, "archive", name, *parts]
        packed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(place, filter="data")
    return place


def rows(case: dict[str, Any], name: str, turns: Sequence[Sequence[dict[str, float]]]) -> list[Row]:
    """A row for each part of a flight: milliseconds of ``turns``, before and now, with the version ``name`` before."""
    few = case["num_features"]
    entry = case["segments"] + (f", num_features={few}" if few else "")
    found = []
    for part in turns[0][0]:
        before, now = ([turn[i][part] for turn in turns] for i in range(2))
        ratio = Quantiles.of([later / first for first, later in zip(before, now, strict=True)])
        bound = {"bound": f"at most {MOST:g}", "ok": yes(ratio.median <= MOST)} if name == START and part in BOUNDED else {}
        times = (f"{median(values):.3f}" for values in (before, now))
        shares = (f"{value:.3f}" for value in (ratio.median, ratio.low, ratio.high))
        found.append(Row(entry, part, name, *times, *shares, **bound, repeats=str(len(turns)), **where()))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a bound is missed, 2 if there can be no stub here."""
    made = parser("host_time", __doc__, repeats=TURNS)
    made.add_argument("before", nargs="?", default=START, metavar="BEFORE", help=f"by default {START}")
    made.add_argument("--tiny", action="store_true", help="a trial of one turn: its times mean nothing")
    made.add_argument("--profile", action="store_true", help="print in which functions the first case spends its time")
    options = made.parse_args(argv)
    if (reason := library.missing()) is not None:
        print(reason, file=sys.stderr)
        return 2
    measured: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        folder = library.build(Path(place))
        trees = [tree(name, folder / side) for name, side in ((options.before, "before"), (library.ROOT, "now"))]
        versions = [Version(folder, one) for one in trees]
        for case in TINY if options.tiny else CASES:
            turns = [[one.ask("times", case) for one in versions] for _ in range(1 if options.tiny else options.repeats)]
            measured += rows(case, options.before, turns)
            print(*measured[-len(turns[0][0]) :], sep="\n", flush=True)
        for version in versions:
            if options.profile:
                print(version.ask("profile", CASES[0]))
            version.process.communicate()
    if options.save:
        save(measured, options.tiny)
    return int(any(row.ok == "no" for row in measured))


if __name__ == "__main__":
    sys.exit(main())
