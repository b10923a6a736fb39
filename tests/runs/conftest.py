"""Fixtures of whole runs."""

import functools

import pytest
import rows
import torch

from gpulime.runs.store import manifest


@pytest.fixture(scope="session", autouse=True)
def _versions_read_once():
    """Each run notes the packages' versions, for which it parses their long descriptions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "version", functools.cache(manifest.version))
        yield


@pytest.fixture(autouse=True)
def importable(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.path.parent))


@pytest.fixture(autouse=True)
def _one_thread():
    """Models are tiny here, and on a busy machine threads that wait for each other take most of a run's time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def photographs(tmp_path):
    """Six noisy pictures in two folders, and three files that are no whole images."""
    return rows.photographs(tmp_path / "photographs")
