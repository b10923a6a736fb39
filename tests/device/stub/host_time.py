"""Compare the host's time of two versions of gpulime for flights on a GPU, measured in turns on the stub of CUDA.

    python -m tests.device.stub.host_time BEFORE [AFTER] [--turns 7] [--profile]

BEFORE and AFTER are folders or revisions of git; AFTER is this checkout by default. The GPU's own time is left out, and its
memory is the host's, so only ratios have a meaning.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from tests.device.stub import library

CASES = [{"segments": segments, "num_features": few} for segments in ("grid", "slic") for few in (None, 10)]


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
        """The answer for a case."""
        print(json.dumps({"ask": ask, **case}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


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


def compare(versions: list[Version], turns: int) -> None:
    """Print a line for each case and part."""
    print("milliseconds of the host, median; the ratio is the median of back-to-back pairs")
    print(f"{'':24}{'before':>9}{'after':>9}{'ratio':>7}")
    for case in CASES:
        seen = [[version.ask("times", case) for version in versions] for _ in range(turns)]
        for part in seen[0][0]:
            before, after = ([turn[i][part] for turn in seen] for i in range(2))
            ratio = median(later / first for first, later in zip(before, after, strict=True))
            name = f"{case['segments']}, {case['num_features'] or 'all'}: {part}"
            print(f"{name:24}{median(before):9.3f}{median(after):9.3f}{ratio:7.2f}")


def main() -> int:
    """Compare; status 1 if there can be no stub here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default=str(library.ROOT))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="print in which functions the first case spends its time")
    args = parser.parse_args()
    if (reason := library.missing()) is not None:
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as made:
        folder = library.build(Path(made))
        trees = [tree(name, folder / place) for name, place in ((args.before, "before"), (args.after, "after"))]
        versions = [Version(folder, one) for one in trees]
        compare(versions, args.turns)
        for version in versions:
            if args.profile:
                print(version.ask("profile", CASES[0]))
            version.process.communicate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
