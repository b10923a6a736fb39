"""Benchmarks: an error beside every time, no time for a wrong answer, and pages that show the measured results."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import models, rows, run, table
from benchmarks.entries import ENTRIES, Entry
from benchmarks.peers.lime import drop_in_many, drop_in_module, lime_best
from benchmarks.run import Row
from benchmarks.rungs import op_inside, op_outside
from benchmarks.setups import Setup
from benchmarks.sides import (
    BFLOAT16,
    FLOAT32,
    Process,
    Side,
    compiled,
    definition,
    difference,
    engine,
    masked_outputs,
    tolerance,
)

COMMITTED = rows.RESULTS
SETUP = Setup("pixels", n=1, s=80, sampler="lime")
ENTRY = Entry(
    "pixels",
    "over itself",
    SETUP,
    (Side("itself", engine),),
    1e-6,
    1e-5,
    reference=Side("definition", definition),
    ours=Side("gpulime", engine),
    repeats=2,
)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Keep rows outside the repository; return the function that reads them."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    return lambda: [row for path in tmp_path.glob("*.csv") for row in rows.read(path, Row)]


COMPILED = (compiled, op_inside, op_outside)
SIDES = {(side.make, side.b) for entry in ENTRIES for side in (entry.ours, *entry.theirs) if side.make not in COMPILED}


@pytest.mark.parametrize(("make", "b"), sorted(SIDES, key=str), ids=lambda value: getattr(value, "__name__", value))
def test_every_side_explains_the_same(make, b):
    pytest.importorskip({"captum": "captum"}.get(make.__name__, "lime" if "lime" in make.__name__ else "numpy"))
    coefficients = Side("", make, b=b).run(SETUP).coefficients
    if make.__name__ not in ("bare", "captum"):
        expected = Side("", definition).run(replace(SETUP, b=10)).coefficients
        assert difference(coefficients, expected)[0] < (1e-4 if make in (drop_in_module, drop_in_many) else 1e-5)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("make", COMPILED)
def test_a_compiled_side_explains_the_same_within_its_precision(make, inductor):
    setup = Setup("28x28 CNN", n=1, s=96, b=16)
    expected = Side("", definition).run(setup).coefficients
    assert difference(Side("", make).run(replace(setup, precision="bfloat16")).coefficients, expected)[0] < BFLOAT16


@pytest.mark.long
def test_a_pretrained_model_is_explained_within_the_tolerance():
    """For larger models benchmarks.run finds the error before it starts a clock."""
    pytest.importorskip("efficientnet_lite_pytorch")
    setup = Setup(n=1, s=60, b=10)
    error, top5 = difference(*(Side("", make).run(setup).coefficients for make in (engine, definition)))
    assert error <= FLOAT32
    assert top5 == 1


def test_many_images_in_one_queue_are_those_of_lime_s_loop():
    pytest.importorskip("lime")
    setup = replace(SETUP, n=2)
    many, loop = (Side("", make).run(setup).coefficients for make in (drop_in_many, lime_best))
    assert many.shape[0] == 2
    assert difference(many, loop)[0] < 1e-4


def test_the_bounds_were_kept_when_they_were_measured():
    """The committed results."""
    names = [entry.name for entry in ENTRIES]
    measured = [row for path in COMMITTED.glob("*.csv") for row in rows.read(path, Row) if row.entry in names]
    assert measured
    assert [row.entry for row in measured if row.ok == "no"] == []


@pytest.mark.parametrize("name", ["28x28 CNN", "pixels", pytest.param("ResNet-18", marks=pytest.mark.long)])
def test_a_model_tells_pictures_apart_and_is_always_the_same(name):
    side = models.MODELS[name].side
    pictures = (models.synthetic(2, side, side) - models.MEAN) / models.STD
    torch.manual_seed(3)
    with torch.no_grad():
        first, again = (models.MODELS[name].make()(pictures) for _ in range(2))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn), "the caller's random numbers stay"
    assert torch.equal(first, again)
    probabilities = first.softmax(1)
    assert (probabilities[0] - probabilities[1]).abs().max() > 1e-3


def test_segments_found_inside_the_clock_are_those_given():
    given, own = (Side("", engine).run(replace(SETUP, segments=segments)).coefficients for segments in (False, True))
    assert difference(own, given)[0] == 0
    assert torch.equal(SETUP.label_map(0), replace(SETUP, segments=True).label_map(0))


def test_entries_are_data_with_different_names():
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert {entry.setup.precision for entry in ENTRIES if entry.name.endswith("bfloat16")} == {"bfloat16"}
    assert all(hash(entry) for entry in ENTRIES)


def test_time_and_error_are_kept_together(kept, capsys):
    assert run.main(["--save"], [ENTRY]) == 0
    ours, theirs = kept()
    assert [ours.side, theirs.side, ours.ok] == ["gpulime", "itself", "yes"]
    assert 0 <= float(ours.error) <= 1e-5
    assert float(ours.q20) <= float(ours.cpu_s) <= float(ours.q80)
    assert math.isclose(float(ours.ratio), float(theirs.cpu_s) / float(ours.cpu_s), rel_tol=0.1)
    assert (ours.rows, ours.repeats, ours.top5) == ("80", "2", "1.00")
    assert all((row.device, row.torch, row.python, row.commit, row.date) for row in (ours, theirs))
    assert "ok" in capsys.readouterr().out


def scaled(factor):
    """An engine whose coefficients are wrong by a factor."""
    return Side("gpulime", lambda setup: lambda: engine(setup)() * factor)


@pytest.mark.parametrize("factor", [1.0001, math.nan])
def test_a_wrong_side_gets_no_time_and_fails(factor, kept, capsys):
    assert run.main(["--save"], [replace(ENTRY, ours=scaled(factor))]) == 1
    (row,) = kept()
    assert (row.cpu_s, row.wall_s, row.ratio, row.ok) == ("", "", "", "no")
    assert float(row.error) == pytest.approx(factor - 1, rel=0.1, nan_ok=True)
    assert "no time" in capsys.readouterr().out


def test_a_missed_bound_fails(kept):
    assert run.main(["--save"], [replace(ENTRY, least=1e6)]) == 1
    assert (kept()[0].ok, kept()[0].bound) == ("no", "at least 1e+06")


def test_an_entry_without_its_package_is_skipped(kept, capsys):
    def missing(setup):
        raise ModuleNotFoundError("No module named 'lime'")

    assert run.main(["--save"], [replace(ENTRY, theirs=(Side("lime", missing),)), replace(ENTRY, name="other")]) == 0
    assert "pixels: skipped, No module named 'lime' (pip install -e '.[peers]')" in capsys.readouterr().out
    assert {row.entry for row in kept()} == {"other"}


def test_save_replaces_the_rows_of_what_ran(kept, monkeypatch):
    numbers = count()
    entries = [replace(ENTRY, name=name, repeats=1) for name in ("first", "second", "third")]
    monkeypatch.setattr(
        run, "measure", lambda entry, repeats, place: [Row(entry.name, "gpulime", ratio=str(next(numbers)), **place)]
    )
    run.main(["--save"], entries)
    before = kept()
    rows.write(rows.file_of(before[0].device), [*before, Row("forgotten", "gpulime")], Row)  # by another version
    run.main(["--save", "--only", "second"], entries)
    after = kept()
    assert [row.entry for row in after] == [row.entry for row in before]
    assert [row for row in after if row.entry != "second"] == [row for row in before if row.entry != "second"]


def test_an_unknown_entry_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["--only", "pixel"], [ENTRY])
    assert "pixels" in capsys.readouterr().err


def test_the_definition_is_exact_in_float32_and_rounds_in_bfloat16():
    setup = Setup("28x28 CNN", n=1, s=120)
    exact, rounded = (definition(replace(setup, precision=precision))() for precision in ("float32", "bfloat16"))
    assert 1e-4 < difference(rounded, exact)[0] < 0.2
    cudnn, seen = torch.backends.cudnn, []

    def classify(rows):
        seen.append(cudnn.conv.fp32_precision == "ieee" if hasattr(cudnn, "conv") else not cudnn.allow_tf32)
        return rows.flatten(1)[:, :3]

    labels = torch.arange(64).view(8, 8) // 16
    assert masked_outputs(classify, torch.rand(3, 8, 8), labels, 0, torch.rand(40, 4) < 0.5, 20).shape == (40,)
    assert seen == [True, True], "no TF32"


@pytest.mark.parametrize(("noise", "most"), [(0.0, 0.2), (0.09, 0.2), (0.3, 0.6), (5.0, 0.9)])
def test_an_error_on_a_gpu_may_be_what_rounding_brings_and_less_than_1(noise, most):
    assert tolerance("cuda", "bfloat16", 0.1, lambda: noise) == pytest.approx(most)
    assert tolerance("cuda", "float32", 0.1, lambda: noise) == pytest.approx(most / 8)
    assert tolerance("cpu", "bfloat16", 0.1, lambda: noise) == 0.1


def environment(setup):
    """As coefficients: 1 if this process was started to keep memory, and its id."""
    return lambda: np.array([[float("MALLOC_MMAP_MAX_" in os.environ), os.getpid()]])


def dies(setup):
    """End its process."""
    os._exit(1)


@pytest.mark.long
def test_sides_have_processes_that_are_replaced_if_they_die():
    own = Process("kept", keeps_memory=True)
    first, again = (Side("", environment, own).run(SETUP).coefficients[0] for _ in range(2))
    assert (first[0], first[1] == again[1], first[1] == os.getpid()) == (1, True, False)
    with pytest.raises(Exception, match="terminated abruptly"):
        Side("", dies, own).run(SETUP)
    assert Side("", environment, own).run(SETUP).coefficients[0, 1] != first[1]


@pytest.mark.parametrize(("page", "blocks"), table.PAGES.items(), ids=lambda value: getattr(value, "name", ""))
def test_pages_show_the_results(page, blocks, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", COMMITTED)
    text = page.read_text(encoding="utf-8")
    assert table.written(text, blocks) == text, "python -m benchmarks.table --write"


def test_a_block_without_results_says_so(tmp_path):
    rows.write(tmp_path / "device.csv", [Row("forgotten", "gpulime", cpu_s="1", ratio="1")], Row)
    assert {block() for blocks in table.PAGES.values() for block in blocks.values()} == {"Not measured yet.\n"}


def test_the_table_has_a_row_per_entry_between_the_markers_of_its_page(tmp_path, capsys):
    entry, place = ENTRIES[-1], {"device": "a device", "torch": "2", "python": "3", "commit": "abc", "date": "today"}
    measured = [
        Row(entry.name, side, cpu_s=cpu, ratio=ratio, bound="at least 6", ok="yes", error="3e-07", top5="1.00", **place)
        for side, cpu, ratio in [("gpulime", "1.0", "7.0"), ("slow", "9.0", "9.0"), ("fast", "7.0", "7.0")]
    ]
    failed = Row(ENTRIES[0].name, "gpulime", ok="no", error="0.3", **place)
    rows.write(tmp_path / "device.csv", [failed, *measured], Row)
    text = table.entries()
    (line,) = [line for line in text.splitlines() if entry.about in line]
    assert all(part in line for part in ("**7.0**", "at least 6", "1.00 s", "7.00 s, fast", "3e-07"))
    assert ENTRIES[0].about not in text
    assert text.startswith("a device; torch 2, Python 3; today, commit abc\n\n| ")
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n")
    for _ in range(2):
        table.main(["--write"], {page: {"benchmarks": table.entries}})
        assert page.read_text() == f"before\n<!-- benchmarks -->\n{text}<!-- /benchmarks -->\nafter\n"
    with pytest.raises(SystemExit):
        table.main(["--write"], {page: {"peers": lambda: ""}})
    assert "has no <!-- peers --> and <!-- /peers -->" in capsys.readouterr().err


def test_rows_of_a_trial_are_kept_apart_and_git_ignores_them(tmp_path):
    assert rows.file_of("A device") == tmp_path / "a-device.csv"
    assert rows.file_of("A device", "growth", tiny=True) == tmp_path / "tiny" / "growth" / "a-device.csv"
    assert "/benchmarks/results/tiny/" in (Path(__file__).parent.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
