"""Fixtures of whole runs."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image

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
    rng = np.random.default_rng(0)
    root = tmp_path / "photographs"
    for i in range(6):
        folder = root / ("ant" if i < 3 else "bee")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (root / "ant" / "page.jpg").write_text("<html>not found</html>")
    (root / "bee" / "empty.jpg").touch()
    whole = (root / "bee" / "3.png").read_bytes()
    (root / "bee" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("not an image")
    return root
