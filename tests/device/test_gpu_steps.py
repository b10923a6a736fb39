"""The script for a GPU on the pretend device: the steps that measure the engine and kernels, and the rest by ``--resume``."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu, rows
from benchmarks.gpu_rows import Row
from tests.device import patches

pytestmark = pytest.mark.pretend

STEPS = ("machine", "profile", "efficiency_resnet_50", "extrapolation", "masked_images", "bernoulli", "share_of_model")


def test_steps_run_on_cuda_and_the_rest_by_resume(monkeypatch, tmp_path, capsys):
    """Bounds do not count: the pretend device has no speed."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(torch, "compile", lambda model, **how: model)
    monkeypatch.setattr(gpu, "STEPS", {name: gpu.STEPS[name] for name in STEPS})
    gpu.main(["--tiny", "--save", "--only", *STEPS[:2]])
    assert "profile: left out, PyTorch's profiler sees no kernels here" in capsys.readouterr().out
    gpu.main(["--tiny", "--save", "--minutes", "5", "--resume"])
    assert "profile: left out" in capsys.readouterr().out  # it is tried again
    found = rows.read(rows.file_of(patches.NAME, Row.FOLDER, tiny=True), Row)
    assert {row.side for row in found if row.entry == gpu.DONE} == {*STEPS} - {"profile"}
    assert not [row for row in found if row.reason]
    measured = [row for row in found if row.error]
    assert {row.entry for row in measured} == {"efficiency", "extrapolation", "masked_images", "bernoulli", "share_of_model"}
    assert all(float(row.error) <= float(row.error_limit) for row in measured)
