"""The benchmark of SP-LIME: its rows, and a wrong pick gets no time."""

from __future__ import annotations

import pytest

from benchmarks import picks


def test_a_row_for_each_side_with_the_ratio_and_the_error():
    pytest.importorskip("lime")
    ours, theirs = picks.measure("rows", 1, n=60, picks=5)
    assert (ours.side, theirs.side, ours.error, ours.error_what) == ("gpulime", "lime", "0", "lime's first 5 picks")
    assert float(ours.cpu_s) > 0
    assert float(ours.ratio) == pytest.approx(float(theirs.cpu_s) / float(ours.cpu_s), rel=0.2)


def test_a_wrong_pick_gets_no_time(monkeypatch):
    pytest.importorskip("lime")

    class Wrong(picks.SubmodularPick):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.V = self.V[::-1]

    monkeypatch.setattr(picks, "SubmodularPick", Wrong)
    (row,) = picks.measure("words", 1, n=60, picks=5)
    assert (row.ok, row.cpu_s, row.ratio) == ("no", "", "")
    assert float(row.error) > 0
