"""The command, end to end: a run on the device has the rows of a run on the CPU."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from gpulime.cli import main
from gpulime.engine import ownership
from gpulime.runs.store import store
from tests.device import launches

pytestmark = pytest.mark.pretend

MODEL = """
import torch
from torch import nn

made = []

def make():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(54, 7))
    model[-1].weight.data *= 20
    made.append(model)
    return model
"""
CONFIG = """
model: {factory: "tiny_model:make"}
data: {source: photographs, resize: 48, crop: 40}
lime: {n_samples: 60, segments: {slic: {n_segments: 8}}, top_labels: 2, mean: [0.5], std: [0.25]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of the command: photographs, a model and a config."""
    random = np.random.default_rng(0)
    (tmp_path / "photographs").mkdir()
    for number in range(5):
        pixels = np.kron(random.integers(0, 255, (5, 6, 3), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{number}.png")
    (tmp_path / "tiny_model.py").write_text(MODEL)
    (tmp_path / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def explained(folder, out, *more):
    assert main.main(["explain", "--config", str(folder / "run.yaml"), "--out", str(folder / out), *more]) == 0
    return {row["image_id"]: row for row in store.read(folder / out).to_pylist()}


def test_explain(folder, capsys):
    before = launches.LAUNCHED.copy()
    found = explained(folder, "there")
    assert set(launches.LAUNCHED - before) >= {"bernoulli", "masked_images", "rgb2lab", "slic_assign", "slic_connect"}
    expected = explained(folder, "here", "--lime.device", "cpu")
    assert len(found) == 5
    there, here = importlib.import_module("tiny_model").made
    assert there[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not here[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert ownership.is_owned(there)
    assert ownership.is_owned(here)
    for name, row in expected.items():
        for column in ("labels", "n_segments", "seg"):
            assert found[name][column] == row[column]
        np.testing.assert_allclose(found[name]["coef"], row["coef"], rtol=0, atol=1e-5 * np.abs(row["coef"]).max())
    assert main.main(["report", str(folder / "there")]) == 0
