"""``python .ci/entered.py [--show]``: how many files of gpulime a main call enters, for one small image."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import gpulime
import gpulime.lime_image
from gpulime.cli import main

HERE = Path(gpulime.__file__).parent
MODEL = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
"""


def entered(call: Callable[[], object]) -> list[str]:
    """Files of gpulime of which a call enters a function, after the same call has imported what it needs."""
    call()
    files: set[str] = set()

    def note(frame, event, arg):
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(HERE)) and not frame.f_code.co_name.startswith("<module"):
            files.add(str(Path(name).relative_to(HERE)))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return sorted(files)


def calls() -> dict[str, Callable[[], object]]:
    """The main calls, each on one image, in the current folder."""
    Path("small_model.py").write_text(MODEL, encoding="utf-8")
    Path("pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("pictures/one.png")
    namespace: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(MODEL, namespace)
    model = namespace["make"]().eval()
    explainer = gpulime.Explainer(model, n_samples=120, segments="grid", mean=0, std=1)
    lime = gpulime.lime_image.LimeImageExplainer()
    run = "explain --model.factory small_model.make --data.source pictures --data.resize 32 --data.crop 32 --lime.segments grid"

    def command() -> None:
        with open(os.devnull, "w") as nowhere:
            out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, nowhere, nowhere
            try:
                main.main([*run.split(), "--lime.n_samples", "120", "--out", tempfile.mkdtemp(dir=".")])
            finally:
                sys.stdout, sys.stderr = out, err

    return {
        "explain(images)": lambda: explainer.explain(torch.rand(1, 3, 32, 32)),
        "explain_instance": lambda: lime.explain_instance(
            pixels, lambda rows: rows.mean((1, 2)) / 255, num_samples=120, progress_bar=False
        ),
        "gpulime explain": command,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="name the files")
    show = parser.parse_args().show
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        for name, call in calls().items():
            files = entered(call)
            print(f"{len(files):4} files  {name}")
            if show:
                print("".join(f"            {file}\n" for file in files), end="")
        os.chdir("/")
