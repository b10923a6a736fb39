"""The list of limits names tests and steps that exist, and all tests together take a limited time."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from benchmarks import gpu
from tests.device import limits, plugin

pytestmark = pytest.mark.pretend


@pytest.mark.parametrize("pattern", limits.TESTS)
def test_every_limit_stops_a_test(pattern, request):
    collected = [item.nodeid for item in request.session.items]
    file = pattern.partition("::")[0]
    if any(re.search(file, name) for name in collected):  # not if only other files run
        assert any(re.search(pattern, name) for name in collected)


def test_every_step_that_is_left_out_is_one():
    assert set(limits.STEPS) < set(gpu.STEPS)


@pytest.mark.parametrize(("most", "status"), [(0, 1), (10**6, 0)])
def test_tests_that_take_longer_than_they_may_are_a_failure(most, status, monkeypatch):
    monkeypatch.setattr(plugin, "MOST_S", most)
    session = SimpleNamespace(exitstatus=0)
    plugin.pytest_sessionfinish(session)
    assert session.exitstatus == status
