"""The benchmark of the scripts in examples/, on a small script."""

from __future__ import annotations

import csv

import pytest

from benchmarks import rows, tutorials

SCRIPT = """
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from gpulime.lime_tabular import LimeTabularExplainer
data = load_iris()
model = LogisticRegression(max_iter=1000).fit(data.data, data.target)
explainer = LimeTabularExplainer(data.data, random_state=0)
explanation = explainer.explain_instance(data.data[0], model.predict_proba, num_samples=200)
raise RuntimeError("nothing after the explanation is run")
"""
MISSING = "raise SystemExit('install something')\nexplanation = None"


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Replace the scripts and results/; return the rows that are kept."""
    pytest.importorskip("lime")
    scripts = {"small": SCRIPT, "missing": MISSING}
    monkeypatch.setattr(tutorials, "SCRIPTS", {name: tmp_path / f"{name}.py" for name in scripts})
    for name, text in scripts.items():
        tutorials.SCRIPTS[name].write_text(text)
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(tutorials, "where", lambda: {"device": "this one"})

    def read():
        with (tmp_path / "tutorials" / "this-one.csv").open() as file:
            return list(csv.DictReader(file))

    return read


def test_a_script_is_measured_beside_lime(kept, capsys):
    assert tutorials.main(["--only", "small", "missing", "--repeats", "2", "--save"]) in (0, 1)  # its time means nothing
    ours, limes = kept()
    assert (ours["side"], limes["side"]) == ("gpulime", "lime")
    assert float(ours["error"]) < 1e-9
    assert float(ours["ratio"]) == pytest.approx(float(limes["ms"]) / float(ours["ms"]), rel=0.1)
    assert "missing: skipped, install something" in capsys.readouterr().out


def test_another_explanation_gets_no_time(kept, monkeypatch):
    monkeypatch.setattr(tutorials, "difference", lambda ours, theirs: 0.1)
    assert tutorials.main(["--only", "small", "--repeats", "1", "--save"]) == 1
    [row] = kept()
    assert (row["ok"], row["ms"], row["error"]) == ("no", "", "0.1")


def test_differences_are_relative_to_the_largest_weight():
    class Explanation:
        def __init__(self, weights, label=0):
            self.local_exp = {label: list(enumerate(weights))}

    assert tutorials.difference(Explanation([1.0, -4.0]), Explanation([1.2, -4.0])) == pytest.approx(0.05)
    assert tutorials.difference(Explanation([1.0]), Explanation([1.0], label=1)) == float("inf")
    assert tutorials.difference(Explanation([1.0]), Explanation([1.0, 0.5])) == float("inf")
