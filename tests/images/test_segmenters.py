"""Comparison of segmenters with scikit-image: the criteria, and the measured results."""

from __future__ import annotations

import numpy as np
import probes
import pytest
import torch

from benchmarks import rows, segmenters
from benchmarks.rows import read
from benchmarks.segmenters import Agreement, Row, agreement
from gpulime.images.segments import segment_one
from gpulime.segments import Quickshift

COMMITTED = sorted((rows.RESULTS / "segmenters").glob("*.csv"))
MAP = np.array([[0, 0, 1, 1], [0, 2, 2, 1]])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (MAP, Agreement(True, 1, 1)),
        ([[1, 1, 0, 0], [1, 2, 2, 0]], Agreement(True, 0.25, 1)),
        ([[0, 0, 1, 1], [0, 1, 1, 1]], Agreement(False, 0.75, 0.75)),
        ([[0, 0, 1, 1], [3, 2, 2, 1]], Agreement(False, 0.875, 0.875)),
    ],
    ids=["itself", "renamed", "two joined", "one cut"],
)
def test_how_label_maps_agree(other, expected):
    assert agreement(np.array(other), MAP) == expected
    assert agreement(MAP, np.array(other)) == expected


@pytest.fixture
def small(monkeypatch, tmp_path, pictures):
    """Use two small pictures instead of photographs, and keep results outside the repository."""
    monkeypatch.setattr(segmenters, "photographs", lambda: pictures(2))
    monkeypatch.setattr(rows, "RESULTS", tmp_path)


def test_the_command_compares_both_sides_and_keeps_a_row_for_each(small, tmp_path, capsys):
    if not torch.cuda.is_available() and (reason := probes.gpp()):
        pytest.skip(reason)
    for _ in range(2):
        assert segmenters.main(["--only", "quickshift", "--save"]) == 0
    (path,) = (tmp_path / "segmenters").iterdir()
    assert [(row.segmenter, row.photographs, row.n, row.ok) for row in read(path, Row)] == [
        ("quickshift", "scikit-image", "2", "yes")
    ] * 2
    assert "quickshift, reference, 2 photographs of scikit-image: k the same on 1.000" in capsys.readouterr().out


def test_a_wrong_segmenter_fails(small, monkeypatch, capsys):
    def wrong(images):
        return torch.from_numpy(segment_one(Quickshift(), images[0].permute(1, 2, 0).numpy()))[None] + 1

    monkeypatch.setattr(segmenters, "sides", lambda segmenter: [("wrong", wrong)])
    assert segmenters.main(["--only", "quickshift"]) == 1
    assert capsys.readouterr().out.endswith("TOO FEW\n")


def test_what_was_measured_is_enough():
    measured = [row for path in COMMITTED for row in read(path, Row)]
    assert {segmenters.named(segmenter) for segmenter in segmenters.MEASURED} <= {row.segmenter for row in measured}
    assert [(row.device, row.segmenter, row.side) for row in measured if row.ok != "yes"] == []
