"""Runs to evaluate."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rows
import torch
from evaluated import Tiny, config

import gpulime
from gpulime.runs import from_config


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path_factory):
    """Give all tests one cache, so that each trusts the code of runs that another made."""
    monkeypatch.setenv("GPULIME_CACHE", str(tmp_path_factory.getbasetemp() / "trusted"))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with six photographs and three files that are none, and a run over them."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        patch.setenv("GPULIME_CACHE", str(tmp_path_factory.getbasetemp() / "trusted"))
        from_config.run(config(rows.photographs(folder / "photographs"), folder / "run"))
    return folder


@pytest.fixture
def pictures_of_run(made):
    """The photographs of `run`, which must not be changed."""
    return made / "photographs"


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run."""
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.fixture
def dataset():
    """Five pictures of a dataset, as uint8."""
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.integers(0, 256, (3, 24, 20), dtype=np.uint8)) for _ in range(5)]


@pytest.fixture
def from_python(dataset, tmp_path):
    """A run over them."""
    settings = {"n_samples": 30, "segments": gpulime.segments.Grid(3, 3), "top_labels": 2, "fill": 0.0}
    gpulime.runs.explain(Tiny(), dataset, tmp_path / "python", **settings)
    return tmp_path / "python"
