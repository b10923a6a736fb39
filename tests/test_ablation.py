"""The ladder: every rung draws the same masks and finds the same coefficients, within its precision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import ablation, rows, rungs, table
from benchmarks.ablation import Row
from benchmarks.rungs import RUNGS, Rung
from benchmarks.setups import Setup

SETUP = Setup("28x28 CNN", n=1, s=80, b=40)
SAVED = ["--tiny", "--save", "--repeats", "1", "--model", "28x28 CNN"]
HERE = [rung for rung in RUNGS if rung.on in ("", "cpu") and rung.name != "compile"]


def climb(*ladder, repeats=1):
    return list(ablation.climb(SETUP, ladder, repeats, apart=False))


def test_every_rung_finds_the_same():
    found = climb(*HERE)
    assert [row.rung for row in found] == [rung.name for rung in HERE]
    assert [row.ok for row in found] == ["yes"] * len(HERE)
    assert all(float(row.error) < 1e-4 for row in found if row.precision == "float32")
    assert all(1e-4 < float(row.error) < 0.2 for row in found if row.precision == "bfloat16")
    assert all(float(row.q20) <= float(row.s) <= float(row.q80) for row in found)
    speeds = [float(row.rows_s) for row in found]
    assert float(found[-1].total) == pytest.approx(speeds[-1] / speeds[0], rel=2e-2, abs=0.01)
    assert float(found[-1].gain) == pytest.approx(speeds[-1] / speeds[-2], rel=2e-2, abs=0.01)
    assert (found[0].gain, found[0].total) == ("1.00", "1.00")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_model_finds_the_same(inductor):
    (row,) = climb(*(rung for rung in RUNGS if rung.name == "compile"))
    assert row.ok == "yes"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung.on in ("", "cuda")], ids=lambda rung: rung.name)
def test_every_rung_of_a_gpu_finds_the_same(rung):
    (row,) = ablation.climb(replace(SETUP, device="cuda"), [rung], 1, apart=False)
    assert row.ok == "yes"


def test_a_wrong_rung_gets_no_time_and_the_next_is_compared_with_the_last_right_one():
    def wrong(setup):
        forward = rungs.channels_last(setup)
        return lambda: forward() * 1.01

    first, second, third = climb(HERE[3], Rung("wrong", wrong), HERE[4])
    assert (second.s, second.gain, second.ok) == ("", "", "no")
    assert float(third.gain) == pytest.approx(float(first.s) / float(third.s), rel=2e-2, abs=0.01)


def test_a_rung_that_cannot_run_is_left_out_and_said_and_no_rung_at_all_is_a_failure(capsys):
    def refuses(setup):
        raise UserWarning("the model cannot be compiled: no compiler")

    ladder = [Rung("graph", rungs.graphed, on="cuda"), Rung("compile", refuses)]
    assert ablation.main(["--tiny", "--model", "28x28 CNN"], ladder) == 1
    assert capsys.readouterr().out == "compile: left out, the model cannot be compiled: no compiler\n"


def test_a_row_comes_with_its_rung_and_again_with_each_turn():
    found = climb(*HERE[3:5], repeats=3)
    names = ["packed queue", "channels_last"]
    assert [(row.rung, row.repeats) for row in found] == [(name, turn) for turn in "123" for name in names]
    assert all(row.s and row.gain and row.total for row in found)


def test_rows_are_kept_as_they_come_and_shown_in_the_table(tmp_path, monkeypatch, capsys):
    def stopped(setup):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ablation.main(SAVED, [*HERE[2:4], Rung("stopped", stopped)])
    assert ablation.main(SAVED, HERE[3:4]) == 0
    (path,) = tmp_path.rglob("*.csv")
    assert path.parent == tmp_path / "tiny" / "ablation"
    kept = rows.read(path, Row)
    assert [row.rung for row in kept] == ["fused op", "packed queue"]
    assert all((row.device, row.torch, row.commit, row.date, row.error) for row in kept)
    assert "| 28x28 CNN: fused op | float32 | " in table.of_ablation(kept)
    with pytest.raises(SystemExit):
        ablation.main([*SAVED, "--only", "packed queue"])
    assert "--save needs the whole ladder, without --only" in capsys.readouterr().err
