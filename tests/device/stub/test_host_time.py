"""The benchmark of the host's time: its rows and bounds, and a trial of the command on the stub."""

from __future__ import annotations

import pytest

from benchmarks import host_time, rows
from tests.device.stub import library

CASE = {"segments": "grid", "num_features": 10}
PARTS = {"prepare", "further model batch", "fit", "fetch", "fit and fetch"}


def judged(before, *ratios):
    """The rows of turns in which every part took 2 ms before."""
    turns = [[dict.fromkeys(PARTS, 2.0), dict.fromkeys(PARTS, 2.0 * ratio)] for ratio in ratios]
    return {row.side: row for row in host_time.rows(CASE, before, turns)}


@pytest.mark.parametrize(("ratios", "ok"), [((0.5, 0.6, 0.9), "yes"), ((0.1, 0.61, 0.7), "no")])
def test_the_median_ratio_of_bounded_parts_keeps_the_bound(ratios, ok):
    found = judged(host_time.START, *ratios)
    assert {side: row.ok for side, row in found.items() if row.bound} == dict.fromkeys(host_time.BOUNDED, ok)
    row = found["fit and fetch"]
    assert (row.entry, row.before, row.before_ms) == ("grid, num_features=10", host_time.START, "2.000")
    assert (float(row.ms), float(row.ratio)) == (pytest.approx(2 * ratios[1]), ratios[1])


def test_bounds_are_those_beside_one_commit():
    assert not any(row.bound or row.ok for row in judged("another", 2.0).values())


@pytest.mark.pretend
def test_a_trial_of_the_command_keeps_its_rows(tmp_path, monkeypatch):
    if (reason := library.missing()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    assert host_time.main([str(library.ROOT), "--tiny", "--save"]) == 0
    (path,) = tmp_path.glob("tiny/host_time/*.csv")
    kept = rows.read(path, host_time.Row)
    assert {(row.entry, row.side) for row in kept} == {("grid", part) for part in PARTS}
    assert all(float(row.ratio) > 0 for row in kept)
