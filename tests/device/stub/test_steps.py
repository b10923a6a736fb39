"""The kernels' steps of the script for a GPU, with PyTorch's own CUDA build over a CUDA that does nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.device.stub import library

pytestmark = pytest.mark.pretend

STEPS = ["machine", "checks", "bernoulli", "slic", "quickshift", "masked_images"]


def test_the_steps_of_kernels_run_to_their_end(tmp_path):
    if (reason := library.missing()) is not None:
        pytest.skip(reason)
    folder = library.build(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.device.stub.steps", *STEPS],
        cwd=folder,
        env=library.environment(folder, library.ROOT, triton=True),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    assert "path         kernels compiled by CuPy on Stub H200" in printed
    for name in ("bernoulli", "slic", "quickshift", "masked_images"):
        assert any(line.startswith(f"{name}, kernel") and " ms " in line for line in printed)
