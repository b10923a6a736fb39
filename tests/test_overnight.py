"""The numbers of a night's run: few of each here, and a bound that is not kept is a failure."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is part of the checkout, not of the package

from benchmarks import overnight, rows
from benchmarks.overnight_store import Measured

FEW = {"done_set": 300, "bytes_per_image": 24, "kills": 1, "memory_growth": 400, "start_again": 400}
COMMITTED = rows.RESULTS


@pytest.mark.parametrize("entry", overnight.ENTRIES, ids=lambda entry: entry.name)
@pytest.mark.long
def test_every_entry_keeps_its_bound(entry):
    if entry.name == "own_cost":  # of few images the start is most of it
        assert overnight.measured(replace(entry, n=400, bound=1000)).ok == "yes"
    else:
        assert overnight.measured(replace(entry, n=FEW[entry.name])).ok == "yes"


def entry(value, sound=True, bound=2.0):
    return overnight.Entry("one", "about", 5, lambda folder, n: Measured(value + n, str(folder.is_dir()), sound), bound, "s")


@pytest.mark.parametrize(("value", "sound", "code"), [(-3, True, 0), (-2.9, True, 1), (-3, False, 1)])
def test_the_exit_code_tells_whether_bounds_are_kept(value, sound, code, capsys):
    assert overnight.main([], [entry(value, sound)]) == code
    assert capsys.readouterr().out.startswith(f"one, n = 5: {value + 5:.3g} s (at most 2): {'FAILED' if code else 'ok'}; True")


def test_rows_are_kept_by_entry_and_device(tmp_path, monkeypatch):
    monkeypatch.setattr(overnight, "RESULTS", tmp_path)
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


def test_the_readme_tells_what_was_measured():
    readme = " ".join((Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split())
    kept = {row.entry: row for path in (COMMITTED / "overnight").glob("*.csv") for row in rows.read(path, overnight.Row)}
    assert set(kept) == {entry.name for entry in overnight.ENTRIES}
    assert f"costs {kept['own_cost'].value} ms an image" in readme
    assert f"grows by {kept['memory_growth'].value} MB after the first thousand" in readme
    assert f"first forward after {kept['start_again'].value} s" in readme
    assert "0 bad shards, 0 rows twice" in kept["kills"].detail
