"""Runs over texts and table rows: the same store, resume, report, export, diff and verify as for images."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markup import Page
from rows import as_version
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

import gpulime
from gpulime.cli import main
from gpulime.config import DataConfig
from gpulime.runs import open_run
from gpulime.runs.reading import records
from gpulime.runs.store import store

NAMES = ["setosa", "versicolor", "virginica"]
COLUMNS = ["sepal length", "sepal width", "petal length", "petal width"]
POSTS = ["the engine of my car makes noise", "a goal in the last minute of the game", "car and engine", "the game had no goal"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a forest for iris, a text pipeline, and their records."""
    folder = tmp_path_factory.mktemp("records")
    data = load_iris()
    joblib.dump(RandomForestClassifier(10, random_state=0).fit(data.data, data.target), folder / "forest.joblib")
    lines = [[f"f{i}", *row, NAMES[data.target[i]]] for i, row in enumerate(data.data.tolist())][::10]
    write(folder / "iris.csv", ["flower", *COLUMNS, "species"], lines)
    write(folder / "training.csv", COLUMNS, data.data.tolist())
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(POSTS, ["cars", "games"] * 2)
    joblib.dump(pipeline, folder / "posts.joblib")
    rows = [{"id": f"p{i}", "post": text, "label": ["cars", "games"][i % 2]} for i, text in enumerate([*POSTS, "...", None])]
    (folder / "posts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write(path, header, lines):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])


def table(here, out, *more, source="iris.csv"):
    return main.main(
        [
            *("explain", f"--model.pickle={here / 'forest.joblib'}", f"--data.source={here / source}", "--data.columns=all"),
            *("--data.id=flower", "--data.target=species", f"--model.class_names=[{', '.join(NAMES)}]"),
            *(f"--data.training={here / 'training.csv'}", f"--data.columns=[{', '.join(COLUMNS)}]", "--lime.n_samples=300"),
            *(f"--out={out}", *more),
        ]
    )


def texts(here, out, *more, source="posts.jsonl"):
    model, data = f"--model.pickle={here / 'posts.joblib'}", f"--data.source={here / source}"
    return main.main(["explain", model, data, "--data.text=post", "--data.id=id", f"--out={out}", *more])


def test_rows_of_a_table_are_those_of_the_explainer(here, tmp_path):
    assert table(here, tmp_path) == 0
    found = open_run(tmp_path)
    data = load_iris()
    explainer = gpulime.TableExplainer(
        joblib.load(here / "forest.joblib"), data.data, feature_names=COLUMNS, class_names=NAMES, n_samples=300
    )
    expected = explainer.explain(data.data[::10])
    assert list(found) == [f"f{i}" for i in range(0, 150, 10)]
    read = found.explanations(list(found))
    np.testing.assert_allclose(read.coefficients, expected.coefficients, rtol=0, atol=1e-6)  # stored as float32
    np.testing.assert_allclose(read.standard_errors, expected.standard_errors, rtol=0, atol=1e-6)
    np.testing.assert_allclose(read.local_predictions, expected.local_predictions, rtol=0, atol=1e-12)
    assert read.names == expected.names
    assert read.values == expected.values
    assert [name for name, _ in found["f140"].as_list()] == [name for name, _ in expected[14].as_list()]
    rows = store.read(tmp_path).to_pylist()
    assert {row["kind"] for row in rows} == {"row"}
    assert [row["target"] for row in rows] == data.target[::10].tolist()
    assert json.loads((tmp_path / "summary.json").read_text())["top1_accuracy"] == pytest.approx(14 / 15)


def test_a_bad_row_fails_alone_and_the_run_goes_on_where_it_stopped(here, tmp_path, capsys):
    lines = (here / "iris.csv").read_text().splitlines()
    lines[3] = "f20,5.4,broken,1.7,0.2,setosa"
    lines[5] = "f40,5.0"
    (tmp_path / "iris.csv").write_text("\n".join(lines))
    run = tmp_path / "run"
    assert table(here, run, "--limit=4", source=tmp_path / "iris.csv") == 3
    assert table(here, run, source=tmp_path / "iris.csv") == 3
    rows = {row["image_id"]: row for row in store.read(run).to_pylist()}
    assert len(rows) == 15
    errors = {name: row["error"] for name, row in rows.items() if row["status"] == "error"}
    assert set(errors) == {"f20", "record 4 cannot be read"}
    assert "sepal width" in errors["f20"]
    assert errors["record 4 cannot be read"] == "must have 6 values, has 2: f40,5.0"
    assert "4 of 15 rows are done already" in capsys.readouterr().err
    alone = tmp_path / "sound"
    assert table(here, alone) == 0
    assert open_run(alone)["f100"].as_list() == open_run(run)["f100"].as_list()
    with pytest.raises(KeyError, match="f20"):
        open_run(run)["f20"]
    assert table(here, run, "--lime.seed=1", source=tmp_path / "iris.csv") == 2
    assert "lime.seed was 0, is 1" in capsys.readouterr().err


def test_verify_finds_a_row_that_changed(here, tmp_path, capsys):
    source = tmp_path / "iris.csv"
    source.write_text((here / "iris.csv").read_text())
    assert table(here, tmp_path / "run", source=source) == 0
    assert main.main(["verify", str(tmp_path / "run"), "--inputs"]) == 0
    assert "15 are what was explained" in capsys.readouterr().out
    source.write_text("\n".join(line.replace("f10,5.4", "f10,5.5") for line in source.read_text().splitlines()[:-1]))
    assert main.main(["verify", str(tmp_path / "run"), "--inputs"]) == 65
    said = capsys.readouterr().out
    assert "changed inputs  1\n                - f10" in said
    assert "missing inputs  1\n                - f140" in said


@pytest.mark.parametrize("labels", ["target", "top+target", "[virginica]"])
def test_labels_of_a_table(here, tmp_path, labels):
    assert table(here, tmp_path, f"--lime.labels={labels}", "--lime.top_labels=1") == 0
    rows = {row["image_id"]: row for row in store.read(tmp_path).to_pylist()}
    expected = {"target": [0], "top+target": [0], "[virginica]": [2]}[labels]
    assert rows["f0"]["labels"] == expected


def test_a_regression_has_one_label_and_no_class(tmp_path):
    data = load_diabetes()
    linear = LinearRegression().fit(data.data, data.target)
    joblib.dump(linear, tmp_path / "linear.joblib")
    pq.write_table(pa.table(dict(zip(data.feature_names, data.data[:20].T, strict=True))), tmp_path / "rows.parquet")
    settings = ["--data.columns=all", "--lime.n_samples=200", f"--out={tmp_path / 'run'}"]
    model, source = f"--model.pickle={tmp_path / 'linear.joblib'}", f"--data.source={tmp_path / 'rows.parquet'}"
    assert main.main(["explain", model, source, *settings]) == 0
    row = store.read(tmp_path / "run").to_pylist()[7]
    assert (row["image_id"], row["prediction"], row["labels"]) == ("7", None, [0])
    found = open_run(tmp_path / "run")["7"]
    assert found.mode == "regression"
    assert found.predicted_value == pytest.approx(
        LinearRegression().fit(data.data, data.target).predict(data.data[7:8])[0], rel=1e-6
    )


def test_texts_are_those_of_the_explainer_and_one_without_words_fails_alone(here, tmp_path):
    assert texts(here, tmp_path) == 3
    found = open_run(tmp_path)
    explainer = gpulime.TextExplainer(joblib.load(here / "posts.joblib"), quality="fast")
    expected = explainer.explain(POSTS, keys=np.array([gpulime.key(f"p{i}") for i in range(4)]))
    read = found.explanations(list(found))
    np.testing.assert_allclose(read.coefficients, expected.coefficients, rtol=0, atol=1e-6)
    assert (read.texts, read.words, read.spans) == (expected.texts, expected.words, expected.spans)
    assert read.class_names == ["cars", "games"]
    assert found.failed["p4"][1] == "a text must have a word that can be hidden; got '...'"
    assert found.failed["p5"][1] == "has no text in the column 'post'"


@pytest.fixture(scope="module")
def runs(here, tmp_path_factory):
    """Two runs over texts, and two over a table."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("a", 0), ("b", 1)):
        texts(here, folder / f"texts-{name}", f"--lime.seed={seed}")
        table(here, folder / f"table-{name}", f"--lime.seed={seed}")
    return folder


@pytest.mark.parametrize(("kind", "noun", "part"), [("texts", "texts", "goal"), ("table", "rows", "petal width <= 0.30")])
def test_the_report_has_a_card_for_each(runs, kind, noun, part):
    shown = Page(runs / f"{kind}-a" / "report.html")
    assert {"texts": "p0", "table": "f0"}[kind] in shown.texts("h3")
    assert noun.capitalize() in shown.texts("dt")
    assert part in shown.texts("td")
    assert not shown.texts("ol")  # of segments


def test_the_report_says_which_rows_to_look_at_first(runs):
    shown = Page(runs / "table-a" / "report.html")
    (start,) = shown.all("p", id="start")
    assert re.match(r"Start here: f\d+, f\d+, f\d+, f\d+, f\d+\.\s+Together they show \d+\s% of what all 15", start["text"])
    links = {link["href"]: link["text"] for link in shown.all("a") if link["href"].startswith("#i")}
    headings = {f"#{heading['id']}": heading["text"] for heading in shown.all("h3")}
    assert len(links) == 5
    assert links.items() <= headings.items()
    assert list(headings.values())[:5] == list(links.values())  # their cards come first
    ids = list(open_run(runs / "table-a"))
    assert [address for address, _ in sorted(headings.items(), key=lambda pair: ids.index(pair[1]))] == [
        f"#i{i + 1}" for i in range(15)
    ]
    explanations = open_run(runs / "table-a").explanations(ids)
    assert list(links.values()) == [ids[i] for i in gpulime.pick(explanations, 5).indices]
    assert not Page(runs / "texts-a" / "report.html").all("p", id="start")  # there are five


@pytest.mark.parametrize("kind", ["texts", "table"])
def test_export_and_diff(runs, kind, tmp_path, capsys):
    assert main.main(["export", str(runs / f"{kind}-a"), "--to", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "index.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["overlay"].rpartition(".")[2] for line in lines} == {"html"}
    arrays = np.load(tmp_path / "out" / lines[0]["arrays"])
    assert arrays["coefficients"].shape[1] == len(arrays["parts"])
    assert (tmp_path / "out" / lines[0]["overlay"]).read_text().startswith("<!DOCTYPE html>")
    assert main.main(["diff", str(runs / f"{kind}-a"), str(runs / f"{kind}-b"), "--to", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert {"texts": "same words              4 of 4", "table": "same columns            15 of 15"}[kind].split() in [
        line.split() for line in said.splitlines()
    ]
    assert len(Page(tmp_path / "diff.html").texts("h3")) == {"texts": 4, "table": 15}[kind]


def test_runs_of_different_kinds_are_not_compared(runs, tmp_path, capsys):
    a, b = runs / "texts-a", runs / "table-a"
    assert main.main(["diff", str(a), str(b), "--to", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"gpulime: runs of one kind can be compared: {a} explains texts, {b} explains rows\n"
    assert not (tmp_path / "diff.html").exists()


def test_a_skops_file_loads_known_types_alone(here, tmp_path, capsys):
    skops_io = pytest.importorskip("skops.io")
    skops_io.dump(joblib.load(here / "forest.joblib"), tmp_path / "forest.skops")
    settings = [f"--data.source={here / 'training.csv'}", "--data.columns=all", "--limit=2", f"--out={tmp_path / 'run'}"]
    settings += ["--lime.n_samples=100", f"--model.estimator={tmp_path / 'forest.skops'}"]
    unknown = skops_io.get_untrusted_types(file=tmp_path / "forest.skops")
    if unknown:  # releases of skops differ in what they trust
        assert main.main(["explain", *settings]) == 2
        assert f"--model.trusted '[{', '.join(unknown)}]'" in capsys.readouterr().err
    assert main.main(["explain", *settings, f"--model.trusted=[{', '.join(unknown)}]"]) == 0


def test_an_estimator_may_come_from_code(here, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(f"import joblib\nforest = joblib.load({str(here / 'forest.joblib')!r})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    settings = [f"--data.source={here / 'training.csv'}", "--data.columns=all", "--limit=2", "--lime.n_samples=100"]
    assert main.main(["explain", "--model.estimator=mine:forest", *settings, f"--out={tmp_path / 'run'}"]) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--data.source=missing.csv"], "data.source 'missing.csv': there is no such file"),
        (["--data.source=posts.txt"], "data.source 'posts.txt': must be one of .csv, .parquet, .jsonl for texts and tables"),
        (["--data.text=poste"], "data.text names no column: 'poste' (did you mean 'post'?); its columns are id, post, label"),
        (["--data.id=label"], "ids of records must be unique; 2 repeated: 'cars', 'games'"),
        (["--data.target=post"], "record 0: the target must be an index in 0..1 or one of the model's class names; got 'the"),
        (["--model.estimator=a.pkl", "--model.pickle=null"], "model.estimator 'a.pkl': is a pickle, which runs any code in it"),
        (
            ["--model.pickle=null"],
            "set one of model.estimator (a .skops file or an import path), model.factory and model.pickle",
        ),
        (["--model.pickle=nothing.pkl"], "model.pickle 'nothing.pkl': there is no such file"),
        (["--data.columns=all"], "data.text explains texts, data.columns a table: set one of the two"),
        (["--text.hide=mask"], "hide='mask' needs a tokenizer"),
        (["--data.resize=20"], "data.resize (20) does not concern texts, which this run explains: data.text explains texts"),
        (["--table.missing=error"], "table.missing ('error') does not concern texts, which this run explains"),
    ],
)
def test_bad_settings_are_one_line(here, tmp_path, capsys, monkeypatch, changed, message):
    monkeypatch.chdir(here)
    Path("posts.txt").write_text("a")
    assert texts(here, tmp_path / "run", *changed) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.csv", "id,post\n1,car\n", [], "set data.text, the column of texts, or data.columns, those of a table"),
        ("a.jsonl", '[{"post": "car"}]', ["--data.text=post"], "each line must be one JSON object, such as"),
        ("a.jsonl", '[\n{"post": "car"},\n{"post": "car"}\n]', ["--data.text=post"], "it holds an array"),
        ("a.csv", "id;post\n1;car\n", ["--data.text=post"], "must be separated by commas; its header is 'id;post'"),
        ("a.csv", "a\tb\n1\t2\n", ["--data.columns=all"], "must be separated by commas; its header is 'a\\tb'"),
    ],
)
def test_a_source_of_another_form_is_told_the_right_one(here, tmp_path, capsys, name, content, settings, message):
    (tmp_path / name).write_text(content)
    model, source = f"--model.pickle={here / 'posts.joblib'}", f"--data.source={tmp_path / name}"
    assert main.main(["explain", model, source, f"--out={tmp_path / 'run'}", *settings]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_inputs_are_called_by_their_kind(here, tmp_path, capsys):
    run = tmp_path / "run"
    settings = ["--data.id=null", "--data.target=null"]
    lines = (here / "iris.csv").read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join([*lines[:2], "f1,broken"]))
    assert table(here, run, "--limit=1", *settings, source=tmp_path / "one.csv") == 0
    assert table(here, run, *settings, source=tmp_path / "one.csv") == 3
    said = "".join(capsys.readouterr())
    assert "1 row x 300 samples" in said
    assert "failed     1 (unreadable 1)" in said
    assert main.main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 rows (100.0 %) on disk; 1 failed (unreadable 1)" in said
    assert "the whole run on " in said
    assert main.main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("1 row: ")
    table(here, tmp_path / "named")
    assert main.main(["diff", str(run), str(tmp_path / "named")]) == 2
    assert "no row is in both" in capsys.readouterr().err
    assert repr(open_run(run)).endswith("1 row explained, 1 failed)")
    with pytest.raises(KeyError, match="row '1' has no explanation: unreadable: must have 6 values"):
        open_run(run)["1"]


def test_tables_have_no_masks_to_sample(here, tmp_path, capsys):
    assert table(here, tmp_path, "--lime.sampler=blocks") == 2
    assert "lime.sampler ('blocks') does not concern rows, which this run explains" in capsys.readouterr().err
    assert table(here, tmp_path, "--lime.n_samples=auto") == 2
    assert "lime.n_samples: auto stops masks early, which tables have none of: give a number" in capsys.readouterr().err


def test_a_dry_run_counts_shared_samples(here, tmp_path, capsys):
    assert table(here, tmp_path / "run", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "15 rows; 0 done already; 15 to do" in said
    assert "314 forwards: 15 rows x 300 samples, shared; lime would take 4,500" in said
    assert not (tmp_path / "run").exists()


def test_records_keep_their_numbers_when_a_broken_one_is_mended(here, tmp_path):
    source = tmp_path / "posts.csv"
    header, *lines = ["post,label", *(f"{post},cars" for post in POSTS)]
    broken = [lines[0], f"{lines[1]},extra", *lines[2:]]
    for given, status in ((broken, 3), (lines, 0)):
        source.write_text("\n".join([header, *given]))
        assert texts(here, tmp_path / "run", "--data.id=null", "--retry-failed", source=source) == status
        rows = {row["image_id"]: row["text"] for row in store.read(tmp_path / "run").to_pylist() if row["status"] == "ok"}
        assert rows == {str(i): post for i, post in enumerate(POSTS) if status == 0 or i != 1}


def test_ids_and_texts_stay_as_they_are_written(here, tmp_path, capsys):
    rows = [("007", "123"), ("7", "null"), ("07", "good caf\u00e9 game")]
    write(tmp_path / "posts.csv", ["id", "post"], rows)
    (tmp_path / "posts.csv").write_bytes((tmp_path / "posts.csv").read_bytes().replace("\u00e9".encode(), b"\xe9"))
    assert texts(here, tmp_path / "run", source=tmp_path / "posts.csv") == 0
    found = {row["image_id"]: row["text"] for row in store.read(tmp_path / "run").to_pylist()}
    assert found == {"007": "123", "7": "null", "07": "good caf\ufffd game"}
    assert "has 1 characters that are not UTF-8" in capsys.readouterr().err


def test_a_bad_line_or_value_of_json_costs_its_record(here, tmp_path):
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in load_iris().data[:6].tolist()]
    lines[2] = lines[2][:-5]
    lines[4] = lines[4].replace("3.6", '"wide"')
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    settings = ["--data.id=null", "--data.target=null"]
    assert table(here, tmp_path / "run", *settings, source=tmp_path / "rows.jsonl") == 3
    rows = {row["image_id"]: row for row in store.read(tmp_path / "run").to_pylist()}
    assert {name for name, row in rows.items() if row["status"] == "error"} == {"2", "4"}
    assert "must be a line of JSON" in rows["2"]["error"]
    assert "sepal width" in rows["4"]["error"]


def test_columns_of_digits_may_be_text(tmp_path):
    pytest.importorskip("pandas")
    (tmp_path / "rows.csv").write_text("zip,age\n01,20\n02,30\n01,40\n02,50\n")
    (tmp_path / "mine.py").write_text(
        "def model(rows):\n    assert set(rows['zip']) <= {'01', '02'}\n    return (rows['zip'] == '01') * 0.5\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        settings = ["--data.columns=all", "--data.strings=[zip]", "--lime.n_samples=100", f"--out={tmp_path / 'run'}"]
        assert main.main(["explain", "--model.factory=mine:give", f"--data.source={tmp_path / 'rows.csv'}", *settings]) == 2
        (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text() + "def give(): return model\n")
        del sys.modules["mine"]
        assert main.main(["explain", "--model.factory=mine:give", f"--data.source={tmp_path / 'rows.csv'}", *settings]) == 0
    finally:
        sys.path.remove(str(tmp_path))
    assert "zip=01" in store.read(tmp_path / "run").to_pylist()[0]["parts"]


def test_arguments_of_a_function_that_makes_the_model_are_part_of_the_settings(here, tmp_path, capsys, monkeypatch):
    (tmp_path / "words.py").write_text("def make(word): return lambda texts: [[word in t, word not in t] for t in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = ["--model.pickle=null", "--model.factory=words:make", "--limit=2", "--lime.labels=[0]"]
    assert texts(here, tmp_path / "run", *settings, "--model.kwargs={word: game}") in (0, 3)
    assert texts(here, tmp_path / "run", *settings, "--model.kwargs={word: engine}") == 2
    assert "model.kwargs was {'word': 'game'}, is {'word': 'engine'}" in capsys.readouterr().err


def test_rows_with_missing_values_cost_the_others_nothing(here, tmp_path, monkeypatch):
    """A model that refuses them would fail for a whole batch, and each of its rows be explained alone."""
    asked = []
    ask = LogisticRegression.predict_proba
    monkeypatch.setattr(LogisticRegression, "predict_proba", lambda self, rows: asked.append(len(rows)) or ask(self, rows))
    data = load_iris()
    joblib.dump(LogisticRegression(max_iter=500).fit(data.data, data.target), tmp_path / "linear.joblib")
    lines = (here / "iris.csv").read_text().splitlines()
    lines[4] = lines[4].replace(lines[4].split(",")[1], "", 1)
    (tmp_path / "iris.csv").write_text("\n".join(lines))
    assert table(here, tmp_path / "run", f"--model.pickle={tmp_path / 'linear.joblib'}", source=tmp_path / "iris.csv") == 3
    assert sum(asked) < 14 + 299 + 3 * 300
    assert [row["image_id"] for row in store.read(tmp_path / "run").to_pylist() if row["status"] == "error"] == ["f30"]


def test_a_run_without_training_rows_says_so_when_its_source_grows(here, tmp_path, capsys):
    source = tmp_path / "iris.csv"
    source.write_text((here / "iris.csv").read_text())
    for code in (0, 2):
        assert table(here, tmp_path / "run", "--data.training=null", source=source) == code
        source.write_text(source.read_text() + "f999,5,3,1,0.2,setosa\n")
    assert "rows of training (data.source, as data.training is not set) was '" in capsys.readouterr().err


NETWORKS = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)

def tokenizer():
    from texts import tiny
    return tiny.tokenizer()

class Wrapped(torch.nn.Module):
    def __init__(self):
        from texts import tiny
        super().__init__()
        self.model = tiny.bert(tokenizer())  # a part with this name is no pipeline's network
        self.config = self.model.config

    def forward(self, **tokens):
        return self.model(**tokens)

def pipeline():
    from transformers import TextClassificationPipeline
    return TextClassificationPipeline(model=Wrapped().model.eval(), tokenizer=tokenizer(), device="cpu")

def short():
    from texts import tiny
    made = pipeline()
    made.tokenizer = tiny.tokenizer(max_length=6)
    return made
"""


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.delitem(sys.modules, "networks", raising=False)


@pytest.mark.usefixtures("networks")
def test_a_network_of_rows(here, tmp_path):
    assert table(here, tmp_path / "run", "--model.pickle=null", "--model.factory=networks:net", "--lime.device=cpu") == 0
    row = store.read(tmp_path / "run").to_pylist()[0]
    assert sum(row["pred_probs"]) == pytest.approx(1, abs=1e-6)  # after a softmax


@pytest.mark.usefixtures("networks")
def test_a_network_of_token_ids_is_the_same_with_its_tokenizer_and_in_a_pipeline(here, tmp_path, capsys):
    pytest.importorskip("transformers")
    settings = ["--model.pickle=null", "--lime.device=cpu", "--lime.n_samples=64", "--lime.quality=lime"]
    assert texts(here, tmp_path / "a", "--model.factory=networks:Wrapped", *settings) == 2
    assert "model.tokenizer must name a function that makes the tokenizer" in capsys.readouterr().err
    tokenizer = "--model.tokenizer=networks:tokenizer"
    assert texts(here, tmp_path / "a", "--model.factory=networks:Wrapped", tokenizer, *settings) == 3
    assert texts(here, tmp_path / "b", "--model.factory=networks:pipeline", *settings) == 3
    a, b = ([row["coef"] for row in store.read(tmp_path / run).to_pylist()] for run in ("a", "b"))
    assert a[:4] == b[:4]
    assert None not in a[:4]


@pytest.mark.usefixtures("networks")
def test_words_that_the_model_never_sees_are_told_everywhere(here, tmp_path, capsys):
    pytest.importorskip("transformers")
    settings = ["--model.pickle=null", "--lime.device=cpu", "--lime.n_samples=64", "--limit=3"]
    assert texts(here, tmp_path / "run", "--model.factory=networks:short", *settings) == 0
    said = capsys.readouterr()
    assert "2 texts have words that the model never sees" in said.err
    assert "p0 (7 words, 3 of them never seen by the model)" in said.out
    strongest = [line.partition("strongest words")[2] for line in said.out.splitlines() if "strongest words" in line]
    unseen = ["car", "makes", "noise"]
    assert not [word for words in strongest[:2] for word in unseen if word in words.split()]
    found = open_run(tmp_path / "run").explanations(["p0", "p2"])
    assert found.unseen.sum(1).tolist() == [3, 0]
    assert [word for word, no in zip(found.words[0], found.unseen[0], strict=True) if no] == unseen
    notes = {row["image_id"]: row["note"] for row in store.read(tmp_path / "run").to_pylist()}
    assert {note[:34] for note in notes["p0"]} == {"the model never sees 3 of 7 words,"}
    assert notes["p2"] == [None] * 3
    assert "The model does not see 3 of 7 words" in (tmp_path / "run" / "report.html").read_text()
    assert not open_run(as_version(tmp_path / "run", 4)).explanations(["p0"]).unseen.any()  # not known


def test_numbers_and_types_do_not_depend_on_the_blocks_of_a_file(tmp_path, monkeypatch):
    write(tmp_path / "rows.csv", ["a", "b"], [*([i, 1.5] for i in range(99)), ["broken"], ["wide", 1.5]])
    whole = records.read(str(tmp_path / "rows.csv"), DataConfig(columns="all"))
    monkeypatch.setattr(records, "BLOCK", 200)
    pieces = records.read(str(tmp_path / "rows.csv"), DataConfig(columns="all"))
    assert whole.broken.keys() == pieces.broken.keys() == {99}
    assert whole.table.equals(pieces.table)
    assert pa.types.is_string(pieces.table["a"].type)  # as one value is no number, in the last block
    assert pa.types.is_floating(pieces.table["b"].type)


def test_characters_that_stand_for_others_are_not_counted(tmp_path):
    (tmp_path / "posts.csv").write_bytes("post\n\ufffd a\n".encode() + b"caf\xe9\n")
    assert records.read(str(tmp_path / "posts.csv"), DataConfig(text="post")).replaced == 1
