"""What a run makes of real photographs: a pretrained network must still name what they show."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.overnight_store import Measured
from benchmarks.rows import HERE
from gpulime.runs.progress import summary

CONFIG = HERE.parent / "configs" / "quickstart.yaml"  # EfficientNet-Lite0, with its weights from a package
SETTINGS = {"lime.n_samples": "200", "lime.precision": "bfloat16"}
SHOWN = 300  # characters of an error


def photographs(source: Path, folder: Path, n: int) -> Measured:
    """Top-1 accuracy, in [0, 1], as the summary of `gpulime explain` over n photographs of ImageNet tells it.

    Parameters
    ----------
    source : Path
        A folder with one folder a class or with one .csv that lists the files and their classes, or that .csv.
    folder : Path
        Where the run is made.
    n : int
        As many of them, from the first; there must be as many.
    """
    lists = sorted(source.glob("*.csv")) if source.is_dir() else []
    settings = {**SETTINGS, "data.source": str((lists or [source])[0].resolve()), "out": str(folder / "run")}
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "gpulime", "explain", "--config", str(CONFIG), "--limit", str(n), *options]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if not (folder / "run" / summary.FILE).exists():
        return Measured(0.0, f"it ended with {done.returncode}: {done.stderr[-SHOWN:]!r}", False)
    facts = json.loads((folder / "run" / summary.FILE).read_text(encoding="utf-8"))
    accuracy, r2 = facts["top1_accuracy"] or 0.0, facts["median_r2"] or 0.0
    share = facts["call"]["in_model"] * facts["call"]["hours"] * 3600 / seconds
    detail = f"{facts['ok']} of {n} explained, {facts['targets']} of known class; median R2 {r2:.3f}"
    detail += f"; {seconds:.0f} s from start to exit, {100 * share:.0f} % of them in the model"
    return Measured(accuracy, detail, facts["ok"] == facts["targets"] == n)
