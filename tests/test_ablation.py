"""The ladder: every rung draws the same masks and finds the same coefficients, within the digits of its precision."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is part of the checkout, not of the package

from benchmarks import ablation, compiled, markdown, rows, rungs
from benchmarks.ablation import Row
from benchmarks.rungs import RUNGS, Rung
from benchmarks.setups import Setup
from benchmarks.timer import Timing

SETUP = Setup("28x28 CNN", n=2, s=120, b=50)
SAVED = ["--tiny", "--save", "--repeats", "1", "--model", "28x28 CNN"]
HERE = [rung for rung in RUNGS if rung.on in ("", "cpu") and rung.name != "compile"]


@pytest.fixture(autouse=True, scope="module")
def _no_garbage_of_others():
    """The clock collects garbage before each run, and what all tests have loaded is a lot to look through."""
    gc.freeze()
    yield
    gc.unfreeze()


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
    setup = replace(SETUP, device="cuda")
    (row,) = ablation.climb(setup, [rung], 1, apart=False)
    assert row.ok == "yes"


def test_rungs_go_up_in_the_order_of_their_names():
    names = "lime's loop, batched masks, fused op, packed queue, channels_last, bfloat16, compile, CUDA graph"
    assert ", ".join(rung.name for rung in RUNGS) == names


def test_a_wrong_rung_gets_no_time_and_what_is_above_it_is_beside_the_last_right_one():
    def wrong(setup):
        forward = rungs.channels_last(setup)
        return lambda: forward() * 1.01

    first, second, third = climb(HERE[3], Rung("wrong", wrong), HERE[4])
    assert (second.s, second.gain, second.ok) == ("", "", "no")
    assert float(third.gain) == pytest.approx(float(first.s) / float(third.s), rel=2e-2, abs=0.01)


def test_a_rung_of_another_device_is_not_climbed():
    assert climb(Rung("graph", rungs.graphed, on="cuda")) == []


def test_compile_without_a_compiler_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    (said,) = climb(Rung("compile", rungs.compiled_model))
    assert said == "compile: left out, torch.compile needs a C++ compiler, and g++ is not there"


def test_compiled_models_are_of_fixed_sizes(monkeypatch):
    asked = []
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    for graphs in (False, True):
        compiled.compiled(nn.Identity(), graphs)
    assert asked == [{"dynamic": False, "mode": None}, {"dynamic": False, "mode": "reduce-overhead"}]


def test_a_model_that_cannot_be_compiled_is_no_rung(monkeypatch):
    def refuse(model, **how):
        raise RuntimeError("no")

    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UserWarning, match="cannot be compiled"):
        climb(Rung("compile", rungs.compiled_model))


def test_a_row_comes_with_its_rung_and_again_with_each_turn():
    found = climb(*HERE[3:5], repeats=3)
    names = ["packed queue", "channels_last"]
    assert [(row.rung, row.repeats) for row in found] == [(name, turn) for turn in "123" for name in names]
    assert all(row.s and row.gain and row.total for row in found)


def test_what_was_climbed_is_kept_where_the_rest_is_not(tmp_path, monkeypatch):
    def stopped(setup):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        ablation.main(SAVED, [HERE[3], Rung("stopped", stopped)])
    (path,) = (tmp_path / "tiny" / "ablation").iterdir()
    (row,) = rows.read(path, Row)
    assert (row.rung, row.repeats, bool(row.s)) == ("packed queue", "1", True)


def test_a_part_of_the_ladder_is_not_kept(tmp_path, monkeypatch, capsys):
    """What a rung brings would be over another rung than the one before."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        ablation.main([*SAVED, "--only", "packed queue"])
    assert stopped.value.code == 2
    assert "the whole ladder, without --only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_ladder_without_a_rung_is_a_failure():
    assert ablation.main(["--tiny", "--model", "28x28 CNN"], [Rung("graph", rungs.graphed, on="cuda")]) == 1


def test_on_a_gpu_an_error_may_be_what_its_precision_brings(monkeypatch):
    expected = np.array([[1.0, 0.5]])
    monkeypatch.setattr(ablation, "definition", lambda setup: lambda: expected - [[0, 0.3]])
    assert ablation.limits(SETUP, expected) == {"float32": 1e-4, "bfloat16": 0.2}
    on_a_gpu = ablation.limits(replace(SETUP, device="cuda"), expected)
    assert on_a_gpu == pytest.approx({"float32": 0.075, "bfloat16": 0.6})


def test_lime_s_loop_leaves_time_for_the_others_of_a_gpu_s_ladder():
    """A row takes it some 5 ms, a check and five repeats are six runs, and the stage has 460 s."""
    assert 6 * ablation.DEFAULTS["cuda"].rows * 0.005 < 100


def test_the_command_keeps_rows_and_the_page_shows_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(markdown, "RESULTS", tmp_path / "tiny")
    assert ablation.main(SAVED, HERE[2:4]) == 0
    assert ablation.main(SAVED, HERE[3:4]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    (path,) = (tmp_path / "tiny" / "ablation").iterdir()
    kept = rows.read(path, Row)
    assert [row.rung for row in kept] == ["fused op", "packed queue"]
    assert all((row.device, row.torch, row.commit, row.date, row.error) for row in kept)
    text = markdown.devices("ablation", Row, ablation.table)
    assert "| 28x28 CNN: fused op | float32 | " in text
    assert "ok" in capsys.readouterr().out


def test_a_time_is_beside_the_one_before_and_the_first():
    def timing(wall):
        from benchmarks.timer import Run

        return Timing((Run(None, wall, wall),))

    row = ablation.timed(Row("m", "3", "r", "float32"), SETUP, timing(2.0), timing(3.0), timing(8.0))
    assert (row.s, row.rows_s, row.gain, row.total) == ("2", "120", "1.50", "4.00")
