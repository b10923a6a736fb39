"""Batches that do not fit into memory are passed in halves, also across flights."""

from __future__ import annotations

import pytest
import torch

from gpulime import Explainer
from gpulime.engine.flight import Flight
from gpulime.engine.queue import _halves
from gpulime.segments import Grid


@pytest.mark.parametrize("b", range(1, 12))
def test_halves_hold_all_places_in_order(b):
    pieces = [("f", 0, 3), ("g", 5, 9), ("h", 2, 7)]
    places = [(flight, place) for flight, start, stop in pieces for place in range(start, stop)]
    halves = [[(flight, place) for flight, start, stop in half for place in range(start, stop)] for half in _halves(pieces, b)]
    assert halves == [places[:b], places[b:]]


@pytest.mark.filterwarnings("ignore:.*not above")
def test_memory_that_runs_out_across_several_flights_changes_nothing(monkeypatch, cnn, pictures):
    """Each flight is an image with 6 rows; the first batch of 16 has rows of three, and memory fails at the third."""
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 6})

    def explained():
        return Explainer(cnn, 6, Grid(3, 3), batch_size=16).explain(pictures(9), keys=torch.arange(9)).coefficients

    expected, rows, composed = explained(), Flight.rows, []

    def starved(self, start, stop):
        composed.append(stop - start)
        if len(composed) == 3:
            raise torch.OutOfMemoryError("no memory")
        return rows(self, start, stop)

    monkeypatch.setattr(Flight, "rows", starved)
    with pytest.warns(UserWarning, match="out of memory with 16 rows"):
        actual = explained()
    assert composed[:7] == [6, 6, 4, 6, 2, 4, 4]
    assert float((actual - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
