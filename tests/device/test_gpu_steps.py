"""The script for a GPU on the pretend device: each step that it can run, and going on by ``--resume``.

Bounds do not count, since the pretend device has no speed.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager
from importlib import import_module

import pytest
import torch

from benchmarks import ablation, gpu, models, rows, sides
from benchmarks.gpu_rows import Row
from benchmarks.peers import compare, field
from tests.device import limits, patches

pytestmark = pytest.mark.pretend

STEPS = [name for name in gpu.STEPS if name not in limits.STEPS]
ROWS = {"ablation": ablation.Row, "peers": compare.Row}  # of commands
NO_ERRORS = ("machine", "checks", "bench", "growth")
MAINS = {"benchmarks.peers": "benchmarks.peers.__main__", "gpulime": "gpulime.cli.main"}
PARTS = {"benchmarks.peers": ["--only", field.ON_A_GPU[0].name], "benchmarks.growth": ["--only", "n"]}  # the others are alike


class Here(AbstractContextManager):
    """A process that is this one, since the pretend device is in no other."""

    def submit(self, call, *arguments):
        done = Future()
        done.set_result(call(*arguments))
        return done

    def __exit__(self, *raised):
        pass


def run(argv, seconds, sign=""):
    """Run a command in this process; its exit code is that of its bounds."""
    _, _, module, *options = argv
    import_module(MAINS.get(module, module)).main([*options, *PARTS.get(module, [])])
    return ""


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """Keep rows outside the repository, and compile nothing; return the function that reads the rows of a kind."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(torch, "compile", lambda model, **how: model)
    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(sides, "_start", lambda process: Here())
    monkeypatch.setattr(sides, "_RUNNING", {})
    monkeypatch.setitem(models.MODELS, "ResNet-50", models.MODELS["28x28 CNN"])  # of the commands
    models.model.cache_clear()
    yield lambda kind: rows.read(rows.file_of(patches.NAME, kind.FOLDER, tiny=True), kind)
    models.model.cache_clear()


def done(kept):
    return [row.side for row in kept(Row) if row.entry == gpu.STEP]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_on_cuda(step, kept):
    gpu.main(["--tiny", "--save", "--only", step])
    assert done(kept) == [step]
    assert not [row for row in kept(Row) if row.reason]
    measured = [row for row in kept(ROWS.get(step, Row)) if row.error]
    assert bool(measured) == (step not in NO_ERRORS)
    assert all(float(row.error) <= float(row.error_limit) for row in measured)


def test_a_profile_goes_as_far_as_its_events_and_other_steps_by_resume(kept, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "STEPS", {name: gpu.STEPS[name] for name in ("machine", "profile", "bernoulli")})
    gpu.main(["--tiny", "--save", "--only", "machine"])
    gpu.main(["--tiny", "--save", "--minutes", "5", "--resume"])
    assert "profile: left out, PyTorch's profiler sees no kernels here" in capsys.readouterr().out
    assert done(kept) == ["bernoulli", "machine"]
