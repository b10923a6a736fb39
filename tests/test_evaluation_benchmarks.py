"""The reproductions of benchmarks/evaluation: bounds, rows, pictures; the runs themselves are long."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.convergence import fashion
from benchmarks.evaluation import bam, cascade, data_randomisation, scenes, sides
from benchmarks.rows import read, write

needs_fashion = pytest.mark.skipif(not fashion.DATA.exists(), reason="needs Debian's package dataset-fashion-mnist")


@pytest.mark.parametrize(
    ("entry", "method", "stage", "value", "ok"),
    [
        ("EfficientNet-Lite0", "Guided Backprop", 2, 0.96, "yes"),
        ("EfficientNet-Lite0", "Guided Backprop", 2, 0.94, "no"),
        ("EfficientNet-Lite0", "Guided Backprop", 3, 0.5, None),
        ("EfficientNet-Lite0", "gradient", 0, -0.2, "no"),
        ("EfficientNet-Lite0", "LIME", 0, -0.29, "yes"),
        ("EfficientNet-Lite0", "LIME", 0, -0.31, "no"),
        ("EfficientNet-Lite0", "LIME", 4, float("nan"), None),
        ("Fashion-MNIST CNN", "LIME", 1, 0.9, None),
        ("Fashion-MNIST CNN", "LIME", 2, 0.9, "no"),
        ("Fashion-MNIST CNN", "Guided Backprop", 0, 0.1, None),
    ],
)
def test_bounds_of_the_cascade(entry, method, stage, value, ok):
    assert cascade.judged(entry, method, stage, value).get("ok") == ok


def test_the_cascade_of_a_small_network(monkeypatch, tmp_path):
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))
    images = torch.rand(3, 1, 16, 16)
    entry = cascade.Entry(lambda: small, lambda: images, {"logits": ["4"], "convolution": ["0"]}, "last", ("gradient",))
    monkeypatch.setattr(cascade, "ENTRIES", {"small": entry})
    rows = cascade.measure("small")
    assert [(row.method, row.stage, bool(row.bound)) for row in rows] == [
        (method, stage, stage == "convolution") for method in ("gradient", "LIME") for stage in ("logits", "convolution")
    ]
    assert {row.ceiling for row in rows if row.method == "gradient"} == {"1.00"}
    assert all(float(row.ceiling) < 1 for row in rows if row.method == "LIME")
    write(tmp_path / "rows.csv", rows, cascade.Row)
    assert read(tmp_path / "rows.csv", cascade.Row) == rows
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(cascade, "RESULTS", tmp_path)
    cascade.plot([*rows, replace(rows[0], entry="gone")])
    assert (tmp_path / cascade.Row.FOLDER / "cascade.png").read_bytes().startswith(b"\x89PNG")


def test_bounds_of_bam_need_more_than_guided_backprop():
    row = bam.Row("ten scenes", "LIME", idr="0.95")
    assert bam.judged(row, "0.7").ok == "yes"
    assert bam.judged(row, "0.96").ok == "no"
    assert bam.judged(replace(row, idr="0.89"), "0.7").ok == "no"
    assert bam.judged(replace(row, method="gradient"), "0.7").ok == ""


def test_objects_are_pasted_where_their_masks_are(monkeypatch):
    random = torch.Generator().manual_seed(0)
    items = torch.zeros(50, 1, 28, 28)
    items[:, :, 4:24, 6:20] = 0.2 + 0.8 * torch.rand(50, 1, 20, 14, generator=random)
    items[:, :, 10:12, 10:12] = 0  # a dark part of the object
    monkeypatch.setattr(fashion, "read", lambda name: torch.arange(50) % 10 if "labels" in name else items)
    pictures = [torch.rand(3, 60, 70, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    monkeypatch.setattr(scenes, "pictures", lambda: pictures)
    drawn = scenes.draw(20, "t10k", 0)
    assert drawn.scene_labels.tolist() == [*range(10)] * 2
    outside = ~drawn.objects[:, None].expand_as(drawn.images)
    assert torch.equal(drawn.images[outside], drawn.scenes[outside])
    assert drawn.objects.flatten(1).sum(1).tolist() == [20 * 14] * 20
    assert (drawn.images != drawn.scenes).any(1).flatten(1).sum(1).min() > 200
    assert set(scenes.draw(10, "t10k", 0, kind=8).object_labels.tolist()) == {8}
    again = scenes.draw(20, "t10k", 0)
    assert torch.equal(drawn.images, again.images)
    assert scenes.network()(drawn.images).shape == (20, 10)


def test_bars(tmp_path):
    pytest.importorskip("matplotlib")
    sides.bar_panels({"MCS": {"LIME": 0.2, "other": -0.1}, "IDR": {"LIME": 0.9, "other": 0.5}}, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 1000


@pytest.mark.long
@needs_fashion
def test_the_data_randomisation_of_few_pictures():
    pytest.importorskip("captum")
    rows = data_randomisation.measure(training=300, pictures=5)
    found = {row.method: row for row in rows}
    assert found["LIME"].ok == "yes"
    assert float(found["LIME"].spearman) < float(found["LIME"].reference)
    assert float(found["LIME"].accuracy_permuted) > 0.95


@pytest.mark.long
@needs_fashion
def test_the_cascade_of_fashion_mnist():
    pytest.importorskip("captum")
    rows = {(row.method, row.stage): row for row in cascade.measure("Fashion-MNIST CNN")}
    assert all(row.ok != "no" for row in rows.values())
    assert float(rows["Guided Backprop", "logits"].spearman) > 0.5 > float(rows["gradient", "logits"].spearman)
