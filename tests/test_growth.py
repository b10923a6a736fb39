"""Growth: exponents are fitted rightly, memory is that of the work, and what grows too fast fails."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is part of the checkout, not of the package

from benchmarks import growth, growth_page, growth_point, markdown, rows
from benchmarks.growth import AXES, Axis, Row, power
from benchmarks.growth_point import Cost, Point, cost
from benchmarks.timer import Process, apart

# Masks are drawn and fitted in pieces of 2**21 entries, in float64 and what that is made of; all of s x k would be 800 MB.
MOST_MB = 250


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Rows are not kept in the repository."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_an_exponent_is_that_of_the_upper_half(exponent):
    values = [1, 2, 10, 100, 1000]
    costs = [7, 7, *(3 * value**exponent for value in values[2:])]
    assert power(values, costs, 1e-9) == pytest.approx(exponent, abs=1e-9)


def test_what_is_next_to_nothing_does_not_grow():
    assert power([1, 10, 100], [1e-6, 1e-5, 1e-4], 0.02) == pytest.approx(0, abs=1e-12)


AXIS = Axis("s", Point(n=1, k=9, size=32), (40, 80, 160), 1, 1, "")


def rows_of(seconds, megabytes):
    found = [Cost(second, mb) for second, mb in zip(seconds, megabytes, strict=True)]
    return growth.grown(AXIS, found, rows.where())


@pytest.mark.parametrize(
    ("seconds", "megabytes", "ok"),
    [
        ((1, 2, 4), (100, 200, 400), "yes"),
        ((1, 2, 5.2), (1, 1, 1), "no"),
        ((1, 1, 1), (100, 200, 520), "no"),
        ((0.001, 0.004, 0.016), (1, 4, 15), "yes"),
    ],
)
def test_what_grows_faster_than_it_must_fails(seconds, megabytes, ok):
    first, _, last = rows_of(seconds, megabytes)
    assert (first.ok, last.ok) == ("", ok)
    assert (last.time_most, last.memory_most, last.value) == ("1", "1", "160")


def cost_of_a_model_that_holds(megabytes):
    """What `cost` finds in a process of its own."""
    forward = growth_point.Corner.forward

    def heavy(self, images):
        torch.ones(megabytes * 2**18).sum()
        return forward(self, images)

    growth_point.Corner.forward = heavy
    return cost(Point(n=1, s=60, k=9, size=32), "cpu", 1, warm=False)


@pytest.mark.long
def test_memory_is_what_the_work_holds():
    """A model that holds 200 MB more for a moment is seen to."""
    little, much = (apart(Process("point"), cost_of_a_model_that_holds, megabytes).megabytes for megabytes in (1, 201))
    assert much - little == pytest.approx(200, abs=40)


@pytest.mark.gpu
def test_memory_of_a_gpu_is_what_its_tensors_hold():
    found = cost(Point(n=1, s=200, k=9, size=256, b=64), "cuda", 1)
    assert 64 * 3 * 256**2 * 4 / 2**20 < found.megabytes < 400


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_an_axis_has_the_segments_and_labels_it_says(axis):
    assert [getattr(point, axis.name) for point in axis.points()] == list(axis.values)
    point = replace(axis.points()[0], n=2, s=120)
    found = growth_point.explained(point, "cpu")()
    assert found.coefficients.shape == (2, point.l, point.k)
    assert found.coefficients.abs().max() > 0


def test_ranges_are_those_that_were_asked_for():
    assert {axis.name: (axis.values[0], axis.values[-1]) for axis in AXES} == {
        "n": (1, 1024),
        "s": (100, 100_000),
        "k": (10, 1000),
        "size": (32, 1024),
        "l": (1, 100),
    }


def test_the_command_keeps_rows_and_a_plot_that_is_the_same_every_time(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(growth, "apart", lambda process, call, *arguments: call(*arguments))
    monkeypatch.setattr(growth, "LEAST_S", 1e3)  # times of so little say nothing
    arguments = ["--tiny", "--save", "--repeats", "1"]
    assert growth.main(arguments, [AXIS]) == 0
    assert "s: time -0.00 (at most 1)" in capsys.readouterr().out.replace("time 0.00", "time -0.00")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    monkeypatch.setattr(markdown, "RESULTS", tmp_path / "tiny")
    plot, table = sorted((tmp_path / "tiny" / "growth").iterdir(), key=lambda path: path.suffix, reverse=True)
    kept = rows.read(table, Row)
    assert [row.value for row in kept] == ["40", "80"]
    assert all((row.device, row.commit, row.date, row.s_each, row.mb) for row in kept)
    drawn = plot.read_bytes()
    growth_page.plot(kept, plot)
    assert plot.read_bytes() == drawn
    text = markdown.devices("growth", Row, growth_page.table)
    assert "| samples | 40 | 80 | " in text
    assert f"](../benchmarks/results/growth/{plot.name})" in text


def stopped_at_the_second_axis(process, call, point, *others):
    if point.n == 2:
        raise KeyboardInterrupt
    return Cost(1.0, 1.0)


def test_an_axis_is_kept_with_its_powers_where_the_next_is_not(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(growth, "apart", stopped_at_the_second_axis)
    with pytest.raises(KeyboardInterrupt):
        growth.main(["--save"], [AXIS, Axis("n", Point(k=9, size=32), (1, 2), 1, 1, "")])
    plot, table = sorted((tmp_path / "growth").iterdir(), key=lambda path: path.suffix, reverse=True)
    kept = rows.read(table, Row)
    assert [(row.axis, row.value) for row in kept] == [("s", "40"), ("s", "80"), ("s", "160")]
    assert (kept[-1].time_most, kept[-1].ok) == ("1", "yes")
    assert float(kept[-1].time_power) == pytest.approx(0, abs=1e-9)
    assert plot.suffix == ".svg"


def test_without_matplotlib_rows_are_kept(tmp_path, monkeypatch, capsys):
    def missing(kept, path):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(growth, "apart", stopped_at_the_second_axis)
    monkeypatch.setattr(growth_page, "plot", missing)
    assert growth.main(["--save"], [AXIS]) == 0
    (table,) = (tmp_path / "growth").iterdir()
    assert len(rows.read(table, Row)) == 3
    assert "no plot: No module named 'matplotlib' (pip install -e '.[plots]')" in capsys.readouterr().out


@pytest.mark.long
def test_very_many_samples_and_segments_run_in_bounded_memory():
    """What is held is the piece in hand and one output a sample."""
    found = apart(Process("point"), cost, Point(n=1, s=100_000, k=1_000, size=128), "cpu", 1)
    assert found.megabytes < MOST_MB
