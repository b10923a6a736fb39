"""Evaluations of runs over texts and table rows."""

from __future__ import annotations

import csv
import json

import joblib
import numpy as np
import pandas
import pytest
from markup import Page
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import gpulime
from gpulime import evaluate
from gpulime.cli import main
from gpulime.runs import open_run
from gpulime.runs.progress import exits

NAMES = ["setosa", "versicolor", "virginica"]
COLUMNS = ["sepal length", "sepal width", "petal length", "petal width"]
POSTS = ["the engine of my car makes noise", "a goal in the last minute of the game", "car and engine", "the game had no goal"]


@pytest.fixture
def texts(tmp_path):
    """A run over four texts."""
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(POSTS, ["cars", "games"] * 2)
    joblib.dump(pipeline, tmp_path / "posts.joblib")
    lines = [json.dumps({"id": f"p{i}", "post": text}) for i, text in enumerate(POSTS)]
    (tmp_path / "posts.jsonl").write_text("\n".join(lines))
    source = (f"--model.pickle={tmp_path / 'posts.joblib'}", f"--data.source={tmp_path / 'posts.jsonl'}")
    assert main.main(["explain", *source, "--data.text=post", "--data.id=id", f"--out={tmp_path / 'run'}"]) == 0
    return tmp_path / "run"


@pytest.fixture
def table(tmp_path):
    """A run over fifteen flowers."""
    data = load_iris()
    joblib.dump(RandomForestClassifier(10, random_state=0).fit(data.data, data.target), tmp_path / "forest.joblib")
    for name, lines in (("rows", data.data[::10].tolist()), ("training", data.data.tolist())):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *lines])
    files = [f"--data.source={tmp_path / 'rows.csv'}", f"--data.training={tmp_path / 'training.csv'}"]
    model = [f"--model.pickle={tmp_path / 'forest.joblib'}", f"--model.class_names=[{', '.join(NAMES)}]"]
    call = ["explain", *model, *files, "--data.columns=all", "--lime.n_samples=300", f"--out={tmp_path / 'run'}"]
    assert main.main(call) == 0
    return tmp_path / "run"


def frame(run):
    return pandas.read_parquet(run / "evaluation")


def check(run, explainer, inputs, expected_methods):
    """Compare LIME's rows with the metrics of an explainer."""
    found = frame(run)
    assert {method: set(part.metric) for method, part in found.groupby("method")} == expected_methods
    opened = open_run(run)
    explained = opened.explanations(list(opened))
    curves = evaluate.curves(explainer, inputs, explained)
    values = found[(found.method == "lime") & (found.metric == "gap")].set_index("image_id").value
    best = explained.predictions.argmax(1)
    expected = [float(curves.gap[i, j]) for i, j in enumerate(best.tolist())]
    np.testing.assert_allclose([values[name] for name in opened], expected, atol=1e-5)
    page = Page(run / "report.html")
    assert "random" in page.texts("th")
    assert "lime" in Page(run / "evaluation.html").texts("th")


CURVES, HELD_OUT = {"deletion", "insertion", "gap", "irof", "minimal_deletion"}, {"held_out_r2", "infidelity"}


def test_texts(texts, capsys):
    assert main.main(["evaluate", str(texts)]) == exits.OK
    assert "deletion and insertion by words, fill drop" in capsys.readouterr().out
    explainer = gpulime.TextExplainer(joblib.load(texts.parent / "posts.joblib"), quality="fast")
    check(texts, explainer, POSTS, {"lime": CURVES | HELD_OUT, "random": CURVES})
    assert main.main(["evaluate", str(texts), "--with", "gradcam"]) == exits.BAD_USAGE
    assert "--with names methods for images; this run explains texts" in capsys.readouterr().err


def test_table_rows(table, capsys):
    assert main.main(["evaluate", str(table)]) == exits.OK
    assert "deletion and insertion by columns, fill training" in capsys.readouterr().out
    data = load_iris()
    explainer = gpulime.TableExplainer(
        joblib.load(table.parent / "forest.joblib"), data.data, feature_names=COLUMNS, class_names=NAMES, n_samples=300
    )
    check(table, explainer, data.data[::10], {"lime": CURVES | HELD_OUT, "random": CURVES})
    assert main.main(["evaluate", str(table), "--unit", "pixels"]) == exits.BAD_USAGE
    assert "--unit pixels is for images; this run explains rows" in capsys.readouterr().err


def test_a_text_that_changed_is_a_row_with_its_reason(texts):
    path = texts.parent / "posts.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace("noise", "sounds"), *lines[2:]]))
    assert main.main(["evaluate", str(texts), "--metrics", "curves"]) == exits.ERROR_ROWS
    found = frame(texts)
    lost = found[found.error_type.notna()]
    assert set(zip(lost.image_id, lost.error_type, strict=True)) == {("p0", "changed"), ("p1", "missing")}
    assert set(found[found.error_type.isna()].image_id) == {"p2", "p3"}
