"""Fixtures of all tests: seeded randomness, devices, a small model and pictures for it."""

from __future__ import annotations

import os

# Threads that wait for each other sleep: on a busy machine, spinning makes small operations many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["GPULIME_CACHE"] = "off"  # for code that runs before a test begins

import contextlib
import functools
import gc
import itertools
import warnings

import browser
import probes
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gpulime.runs.reading import code

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else ["cpu"]


def pytest_runtest_setup(item):
    """Skip tests marked ``gpu`` if there is no GPU."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Try a test that is marked ``timed`` three times; a real fault fails each time."""
    if pyfuncitem.get_closest_marker("timed") is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    for tries_left in (2, 1, 0):
        try:
            pyfuncitem.obj(**arguments)
            break
        except AssertionError:
            if not tries_left:
                raise
    return True


@pytest.fixture(scope="session", autouse=True)
def _sources_read_once():
    """Before Python 3.13 the whole file is parsed for the source of a class, which each run of it asks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "_source", functools.cache(code._source))
        yield


@pytest.fixture(scope="module")
def chromium():
    """A page of a browser."""
    if reason := probes.chromium():
        pytest.skip(reason)
    with browser.Browser(browser.find()) as one:
        yield one


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_of_others():
    """Collect once a file: all that is imported takes a second to search, which clocks and forks would spend each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(_caches, monkeypatch):
    """Give each test an empty cache, and leave the user's alone."""
    monkeypatch.setenv("GPULIME_CACHE", str(next(_caches)))


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture
def inductor(request):
    """Require the tools of PyTorch's own compiler, for the test's ``device`` or the CPU."""
    device = request.getfixturevalue("device").type if "device" in request.fixturenames else "cpu"
    if reason := probes.inductor(device):
        pytest.skip(reason)


@pytest.fixture
def cnn():
    """A convolutional classifier of 7 classes in eval mode, for images of any size, with BatchNorm and dropout."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(54, 7),
    )
    with torch.no_grad():
        model[-1].weight *= 20  # confident, so that segments matter
        model[1].running_mean.normal_(std=0.1)
    return model.eval()


@pytest.fixture
def counted(monkeypatch):
    """Skip the check that compares outputs for the same image, so that only the queue's rows are counted."""
    monkeypatch.setattr("gpulime.engine.model.Predictor._is_steady", lambda self, ends: True)


@pytest.fixture
def calls(cnn, counted):
    """The number of rows in each call of ``cnn``, in order."""
    seen, forward = [], cnn.forward

    def seeing(rows):
        seen.append(rows)
        return forward(rows)

    cnn.forward = seeing
    return seen


@pytest.fixture
def pictures():
    """(n, c, h, w) -> images in [0, 1]: a smooth gradient each, a spot and some noise, so that segmenters find parts."""

    def make(n=4, c=3, h=24, w=20, seed=0):
        random = torch.Generator().manual_seed(seed)
        y, x = torch.linspace(0, 1, h)[:, None], torch.linspace(0, 1, w)
        slopes = torch.rand(n, c, 2, 1, 1, generator=random)
        spot = ((y - 0.5) ** 2 + (x - 0.4) ** 2 < 0.05).float() * torch.rand(n, c, 1, 1, generator=random)
        noise = torch.rand(n, c, h, w, generator=random)
        return (slopes[:, :, 0] * y + slopes[:, :, 1] * x + spot + 0.3 * noise) / 3.3

    return make


class Unread(TorchDispatchMode):
    """Refuses operations for which the host waits on a GPU: the result, or its shape, depends on a tensor's values.

    On a CPU ``tolist`` and ``numpy`` are no operations, and pass by it.
    """

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique", "is_nonzero", "equal", "bincount")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(where is not None and where.dtype in (torch.bool, torch.uint8) for where in indices)
        counted = name == "repeat_interleave" and kwargs.get("output_size") is None
        if by_mask or counted or name.startswith(self.WAITS):
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **kwargs)


@pytest.fixture
def unread():
    """Fail if the host reads a tensor's values inside the context."""
    return Unread()


@pytest.fixture
def watched():
    """Fail at any wait for a GPU that PyTorch detects inside the context."""
    return _watched("error")


@pytest.fixture
def waits():
    """A context whose value is the list of warnings of waits for a GPU inside it."""
    return _watched("warn")


@contextlib.contextmanager
def _watched(mode):
    with warnings.catch_warnings(record=mode == "warn") as seen:
        warnings.filterwarnings("always", message="called a synchronizing CUDA operation")
        warnings.filterwarnings("ignore", message=".*prototype feature")
        torch.cuda.set_sync_debug_mode(mode)
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
