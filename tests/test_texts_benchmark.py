"""The benchmark of texts: a wrong answer and a ratio below its bound fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import rows, texts
from benchmarks.texts import ENTRIES, Entry

pytest.importorskip("lime")

TINY = Entry("tiny", "a trial", "logistic", 0, 3, 8, 2, 60)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(texts, "FORTUNES", texts.FORTUNES / "missing")  # other machines may have them or not
    monkeypatch.setattr(texts, "TRAINED", 60)
    for cached in (texts.corpus, texts.pipeline, texts.bert):
        cached.cache_clear()
    yield
    for cached in (texts.corpus, texts.pipeline, texts.bert):
        cached.cache_clear()


def test_a_trial_runs_and_is_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    assert texts.main(["--save", "--repeats", "1"], [TINY], []) == 0
    [path] = (tmp_path / "texts").iterdir()
    lime, drop_in, ours = rows.read(path, texts.Row)
    assert {lime.side, drop_in.side, ours.side} == {"lime", "gpulime.lime_text", "gpulime.TextExplainer"}
    assert "ratio" in capsys.readouterr().out


def test_a_ratio_below_its_bound_fails(capsys):
    assert texts.main(["--repeats", "1"], [replace(TINY, bound=10**6)], []) == 1


def test_a_wrong_answer_fails(monkeypatch):
    monkeypatch.setattr(texts, "Ridge", lambda alpha: _Wrong())
    assert texts.main(["--repeats", "1"], [TINY], []) == 1


class _Wrong:
    coef_ = 1.0

    def fit(self, *_, **__):
        return self


def test_models_of_all_entries_are_known():
    for name in {entry.model for entry in ENTRIES if "bert" not in entry.model}:
        function, settings = texts.model_of(name)
        assert len(function(["a text"])) == 1
        assert callable(settings["model"]) or hasattr(settings["model"], "predict_proba")


def test_coverage(monkeypatch):
    for name, value in {"TEXTS": 2, "REPEATED": 5, "SAMPLES": 100, "REFERENCE": 2000}.items():
        monkeypatch.setattr(texts, name, value)
    row = texts.covered(8, {})
    assert 0.5 < float(row.coverage) <= 1
