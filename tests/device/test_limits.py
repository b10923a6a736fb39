"""The list of limits names tests that exist."""

from __future__ import annotations

import re

import pytest

from benchmarks import gpu
from tests.device import limits

pytestmark = pytest.mark.pretend


@pytest.mark.parametrize("pattern", limits.TESTS)
def test_every_limit_stops_a_test(pattern, request):
    collected = [item.nodeid for item in request.session.items]
    file = pattern.partition("::")[0]
    if any(re.search(file, name) for name in collected):  # not if only other files run
        assert any(re.search(pattern, name) for name in collected)


def test_every_step_that_is_left_out_is_one():
    assert set(limits.STEPS) < set(gpu.STEPS)
