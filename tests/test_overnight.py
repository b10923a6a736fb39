"""The numbers of a night's run: few of each here, and a bound that is not kept is a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import overnight, rows
from benchmarks.overnight_store import Measured

FEW = {"done_set": 300, "bytes_per_image": 24, "kills": 1, "start_again": 400}
COMMITTED = rows.RESULTS


@pytest.mark.parametrize("entry", overnight.ENTRIES, ids=lambda entry: entry.name)
@pytest.mark.long
def test_every_entry_keeps_its_bound(entry):
    if entry.of_photographs:
        pytest.skip("it needs a folder of photographs of ImageNet")
    if entry.name in ("own_cost", "report", "memory_growth"):  # of few images the start, and a first time, are most of it
        assert overnight.measured(replace(entry, n=400, bound=1000)).ok == "yes"
    else:
        assert overnight.measured(replace(entry, n=FEW[entry.name])).ok == "yes"


def entry(value, sound=True, bound=2.0):
    return overnight.Entry("one", "about", 5, lambda folder, n: Measured(value + n, str(folder.is_dir()), sound), bound, "s")


@pytest.mark.parametrize(("value", "sound", "code"), [(-3, True, 0), (-2.9, True, 1), (-3, False, 1)])
def test_the_exit_code_tells_whether_bounds_are_kept(value, sound, code, capsys):
    assert overnight.main([], [entry(value, sound)]) == code
    assert capsys.readouterr().out.startswith(f"one, n = 5: {value + 5:.3g} s (at most 2): {'FAILED' if code else 'ok'}; True")


def test_a_bound_may_be_the_least(capsys):
    low, high = (replace(entry(value, bound=5.85), at_least=True) for value in (0.84, 0.86))
    assert (overnight.main([], [low]), overnight.main([], [high])) == (1, 0)
    assert "(at least 5.85): FAILED" in capsys.readouterr().out


def test_photographs_are_left_out_where_there_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    seen = []

    def measure(source, folder, n):
        seen.append((source, folder.is_dir(), n))
        return Measured(1, "")

    one = replace(entry(0), measure=measure, of_photographs=True)
    assert overnight.main(["--save"], [one]) == 0
    assert capsys.readouterr().out.startswith("one: skipped, it needs --photographs DIR")
    assert overnight.main(["--photographs", str(tmp_path)], [one]) == 0
    assert seen == [(tmp_path, True, 5)]


@pytest.mark.long
def test_photographs_that_are_none_of_imagenet_are_measured_and_fail(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((224, 224, 3), np.uint8)).save(tmp_path / "in" / "black.png")
    (tmp_path / "in" / "labels.csv").write_text("file,class_index\nblack.png,0\n")
    (wanted,) = (one for one in overnight.ENTRIES if one.of_photographs)
    row = overnight.measured(replace(wanted, n=1), tmp_path / "in")
    assert (row.value, row.ok) == ("0", "no")
    assert row.detail.startswith("1 of 1 explained, 1 of known class")
    assert "it ended with 2" in overnight.measured(replace(wanted, n=1), tmp_path / "nowhere").detail


def test_rows_are_kept_by_entry_and_device(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    for value, name in ((1, "b"), (1, "a"), (2, "b")):
        overnight.main(["--save", "--n", "0"], [replace(entry(value), name=name)])
    (kept,) = (tmp_path / "overnight").iterdir()
    assert [(row.entry, row.value) for row in rows.read(kept, overnight.Row)] == [("a", "1"), ("b", "2")]


def test_what_was_kept_is_of_whole_numbers_and_kept_its_bounds():
    files = list((COMMITTED / "overnight").glob("*.csv"))
    assert files
    wanted = {one.name: str(one.n) for one in overnight.ENTRIES}
    for file in files:
        for row in rows.read(file, overnight.Row):
            assert (row.n, row.ok) == (wanted[row.entry], "yes")


def test_the_page_on_runs_tells_what_was_measured():
    page = " ".join((Path(__file__).parents[1] / "docs" / "runs.md").read_text(encoding="utf-8").split())
    kept = {row.entry: row for path in (COMMITTED / "overnight").glob("*.csv") for row in rows.read(path, overnight.Row)}
    assert set(kept) >= {entry.name for entry in overnight.ENTRIES} - {"report", "photographs"}
    assert f"costs {kept['own_cost'].value} ms an image" in page
    assert f"grows by {kept['memory_growth'].value} MB after the first thousand" in page
    assert f"first forward after {kept['start_again'].value} s" in page
    if "report" in kept:
        assert f"its report takes {kept['report'].value} ms an image" in page
    assert "0 bad shards, 0 rows twice" in kept["kills"].detail
