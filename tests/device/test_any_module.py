"""Any module runs on the pretend device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.pretend

ROOT = Path(__file__).parents[2]
RACE = """
import torch
written = torch.ones(3, device="cuda")
with torch.cuda.stream(torch.cuda.Stream()):
    written + 1
"""


def run(*module, **environment):
    command = [sys.executable, "-m", "tests.device.module", *module]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_doctor_sees_it():
    done = run("gpulime", "doctor")
    assert done.returncode == 0, done.stderr
    assert "kernels compiled by CuPy on Pretend H200" in done.stdout


def test_findings_are_a_failure(tmp_path):
    (tmp_path / "racing.py").write_text(RACE)
    done = run("racing", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("race: add reads on stream 1, beside stream 0")
