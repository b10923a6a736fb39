"""Tutorials of lime run with only the import changed: the same explanations as lime's, and pages to look at."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FORTUNES = Path("/usr/share/games/fortunes/science")
LINES = 30

PAGES = {  # script -> its page, what it shows, and how far weights may be from lime's
    "diabetes_regression": ("diabetes.html", ["Predicted value", "bmi", "Values and weights"], 1e-8),
    "iris_forest": ("iris.html", ["Prediction probabilities", "petal width (cm)", "setosa"], 1e-9),
    "recurrent_series": ("series.html", ["signal_t-0", "noise_t-1", "rises"], 1e-5),
    "fortunes_texts": ("fortunes.html", ["computer</mark>", "science"], 1e-9),
    "tiny_bert": ("tiny_bert.html", ["slow</mark>", "negative"], 1e-4),
}
QUICK = ("iris_forest",)


def source(name):
    return (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")


def test_every_script_is_short_and_differs_from_limes_by_its_import():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PAGES)
    for name in PAGES:
        lines = source(name).splitlines()
        assert len(lines) < LINES, name
        (line,) = [line for line in lines if "gpulime" in line]
        ours, _, theirs = line.partition("  # lime: ")
        assert ours.replace("gpulime.", "lime.") == theirs, name


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name not in QUICK)) for name in PAGES])
def test_a_script_explains_as_lime_does_and_leaves_a_small_page(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("lime")
    if name == "tiny_bert":
        pytest.importorskip("transformers")
    if name == "fortunes_texts" and not FORTUNES.is_file():
        pytest.skip("needs Debian's package fortunes")
    monkeypatch.chdir(tmp_path)
    ours = runpy.run_path(str(EXAMPLES / f"{name}.py"))["explanation"]
    page, shown, tolerance = PAGES[name]
    html = (tmp_path / page).read_text(encoding="utf-8")
    assert all(text in html for text in shown)
    assert len(html.encode()) < 15_000
    assert "<script" not in html

    (tmp_path / "lime_script.py").write_text(source(name).replace("from gpulime.", "from lime."), encoding="utf-8")
    theirs = runpy.run_path(str(tmp_path / "lime_script.py"))["explanation"]
    label = 1 if ours.mode == "regression" else ours.available_labels()[0]
    assert list(theirs.local_exp) == list(ours.local_exp)
    (names, weights), (expected_names, expected) = (zip(*one.as_list(label), strict=True) for one in (ours, theirs))
    assert names == expected_names
    np.testing.assert_allclose(weights, expected, rtol=0, atol=tolerance * max(map(abs, expected)))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) % 2 == 0  # both scripts print as many lines
    assert len(printed) >= 2


def test_without_the_texts_a_script_says_how_to_get_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(source("fortunes_texts").replace("/usr/share/games/fortunes", str(tmp_path)), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"has no texts of .*: apt-get install fortunes"):
        runpy.run_path(str(script))
