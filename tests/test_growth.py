"""Growth: exponents are fitted correctly, only the work's memory counts, and growth above the bound fails."""

from __future__ import annotations

import mmap
from dataclasses import replace

import pytest
import torch

from benchmarks import growth, rows, table
from benchmarks.growth import AXES, Axis, Cost, Point, Row, cost, power
from benchmarks.sides import Process, apart
from gpulime.bench.machine import forget_peak, peak_memory

# Masks are drawn and fitted in pieces of 2**21 entries, in float64; all of s x k would be 800 MB.
MOST_MB = 250
AXIS = Axis("s", Point(n=1, k=9, size=32), (40, 80, 160), 1, 1, "")


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_an_exponent_is_that_of_the_upper_half(exponent):
    values = [1, 2, 10, 100, 1000]
    costs = [7, 7, *(3 * value**exponent for value in values[2:])]
    assert power(values, costs, 1e-9) == pytest.approx(exponent, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "megabytes", "ok"),
    [
        ((1, 2, 4), (100, 200, 400), "yes"),
        ((1, 2, 5.2), (1, 1, 1), "no"),
        ((1, 1, 1), (100, 200, 520), "no"),
        ((0.001, 0.004, 0.016), (1, 4, 15), "yes"),  # next to nothing
    ],
)
def test_growth_above_the_bound_fails(seconds, megabytes, ok):
    found = [Cost(second, mb) for second, mb in zip(seconds, megabytes, strict=True)]
    first, _, last = growth.grown(AXIS, found, {})
    assert (first.ok, last.ok) == ("", ok)
    assert (last.time_most, last.memory_most, last.value) == ("1", "1", "160")


def test_memory_is_the_peak_since_the_start():
    """Pages that are gone again are seen, once; they are not malloc's, which may have some left."""
    device, size = torch.device("cpu"), 2**27
    before = forget_peak(device)
    if not before:
        pytest.skip("the system does not tell the memory of a process")
    with mmap.mmap(-1, size) as pages:
        for at in range(0, size, mmap.PAGESIZE):
            pages[at] = 1
    assert 0.8 * size < peak_memory(device) - before < 1.5 * size
    forget_peak(device)
    assert peak_memory(device) - before < 0.5 * size


@pytest.mark.gpu
def test_memory_of_a_gpu_is_that_of_its_tensors():
    found = cost(Point(n=1, s=200, k=9, size=256, b=64), "cuda", 1)
    assert 64 * 3 * 256**2 * 4 / 2**20 < found.megabytes < 400


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_an_axis_has_the_segments_and_labels_it_says(axis):
    assert [getattr(point, axis.name) for point in axis.points()] == list(axis.values)
    point = replace(axis.points()[0], n=2, s=120)
    found = growth.explained(point, "cpu")()
    assert found.coefficients.shape == (2, point.l, point.k)
    assert found.coefficients.abs().max() > 0


def test_axes_are_kept_as_they_come_with_a_plot_that_is_always_the_same(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(growth, "apart", lambda process, call, point, *others: Cost(1 / (point.n == 1), point.s))
    with pytest.raises(ZeroDivisionError):
        growth.main(["--tiny", "--save"], [AXIS, Axis("n", Point(k=9, size=32), (2, 4), 1, 1, "")])
    assert "s: time 0.00 (at most 1), memory 1.00 (at most 1): ok" in capsys.readouterr().out.replace("-0.00", "0.00")
    plot, file = sorted((tmp_path / "tiny" / "growth").iterdir(), key=lambda path: path.suffix, reverse=True)
    kept = rows.read(file, Row)
    assert [(row.axis, row.value) for row in kept] == [("s", "40"), ("s", "80")]
    assert all((row.device, row.commit, row.date, row.s_each, row.mb) for row in kept)
    drawn = plot.read_bytes()
    growth.plot(kept, plot)
    assert plot.read_bytes() == drawn
    text = table.of_growth(kept)
    assert "| samples | 40 | 80 | " in text
    assert f"](../benchmarks/results/growth/{plot.name})" in text


@pytest.mark.long
def test_many_samples_and_segments_need_bounded_memory():
    """Only the piece in work and one output per sample are held."""
    assert apart(Process("point"), cost, Point(n=1, s=50_000, k=1_000, size=64), "cpu", 1).megabytes < MOST_MB
