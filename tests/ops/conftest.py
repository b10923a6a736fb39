"""Kernels under the host shim, which a fixture substitutes for CuPy, with poisoned memory; and on a GPU."""

from __future__ import annotations

import host as shim
import probes
import pytest
import torch

from gpulime import device as devices
from gpulime.ops import source


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A test under sanitizers is long: g++ takes three times as long for it."""
    for item in items:
        if "sanitized" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)


def poisoned(*shape, dtype, device):
    """As `gpulime.device.empty`, filled with NaN, or with a value that no result has."""
    return torch.full(shape, shim.poison(dtype), dtype=dtype, device=device)


@pytest.fixture
def host(monkeypatch):
    """Kernels run on the CPU, compiled by g++ with the shim; outputs come poisoned."""
    return _replaced(monkeypatch, shim.Library, ())


@pytest.fixture
def sanitized(monkeypatch):
    """As `host`, each launch in a program of its own under sanitizers."""
    return _replaced(monkeypatch, shim.Program, shim.SANITIZE)


@pytest.fixture
def kernels():
    """Kernels as CuPy compiles them, on a GPU."""
    if not source.available(torch.device("cuda")):
        pytest.skip("kernels cannot run here: gpulime doctor says why")


def _replaced(monkeypatch, kind, flags):
    if reason := probes.gpp(*flags):
        pytest.skip(reason)
    monkeypatch.setattr(source, "compiled", lambda wanted, device: kind(wanted))
    monkeypatch.setattr(source, "available", lambda device: True)
    monkeypatch.setattr(devices, "empty", poisoned)
    return shim
