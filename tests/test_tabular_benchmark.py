"""The benchmark of tables: entries run, errors are found before times, and a missed bound or a wrong answer fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import tabular

pytest.importorskip("lime")
ENTRIES = {entry.name: entry for entry in tabular.entries()}


@pytest.mark.parametrize(
    "name", ["iris_shared_logistic", "iris_keys_logistic", "iris_drop_in_gaussian_logistic", "iris_forward_selection"]
)
def test_an_entry_has_times_and_an_error(name):
    ours, limes = tabular.measure(ENTRIES[name].tiny(), 1, {})
    assert (ours.side, limes.side, ours.ok) == ("gpulime", "lime", "yes")
    assert float(ours.ms_per_row) > 0 < float(limes.ms_per_row)
    assert float(ours.error) <= float(ours.error_limit)
    assert name in tabular.said([ours, limes])


def test_a_missed_bound_fails():
    ours, _ = tabular.measure(replace(ENTRIES["iris_shared_logistic"].tiny(), least=1e9), 1, {})
    assert ours.ok == "no"


def test_a_wrong_answer_gets_no_time(monkeypatch):
    monkeypatch.setattr(tabular, "NEAR", 1e-30)
    [row] = tabular.measure(ENTRIES["iris_drop_in_logistic"].tiny(), 1, {})
    assert (row.ok, row.ms_per_row) == ("no", "")


def test_coverage_is_a_share():
    row = tabular.covered(tabular.COVERAGES[0].tiny(), {})
    assert 0.5 < float(row.ratio) <= 1
    assert row.bound == "0.93 to 0.97"
