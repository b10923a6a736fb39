"""The benchmarks of evaluation, on a small network and small pictures."""

from __future__ import annotations

import csv
import itertools

import pytest
import torch

from benchmarks import models, rows
from benchmarks.convergence import fashion
from benchmarks.evaluation import cost, defaults, fills, samples, sensitivity
from gpulime.segments import Grid


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Replace EfficientNet, photographs and results/."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    for module in (defaults, fills, samples):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(rows, "where", lambda device="cpu": {"device": "this one"})
    for module in (cost, defaults, fills, samples):
        monkeypatch.setattr(module, "MODEL", "28x28 CNN", raising=False)
        monkeypatch.setattr(module, "photographs", lambda n: models.synthetic(n, 28, 28))
        monkeypatch.setattr(module, "where", lambda: {"device": "this one"})
    monkeypatch.setattr(defaults, "SETTINGS", {name: (Grid(2, 3), fill) for name, fill in defaults.FILLS.items()})
    monkeypatch.setattr(defaults, "DEFAULT", "mean")
    monkeypatch.setattr(defaults, "STEPS", 3)
    monkeypatch.setattr(defaults, "MASKS", 10)
    monkeypatch.setattr(fills, "STEPS", 4)
    monkeypatch.setattr(fills, "Slic", lambda n_segments: Grid(3, 3))
    monkeypatch.setattr(cost, "Slic", lambda n_segments: Grid(3, 3))
    explainer = defaults.explainer
    monkeypatch.setattr(defaults, "explainer", lambda *setting, **how: explainer(*setting, compile=False, **how))
    for name, value in (("SEGMENTS", Grid(5, 5)), ("SAMPLES", {"lime": (40, 400), "fast": (129,)})):
        monkeypatch.setattr(samples, name, value)
    return tmp_path


def read(folder):
    """Rows of the file in a folder of results."""
    (path,) = folder.glob("*.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def test_kept_fills_are_drawn_without_measuring(small, monkeypatch):
    pytest.importorskip("matplotlib")
    of = {"photographs": "some", "n": "1", "deletion": "0.2", "insertion": "0.5", "gap": "0.3", "device": "this one"}
    each = itertools.product(fills.UNITS, fills.FILLS, (fills.LIME, *fills.BASELINES))
    rows.save([fills.Row(unit=unit, fill=fill, method=name, **of) for unit, fill, name in each])
    monkeypatch.setattr(fills, "measured", None)
    pictures = []
    for _ in range(2):
        assert fills.main(["--draw"]) == 0
        pictures.append((small / "evaluation" / "fills" / "fills.svg").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"<?xml")


def test_settings_are_compared_with_the_default(small, capsys):
    assert defaults.main(["--photographs", "5", "--save"]) == 0
    found = {row["setting"]: row for row in read(small / "evaluation" / "defaults")}
    assert list(found) == sorted(["black", "blur", "centre", "grey", "mean", "random"])
    assert all(row["n"] == "5" for row in found.values())
    assert float(found["mean"]["gap"]) > float(found["random"]["gap"])
    assert found["mean"]["gap_less"] == "+0.000"
    less = float(found["blur"]["gap"]) - float(found["mean"]["gap"])
    assert float(found["blur"]["gap_less"]) == pytest.approx(less, abs=0.0015)
    gaps = [float(found["grey"][f"gap_{name}"]) for name in defaults.JUDGES]
    assert float(found["grey"]["gap"]) == pytest.approx(sum(gaps) / 3, abs=0.002)
    assert found["mean"]["segments"] == "6"
    assert found["centre"]["r2"] == ""
    assert "<svg" in (small / "evaluation" / "defaults" / "defaults.svg").read_text()
    assert "4 photographs\n" in capsys.readouterr().out


@pytest.mark.long
def test_more_samples_predict_held_out_masks_better(small, capsys):
    assert samples.main(["--photographs", "5", "--save"]) == 0
    found = {(row["quality"], row["samples"]): row for row in read(small / "evaluation" / "samples")}
    assert list(found) == [("fast", "129"), ("lime", "40"), ("lime", "400")]
    few, many = found["lime", "40"], found["lime", "400"]
    assert float(few["fit"]) > float(few["r2"]) + 0.1
    assert float(many["r2"]) > float(few["r2"]) + 0.1
    assert 1 > float(many["spearman"]) > float(few["spearman"])
    assert many["n"] == "5"
    assert "<svg" in (small / "evaluation" / "samples" / "samples.svg").read_text()
    assert "4 photographs\n" in capsys.readouterr().out


@pytest.mark.long
def test_fills_have_rows_for_all_methods(small):
    found = list(fills.measured(models.synthetic(2, 28, 28), compile=False))
    assert len(found) == 2 * 4 * 5
    assert {row.method for row in found} == {"LIME", "Grad-CAM", "abs. gradient", "random segments", "centre blob"}
    for row in found:
        assert float(row.gap) == pytest.approx(float(row.insertion) - float(row.deletion), abs=0.0015)
        assert bool(row.ok) == (row.method == "LIME")
    gaps = {(row.unit, row.fill, row.method): float(row.gap) for row in found}
    for row in found:
        if row.ok:
            others = [gaps[row.unit, row.fill, name] for name in fills.BASELINES]
            assert row.ok == ("yes" if float(row.gap) > max(others) else "no")


def test_the_loop_has_the_same_curves_and_forwards(small, monkeypatch):
    monkeypatch.setattr(cost, "LOOP", 1e9)
    ours, theirs = cost.against_loop(compile=False, turns=1)
    assert ours.forwards == theirs.forwards == str(2 * 9)
    assert ours.ok == "yes"
    monkeypatch.setattr(cost, "LOOP", 0)
    assert cost.against_loop(compile=False, turns=1)[0].ok == "no"
    with pytest.raises(RuntimeError, match="curves differ by"):
        cost.check_same(torch.tensor([1.0, 0.5, 0.2]), torch.tensor([1.0, 0.2, 0.6]), 2)


def test_torchcam_runs_beside_curves(small, monkeypatch):
    pytest.importorskip("torchcam.metrics")
    monkeypatch.setattr(cost, "STEPS", 4)
    ours, theirs = cost.against_torchcam(turns=1, n=2)
    assert ours.forwards == theirs.forwards == "16"
    assert (ours.side, theirs.side) == ("gpulime", "torchcam")


def test_sensitivity_has_rows_for_both_sides(monkeypatch, small, capsys):
    pytest.importorskip("captum")
    if not fashion.DATA.exists():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    monkeypatch.setattr(sensitivity, "where", lambda: {"device": "this one"})
    monkeypatch.setattr(sensitivity, "N", 1)
    monkeypatch.setattr(sensitivity, "SAMPLES", 50)
    sensitivity.main(["--save"])
    found = read(small / "evaluation" / "sensitivity")
    assert [(row["side"], row["radius"], row["ok"]) for row in found] == [
        ("captum", "0", "yes"),
        ("captum", "0.02", "yes"),
        ("gpulime", "0", "yes"),
        ("gpulime", "0.02", "yes"),
    ]
