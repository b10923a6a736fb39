"""Pytest plug-in of the pretend device: runs the tests marked ``gpu`` without a GPU.

    python -m pytest -p tests.device.plugin -m pretend

It changes torch for the whole process, so it needs one of its own, and is loaded before gpulime and every test.
"""

from __future__ import annotations

import time

import pytest

from tests.device import findings, limits

MOST_S = 300  # of the CPU for all tests, which other work on the machine hardly changes
_missing = []  # the reason why there is no pretend device


def pytest_load_initial_conftests():
    """Make the process see a GPU before any test asks for one."""
    from tests.device import patches

    _missing.append(patches.install())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests for a GPU ``pretend``; skip those that the pretend device cannot run."""
    import probes

    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.pretend)
        if item.get_closest_marker("pretend") is None:
            continue
        if reason := _missing[0] or probes.gpp() or limits.reason(item):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    findings.FOUND.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a test that passes in spite of findings."""
    result = yield
    _fail_for_findings()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    from tests.device.streams import HOST

    result = yield
    if HOST.guard != "default":
        HOST.guard = "default"
        findings.report(findings.GUARD, "the test ends with torch.cuda.set_sync_debug_mode on")
    _fail_for_findings()
    return result


def pytest_sessionfinish(session):
    """Fail if the tests take too long for CI."""
    if time.process_time() > MOST_S:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    took = time.process_time()
    verdict = ": FAILED" if took > MOST_S else ""
    terminalreporter.write_line(f"the pretend device took {took:.0f} s of the CPU, and may take {MOST_S}{verdict}")


def _fail_for_findings():
    found = findings.FOUND[:]
    findings.FOUND.clear()
    if found:
        pytest.fail("\n".join(f"{kind}: {text}" for kind, text in found), pytrace=False)
