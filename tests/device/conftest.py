"""Tests of the pretend device, which needs its plug-in."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMMAND = "python -m pytest -p tests.device.plugin -m pretend"


def pytest_runtest_setup(item):
    if item.path.parent == HERE and not item.config.pluginmanager.has_plugin("tests.device.plugin"):
        pytest.skip(f"needs the pretend device: {COMMAND}")
