"""The few images that a report says to look at first, if a grid makes their segments comparable."""

from __future__ import annotations

import numpy as np
import pytest
from markup import Page
from rows import LABELS, explained, run

from gpulime.views.report import page

GRID = "torch grid(rows=2, columns=2)"
# An image each for the places 0 and 1, one for 2 and 3, and images that add nothing.
SHOWN = [(0.9, 0, 0, 0), (0, 0.9, 0, 0), (0, 0, 0.5, 0.5), (0.2, -0.9, 0, 0), (0, 0.2, -0.9, 0), (0, 0, 0, 0), (-1, -1, 0, 0)]


def started(tmp_path, rows):
    shown = Page(page.write(run(tmp_path, *rows), lambda row: None, None))
    return next((element["text"] for element in shown.elements if element.get("id") == "start"), None)


def test_images_on_one_grid_are_picked_by_place(tmp_path):
    rows = [explained(f"{i}.png", coef=[weights, (0, 0, 0, 0)], segmenter=GRID) for i, weights in enumerate(SHOWN)]
    names, _, share = " ".join(started(tmp_path, rows).split()).removeprefix("Start here: ").partition(". ")
    assert set(names.split(", ")[:3]) == {"0.png", "1.png", "2.png"}  # which show all four places
    assert "100 % of what all 7 explanations use" in share.replace("\xa0", " ")


@pytest.mark.parametrize("changed", [{"segmenter": "slic"}, {"segmenter": GRID, "segments": np.flipud(LABELS)}])
def test_images_with_other_segments_are_not(tmp_path, changed):
    rows = [explained(f"{i}.png", segmenter=GRID) for i in range(6)]
    rows[0 if "segments" not in changed else 5] = explained("x.png", **changed)
    assert started(tmp_path, rows) is None
