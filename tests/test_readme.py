"""The Python of the README and of docs/ runs as it stands there, and the README stays short."""

import csv
import datetime as dt
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from rows import explained, failed

import gpulime
from gpulime.engine import surrogate
from gpulime.runs.store import store

ROOT = Path(__file__).parent.parent


def block(page, word):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return next(code for code in blocks if word in code)


def test_the_readme_is_short_and_its_figures_were_measured():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 800
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "**" in line]
    assert 0 < len(table) <= 6
    with (ROOT / "benchmarks" / "results" / "amd-epyc-2-threads.csv").open(encoding="utf-8") as file:
        measured = {row["ratio"] for row in csv.DictReader(file)}
    assert {row[1].split("**")[1] for row in table} <= measured
    assert all(row[0].startswith("| times as fast") for row in table)  # one direction of ratio


def test_the_example_explains_the_cat(capsys, tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    example, names = block("README.md", "chelsea"), {}
    assert "n_samples=300" in example
    exec(example.replace("n_samples=300", "n_samples=100"), names)  # a third of the time
    assert names["mask"].any()
    assert names["image"].shape == (224, 224, 3)
    assert names["explanations"].scores[0, 0] > 0.4
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    exec(block("docs/python.md", "savefig"), names)
    assert (tmp_path / "cat.png").stat().st_size > 10_000


def test_the_plain_pytorch_is_equivalent():
    torch.manual_seed(0)
    n_channels, h, w, k, s = 3, 12, 10, 8, 64
    segments = gpulime.segments.Grid(2, 4).labels(1, h, w, torch.device("cpu"))[0].long()
    image = torch.rand(n_channels, h, w)
    names = {
        "torch": torch,
        "s": s,
        "k": k,
        "segments": segments,
        "image": image,
        "segment_means": gpulime.fills.segment_means(image[None], segments[None].int(), k)[0],
        "mean": 0.5,
        "std": 0.25,
        "label": 2,
        "model": lambda rows: rows.flatten(1)[:, ::40],
    }
    exec(block("README.md", "segment_means"), names)
    fitted = surrogate.fit(names["masks"][None], names["y"][None, :, None])
    torch.testing.assert_close(names["coefficients"], fitted.coefficients[0, 0], rtol=1e-10, atol=1e-12)
    assert names["coefficients"].abs().max() > 1e-3


@pytest.mark.long
def test_the_examples_of_judging_run(capsys, monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 20 * 16, 5)
    ).eval()
    images = torch.rand(2, 3, 24, 20)
    boxes, mean, std = torch.tensor([[0, 0, 10, 12]] * 2), 0.5, 0.5
    names = {"gpulime": gpulime, "model": model, "images": images, "boxes": boxes, "mean": mean, "std": std}
    names["inputs"] = (images - mean) / std
    exec(block("docs/evaluation.md", "evaluate.curves"), names)
    curves, explanations = names["curves"], names["explanations"]
    assert curves.insertion_auc.shape == curves.gap.shape == explanations.labels.shape
    exec(block("docs/evaluation.md", "evaluate.compare"), names)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("lime", "gradient", "random", "centre"))
    exec(block("docs/evaluation.md", "evaluate.randomisation"), names)
    assert names["found"].similarities["spearman"].shape[1:] == (2, 1)


def test_results_read_without_gpulime(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures = [torch.rand(3, 16, 16) for _ in range(2)]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 3))
    gpulime.runs.explain(model, pictures, "runs/mine", n_samples=20, segments=gpulime.segments.Grid(3, 3))
    names = {}
    exec(block("docs/results.md", "pyarrow.dataset"), names)
    assert names["segments"].shape == (16, 16)
    assert names["segments"].max() == 8


@pytest.mark.parametrize(
    ("library", "as_rows"),
    [
        ("pandas", lambda rows: rows.to_dict("records")),
        ("duckdb", lambda rows: pa.table(rows).to_pylist()),
        ("polars", lambda rows: rows.to_dicts()),
    ],
)
def test_other_readers_see_the_rows_that_gpulime_sees(library, as_rows, tmp_path, monkeypatch):
    pytest.importorskip(library)
    code = block("docs/results.md", f"import {library}")
    assert len(code.splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    later = dt.datetime(2026, 1, 3, tzinfo=dt.UTC)
    with store.Store(Path("runs/mine"), flush_rows=2) as results:
        results.append(explained("ok beats a newer error", seed=1))
        results.append(failed("ok beats a newer error", seed=2, written_at=later))
        results.append(explained("the newest", seed=1, written_at=later))
        results.append(explained("the newest", seed=2, attempt=9))
        results.append(failed("the newest error", seed=2))
        results.append(failed("the newest error", seed=1, written_at=later))
        results.append(explained("the last attempt", seed=2))
        results.append(explained("the last attempt", seed=1, attempt=2))
        results.append(explained("alone", seed=1))
    names = {}
    exec(code, names)
    found = {row["image_id"]: (row["status"], row["seed"], row["seg"]) for row in as_rows(names["rows"])}
    wanted = {row["image_id"]: (row["status"], row["seed"], row["seg"]) for row in store.read(Path("runs/mine")).to_pylist()}
    assert len(as_rows(names["rows"])) == len(wanted) == 5
    assert all(seed == 1 for _, seed, _ in found.values())
    assert {name: row[:2] for name, row in found.items()} == {name: row[:2] for name, row in wanted.items()}
    assert all(found[name][2] == seg for name, (status, _, seg) in wanted.items() if status == "ok")


def test_lime_s_place():
    names = {
        "image": torch.rand(24, 24, 3).numpy(),
        "classifier_fn": lambda images: np.exp(images.mean((1, 2))) / np.exp(images.mean((1, 2))).sum(1, keepdims=True),
    }
    exec(
        block("docs/moving-from-lime.md", "was: from lime import").replace(
            "num_samples=1000", "num_samples=50, progress_bar=False"
        ),
        names,
    )
    assert names["mask"].shape == (24, 24)
