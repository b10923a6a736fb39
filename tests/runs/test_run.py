"""A run: every image gets a row, a rerun resumes, other settings are refused."""

import dataclasses
import json
import os
import shutil
import signal
import threading
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import gpulime
from gpulime import config as configs
from gpulime.runs import from_config
from gpulime.runs.progress import exits
from gpulime.runs.store import store, verify

CLASSES = 4


class Tiny(nn.Module):
    """A classifier of any image: a fixed random projection of its 4 x 4 average colours."""

    def __init__(self, seed=0, classes=CLASSES):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(48, classes, generator=generator))

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ self.weight


def make_tiny(seed=0, classes=CLASSES):
    return Tiny(seed, classes)


class Poisoned(Tiny):
    """NaN for images that are all black."""

    def forward(self, x):
        return super().forward(x).masked_fill((x.flatten(1).sum(1) == 0)[:, None], torch.nan)


def config(photographs, out, **lime):
    lime = {"quality": "lime", "n_samples": 40, "segments": {"grid": {"rows": 3, "columns": 3}}, "top_labels": 2, **lime}
    return configs.from_dict(
        {
            "model": {"factory": "test_run.make_tiny"},
            "data": {"source": str(photographs), "crop": 32, "batch_size": 3},
            "lime": lime,
            "out": str(out),
        }
    )


def rows_of(out):
    return {row["image_id"]: row for row in store.read(out).to_pylist()}


def test_every_image_gets_a_row(photographs, tmp_path, capsys):
    assert from_config.run(config(photographs, tmp_path / "run")) == exits.ERROR_ROWS
    rows = rows_of(tmp_path / "run")
    assert {name: row["error_type"] for name, row in rows.items() if row["status"] == "error"} == {
        "ant/page.jpg": "decode",
        "bee/empty.jpg": "decode",
        "bee/cut.png": "decode",
    }
    good = [row for row in rows.values() if row["status"] == "ok"]
    assert len(good) == 6
    for row in good:
        assert row["target"] == (0 if row["image_id"].startswith("ant") else 1)
        assert (row["h"], row["w"], row["n_segments"]) == (32, 32, 9)
        assert [len(c) for c in row["coef"]] == [9, 9]
        assert row["pred_probs"][0] >= row["pred_probs"][1]
        assert store.decode_segments(row["seg"], row["seg_dtype"], 32, 32).max() == 8
    shown = capsys.readouterr()
    assert "1 .txt" in shown.err
    assert "explained  6\nfailed     3 (decode 3)\n" in shown.out
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


def test_label_maps_are_compressed_in_the_writers_thread(photographs, tmp_path, monkeypatch):
    """So the thread that calls the model goes on meanwhile: zlib releases the interpreter."""
    compress, threads = zlib.compress, []

    def compressed(*args):
        threads.append(threading.current_thread().name)
        return compress(*args)

    monkeypatch.setattr(zlib, "compress", compressed)
    from_config.run(config(photographs, tmp_path / "run"))
    packed = [row for row in rows_of(tmp_path / "run").values() if row["seg"] is not None]
    assert threads == ["gpulime writer"] * len(packed) != []


def test_rows_are_what_the_explainer_gives(photographs, tmp_path):
    from_config.run(config(photographs, tmp_path / "run"))
    row = rows_of(tmp_path / "run")["bee/4.png"]
    picture = np.asarray(Image.open(photographs / "bee" / "4.png"))[4:36, 9:41]
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    explainer = gpulime.Explainer(make_tiny(), 40, {"grid": {"rows": 3, "columns": 3}}, top_labels=2)
    expected = explainer.explain(image, keys=torch.tensor([gpulime.key("bee/4.png")]))
    torch.testing.assert_close(torch.tensor(row["coef"]), expected.coefficients[0].float(), rtol=1e-5, atol=1e-7)
    assert row["labels"] == expected.labels[0].tolist()
    assert row["r2"] == pytest.approx(expected.scores[0].tolist(), abs=1e-6)


def test_a_rerun_explains_only_what_is_left(photographs, tmp_path, monkeypatch, counted):
    whole = tmp_path / "whole"
    from_config.run(config(photographs, whole))
    resumed = tmp_path / "resumed"
    part = config(photographs, resumed)
    from_config.run(configs.from_dict({**_nested(part), "data": {**_nested(part)["data"], "limit": 4}}))
    assert len(rows_of(resumed)) == 4
    seen = []
    monkeypatch.setattr(Tiny, "forward", _counting(Tiny.forward, seen))
    assert from_config.run(part) == exits.ERROR_ROWS
    assert sum(seen) == 40 * 3  # three of the five that were left can be read
    assert from_config.run(part) == exits.ERROR_ROWS
    assert sum(seen) == 40 * 3
    once, twice = rows_of(whole), rows_of(resumed)
    assert once.keys() == twice.keys()
    for name, row in once.items():
        assert row["seg"] == twice[name]["seg"]
        if row["status"] == "ok":
            largest = np.abs(row["coef"]).max()
            np.testing.assert_allclose(row["coef"], twice[name]["coef"], rtol=0, atol=1e-5 * largest)
    ids = [row["image_id"] for path in store.shards(resumed) for row in _shard(path)]
    assert len(ids) == len(set(ids))


def test_other_settings_and_other_weights_are_refused(photographs, tmp_path):
    out = tmp_path / "run"
    from_config.run(config(photographs, out))
    with pytest.raises(gpulime.GpulimeError, match=r"lime\.n_samples was 40, is 50"):
        from_config.run(config(photographs, out, n_samples=50))
    other = _nested(config(photographs, out))
    other["model"]["kwargs"] = {"seed": 1}
    with pytest.raises(gpulime.GpulimeError, match="weights_sha256 was"):
        from_config.run(configs.from_dict(other))
    assert from_config.run(config(photographs, out, batch_size=7)) == exits.ERROR_ROWS  # changes no row


def test_top_and_target_are_explained_once_each(photographs, tmp_path):
    from_config.run(config(photographs, tmp_path / "run", labels="top+target", top_labels=1))
    for row in rows_of(tmp_path / "run").values():
        if row["status"] == "ok":
            assert row["labels"] == list(
                dict.fromkeys([int(np.argmax(_predict(photographs / row["image_id"]))), row["target"]])
            )


def test_target_needs_targets(photographs, tmp_path):
    out = tmp_path / "run"
    assert from_config.run(config(photographs / "ant", out, labels="target")) == exits.ERROR_ROWS
    reasons = {row["image_id"]: row["error_type"] for row in rows_of(out).values()}
    assert reasons == {"0.png": "target", "1.png": "target", "2.png": "target", "page.jpg": "decode"}


def test_workers_change_no_row(photographs, tmp_path):
    settings = _nested(config(photographs, tmp_path / "run", segments={"slic": {"n_segments": 12}}))
    settings["data"]["workers"] = 2
    from_config.run(configs.from_dict(settings))
    settings["out"] = str(tmp_path / "plain")
    settings["data"]["workers"] = 0
    from_config.run(configs.from_dict(settings))
    here, there = rows_of(tmp_path / "run"), rows_of(tmp_path / "plain")
    assert [(name, row["seg"], row["coef"]) for name, row in here.items()] == [
        (name, row["seg"], row["coef"]) for name, row in there.items()
    ]


def test_the_report_can_be_written_again(photographs, tmp_path):
    out = tmp_path / "run"
    from_config.run(config(photographs, out))
    first = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    (photographs / "ant" / "0.png").unlink()  # its picture is gone, its explanation is not
    second = from_config.report(out).read_bytes()
    assert b"ant/0.png" in second
    assert len(second) < len(first)
    with pytest.raises(gpulime.GpulimeError, match=r"no run\.json"):
        from_config.report(tmp_path)


NAMES = ("w", "x", "y", "z")


class Pictures(torch.utils.data.Dataset):
    """Six random images, of which number 2 cannot be had and number 4 is black."""

    def __len__(self):
        return 6

    def __getitem__(self, i):
        if i == 2:
            raise OSError("the disk is gone")
        generator = torch.Generator().manual_seed(i)
        image = torch.rand(3, 24, 20, generator=generator)
        return image * (i != 4), i % CLASSES


def test_a_dataset_is_explained_from_python(tmp_path):
    out = tmp_path / "run"
    outcome = gpulime.runs.explain(
        Poisoned(), Pictures(), out, labels="target", n_samples=60, segments="grid", fill=0.5, class_names=NAMES
    )
    rows = rows_of(out)
    assert (outcome.ok, outcome.failed, outcome.forwards) == (4, 2, 5 * 60)
    assert {name: row["error_type"] for name, row in rows.items() if row["error_type"]} == {"2": "decode", "4": "non_finite"}
    assert "the disk is gone" in rows["2"]["error"]
    assert "NaN or infinite for 1 of 60 samples" in rows["4"]["error"]
    assert [row["labels"] for name, row in rows.items() if row["status"] == "ok"] == [[0], [1], [3], [1]]
    assert json.loads((out / "run.json").read_text())["class_names"] == ["w", "x", "y", "z"]
    assert "data:image/jpeg" in (out / "report.html").read_text()


def test_neighbours_of_a_bad_image_are_untouched(tmp_path):
    gpulime.runs.explain(Poisoned(), Pictures(), tmp_path / "a", n_samples=60, segments="grid", fill=0.5, batch_size=7)
    gpulime.runs.explain(Tiny(), Pictures(), tmp_path / "b", n_samples=60, segments="grid", fill=0.5, batch_size=7)
    poisoned, clean = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    for name in ("0", "1", "3", "5"):
        assert poisoned[name]["coef"] == clean[name]["coef"]


SMALL = {"n_samples": 20, "segments": gpulime.segments.Grid(3, 3)}


def test_an_unknown_argument_is_refused(tmp_path):
    with pytest.raises(TypeError, match="n_sample"):
        gpulime.runs.explain(Tiny(), Pictures(), tmp_path / "run", n_sample=20)


@pytest.mark.parametrize("dataset", [[], iter([])])
def test_what_is_no_dataset_is_refused(dataset, tmp_path):
    with pytest.raises(gpulime.GpulimeError, match="dataset must have a length above 0"):
        gpulime.runs.explain(Tiny(), dataset, tmp_path / "run", **SMALL)


def test_a_fill_counts_in_the_units_of_the_dataset(tmp_path):
    seen = []

    def model(x):
        seen.append(float(x.max()))
        return x.mean((2, 3))

    images = [torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8)]
    gpulime.runs.explain(model, images, tmp_path / "run", fill=128, model_id="mean", **SMALL)
    assert max(seen) <= 1


@pytest.mark.parametrize("size", [1e39, 1e29])
def test_outputs_that_a_row_cannot_hold_are_an_error_row(size, tmp_path):
    """A row holds float32; verify finds every written row whole."""

    def model(x):
        return size * x.double().mean((2, 3)) * (x[:, :1, 0, 0] > 0.5)

    images = [torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    gpulime.runs.explain(model, images, tmp_path, activation=None, segments="grid", n_samples=20, report=False, model_id="m")
    rows = store.read(tmp_path).to_pylist()
    failed = [row["error_type"] for row in rows if row["status"] == "error"]
    assert failed == ["non_finite"] * (sum(bool(image[0, 0, 0] > 0.5) for image in images) if size > 1e38 else 0)
    found = verify.verify(tmp_path)
    assert (found.damaged, found.as_written) == ({}, True)


def test_of_a_model_with_one_output_nothing_is_right_or_wrong(tmp_path):
    """A score or a regression has one class, which cannot be below another."""
    images = [(torch.rand(3, 12, 12), target) for target in (0, 1)]
    gpulime.runs.explain(lambda x: x.mean((1, 2, 3)), images, tmp_path, activation=None, model_id="m", **SMALL)
    rows = store.read(tmp_path).to_pylist()
    assert [(row["status"], row["target"], row["prediction"], row["predicted_prob"]) for row in rows] == [
        ("ok", 0, None, None),
        ("ok", 1, None, None),
    ]
    assert json.loads((tmp_path / "summary.json").read_text())["top1_accuracy"] is None
    assert verify.verify(tmp_path).damaged == {}


def test_a_bad_target_is_a_row(tmp_path):
    images = [(torch.rand(3, 12, 12), target) for target in (1, 99, np.int64(2), -5)]
    for names, out in ((None, "a"), (NAMES, "b")):
        gpulime.runs.explain(Tiny(), images, tmp_path / out, labels="target", class_names=names, **SMALL)
        rows = rows_of(tmp_path / out)
        assert [row["status"] for row in rows.values()].count("ok") == 2
        assert rows["2"]["labels"] == [2]
        assert rows["1"]["error"] == "its target is 99; the model has 4 classes"
        assert rows["3"]["error_type"] == "target"


def test_several_targets_are_explained_and_multi_hot_is_read(tmp_path):
    picture = torch.rand(3, 12, 12)
    targets = [torch.tensor([1.0, 0, 1, 0]), [3, 1], torch.tensor([0, 1]), 2.0, "z", torch.tensor([0, 0, 0, 1])]
    targets += [torch.zeros(4), 0.5, {"boxes": []}, [1.0, 0.0, 1.0], "fox"]
    dataset = [(picture, target) for target in targets]
    found = {}
    for mode in ("target", "top+target"):
        gpulime.runs.explain(Tiny(), dataset, tmp_path / mode, labels=mode, class_names=NAMES, top_labels=1, **SMALL)
        found[mode] = list(rows_of(tmp_path / mode).values())
    explained, [top] = [[0, 2], [3, 1], [0, 1], [2], [3], [3]], found["top+target"][0]["labels"][:1]
    assert [row["labels"] for row in found["target"][:6]] == explained
    assert [row["target"] for row in found["target"][:6]] == [None, None, None, 2, 3, 3]
    assert [row["labels"] for row in found["top+target"][:7]] == [
        list(dict.fromkeys([top, *some])) for some in [*explained, []]
    ]
    assert {row["prediction"] for row in found["target"][:6]} == {top}
    errors = [
        "its target must be a class number, 0 or more; got 0.5",
        "its target must be a class number, 0 or more; got {'boxes': []}",
        "its target must have one entry of 0 or 1 for each of 4 classes; got 3 entries",
        "its target must be one of 4 class names; got 'fox': 'w', 'x', 'y', 'z'",
    ]
    for rows, more in ((found["target"], ["has no target, and labels is 'target'"]), (found["top+target"], [])):
        assert [row["error"] for row in rows if row["status"] == "error"] == more + errors


@pytest.mark.parametrize(("labels", "expected"), [(3, [3]), ([3, "x"], [3, 1]), ("z", [3]), ([0, 1], [0, 1])])
def test_fixed_classes_are_explained_for_each_image(labels, expected, tmp_path):
    images, settings = [torch.rand(3, 12, 12), (torch.rand(3, 12, 12), 2)], SMALL | {"class_names": NAMES}
    gpulime.runs.explain(Tiny(), images, tmp_path / "run", labels=labels, **settings)
    rows = list(rows_of(tmp_path / "run").values())
    assert [row["labels"] for row in rows] == [expected] * 2
    assert [row["target"] for row in rows] == [None, 2]
    assert store.manifest(tmp_path / "run")["fixed"]["lime.labels"] == expected
    with pytest.raises(gpulime.GpulimeError, match=r"lime\.labels was"):
        gpulime.runs.explain(Tiny(), images, tmp_path / "run", labels=2, **settings)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(7, "labels must be below the model's 4 classes; got 7"), ("cat", "labels must be one of 'top', .*; got 'cat'")],
)
def test_fixed_classes_that_are_none_are_refused(labels, message, tmp_path):
    with pytest.raises(gpulime.GpulimeError, match=message):
        gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], tmp_path / "run", labels=labels, **SMALL)


def test_fixed_classes_of_a_run_over_files(photographs, tmp_path):
    given = _nested(config(photographs, tmp_path / "run", labels=["dog", 1]))
    given["model"]["class_names"] = ["ant", "bee", "cat", "dog"]
    from_config.run(configs.from_dict(given))
    rows = [row for row in rows_of(tmp_path / "run").values() if row["status"] == "ok"]
    assert [row["labels"] for row in rows] == [[3, 1]] * len(rows)
    assert store.manifest(tmp_path / "run")["class_names"] == ["ant", "bee", "cat", "dog"]


@pytest.mark.parametrize(
    "example",
    [("cat.png", 3), {"photo": torch.rand(3, 12, 12), "label": 1}, (1, torch.rand(3, 12, 12)), torch.rand(1, 3, 12, 12)],
)
def test_examples_of_another_form_are_refused_at_the_first(example, tmp_path):
    def never(x):
        raise AssertionError("a forward was spent")

    with pytest.raises(gpulime.GpulimeError, match=r"image '0': an .* must be"):
        gpulime.runs.explain(never, [example] * 3, tmp_path / "run", model_id="never", **SMALL)
    assert not store.shards(tmp_path / "run")
    gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12), example], tmp_path / "other", **SMALL)
    assert [row["status"] for row in rows_of(tmp_path / "other").values()] == ["ok", "error"]


def test_a_loader_in_the_default_order_has_its_dataset_explained(tmp_path):
    dataset = [{"image": torch.rand(3, 12, 12), "label": i} for i in range(3)]
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    gpulime.runs.explain(Tiny(), loader, tmp_path / "run", labels="target", **SMALL)
    assert [row["labels"] for row in rows_of(tmp_path / "run").values()] == [[0], [1], [2]]


@pytest.mark.parametrize(
    "settings",
    [
        {"shuffle": True},
        {"sampler": [1, 0]},
        {"batch_sampler": [[1], [0]]},
        {"collate_fn": lambda some: torch.stack(some) * 2},
    ],
)
def test_a_loader_with_work_of_its_own_is_refused(settings, tmp_path):
    loader = torch.utils.data.DataLoader([torch.rand(3, 4, 4)] * 2, **settings)
    with pytest.raises(gpulime.GpulimeError, match=r"a DataLoader must have shuffle=False and .* pass its dataset"):
        gpulime.runs.explain(Tiny(), loader, tmp_path / "run", **SMALL)


class Named(nn.Sequential):
    """A model with the names that Hugging Face's have."""

    def __init__(self, names, classes=4):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes))
        self.config = SimpleNamespace(id2label=names)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (dict(enumerate(NAMES)), [*NAMES]),
        ({3: "d", 0: "a", 2: "c", 1: "b"}, ["a", "b", "c", "d"]),
        ({i: f"LABEL_{i}" for i in range(4)}, None),  # placeholders
        (dict(enumerate(NAMES[:3])), None),  # of another head
        (None, None),
    ],
)
def test_class_names_are_those_of_a_hugging_face_model(names, known, tmp_path):
    gpulime.runs.explain(Named(names), [torch.rand(3, 12, 12)], tmp_path / "run", **SMALL)
    assert store.manifest(tmp_path / "run")["class_names"] == known
    assert gpulime.runs.open_run(tmp_path / "run")["0"].class_names == known
    if known is not None:
        gpulime.runs.explain(Named(names), [torch.rand(3, 12, 12)], tmp_path / "fixed", labels=known[1], **SMALL)
        assert rows_of(tmp_path / "fixed")["0"]["labels"] == [1]


def test_class_names_may_be_a_mapping(tmp_path):
    names = {str(i): name for i, name in enumerate(NAMES)}
    gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], tmp_path / "run", class_names=names, **SMALL)
    assert store.manifest(tmp_path / "run")["class_names"] == [*NAMES]
    with pytest.raises(gpulime.GpulimeError, match=r"class_names must name the classes 0 \.\.\. n - 1; got 1, 2"):
        gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], tmp_path / "run", class_names={1: "a", 2: "b"}, **SMALL)


def test_names_must_be_those_of_the_models_classes(tmp_path):
    with pytest.raises(gpulime.GpulimeError, match="class_names has 2 names; the model has 4 classes"):
        gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], tmp_path / "run", class_names=["a", "b"], **SMALL)


def test_a_function_is_gone_on_with_under_its_name_only(tmp_path):
    images, model = [torch.rand(3, 12, 12)], Tiny()
    gpulime.runs.explain(lambda x: model(x), images, tmp_path / "a", **SMALL)
    with pytest.raises(gpulime.GpulimeError, match="give a model_id"):
        gpulime.runs.explain(lambda x: -model(x), images, tmp_path / "a", **SMALL)
    gpulime.runs.explain(lambda x: model(x), images, tmp_path / "b", model_id="tiny", **SMALL)
    assert gpulime.runs.explain(lambda x: model(x), images, tmp_path / "b", model_id="tiny", **SMALL).forwards == 0
    with pytest.raises(gpulime.GpulimeError, match="model_id was 'tiny', is 'other'"):
        gpulime.runs.explain(lambda x: -model(x), images, tmp_path / "b", model_id="other", **SMALL)


def test_defaults_and_functions_are_the_same_settings_again(tmp_path):
    images = [torch.rand(3, 12, 12)]

    def settings():
        return {"n_samples": 20, "fill": torch.zeros(3, 12, 12), "segments": halves}

    gpulime.runs.explain(Tiny(), images, tmp_path / "run", **settings())
    assert gpulime.runs.explain(Tiny(), images, tmp_path / "run", alpha=1.0, **settings()).forwards == 0
    with pytest.raises(gpulime.GpulimeError, match=r"lime\.fill was"):
        gpulime.runs.explain(Tiny(), images, tmp_path / "run", **settings() | {"fill": torch.ones(3, 12, 12)})


@pytest.mark.parametrize("c", [1, 5])
def test_any_number_of_channels_has_a_report(c, tmp_path):
    images = [torch.rand(c, 12, 12) for _ in range(3)]
    gpulime.runs.explain(lambda x: x.flatten(1)[:, :4], images, tmp_path / "run", model_id="first", **SMALL)
    fewer = gpulime.runs.explain(lambda x: x.flatten(1)[:, :4], images[:2], tmp_path / "run", model_id="first", **SMALL)
    assert fewer.ok == 3
    assert (tmp_path / "run" / "report.html").exists()


def test_normalised_images_are_explained_and_shown_as_pictures(tmp_path):
    images = [torch.rand(3, 12, 12) for _ in range(2)]
    settings = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), **SMALL}
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
    gpulime.runs.explain(Tiny(), images, tmp_path / "a", **settings)
    normalised = [(image - mean) / std for image in images]
    gpulime.runs.explain(Tiny(), normalised, tmp_path / "b", normalized=True, **settings)
    here, there = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    for name, row in here.items():
        np.testing.assert_allclose(row["coef"], there[name]["coef"], atol=1e-5 * np.abs(row["coef"]).max())


def test_a_report_of_a_python_run_is_not_spoilt(tmp_path):
    gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], tmp_path / "run", **SMALL)
    with pytest.raises(gpulime.GpulimeError, match=r"made from Python.*report\.html would lose its pictures"):
        from_config.report(tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    assert "no picture" in from_config.report(tmp_path / "run").read_text()


def test_a_seed_that_the_store_cannot_hold_is_refused_first(tmp_path):
    with pytest.raises(gpulime.GpulimeError, match=r"below 2\*\*63"):
        gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], tmp_path / "run", seed=2**63, **SMALL)


def halves(image):
    return np.arange(image.shape[0])[:, None].repeat(image.shape[1], 1) * 2 // image.shape[0]


def _nested(config):
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _counting(forward, seen):
    def counted(self, x):
        seen.append(len(x))
        return forward(self, x)

    return counted


def _shard(path):
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def _predict(path):
    pixels = np.asarray(Image.open(path))[4:36, 9:41]
    return make_tiny()(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255).detach().numpy()[0]


def test_a_folder_named_with_a_slash_at_its_end_is_the_same(photographs, tmp_path):
    from_config.run(config(photographs, tmp_path / "run"))
    assert from_config.run(config(f"{photographs}/", tmp_path / "run")) == exits.ERROR_ROWS


def test_a_rerun_over_other_images_says_so(tmp_path, capsys):
    images = [torch.rand(3, 12, 12) for _ in range(3)]
    for dataset, said in ((images[:2], False), (images, False), (images[::-1], True)):
        gpulime.runs.explain(Tiny(), dataset, tmp_path / "run", model_id="tiny", **SMALL)
        assert ("image '0' has changed since it was explained" in capsys.readouterr().err) == said


def test_an_image_is_kept_as_soon_as_its_rows_are_through(tmp_path):
    """In a run that stops in the last image's rows all earlier images have rows, for any batch size."""

    class Fails(Tiny):
        seen = 0

        def forward(self, x):
            self.seen += len(x)
            if self.seen > 3 * 1000 + 300:
                raise KeyboardInterrupt
            return super().forward(x)

    images = [torch.rand(3, 12, 12) for _ in range(4)]
    with pytest.raises(KeyboardInterrupt):
        gpulime.runs.explain(Fails(), images, tmp_path / "run", n_samples=1000, segments="grid", batch_size=64)
    assert store.read(tmp_path / "run")["image_id"].to_pylist() == ["0", "1", "2"]


def test_a_signal_while_the_last_shard_is_written_waits_for_it(tmp_path, monkeypatch):
    publish = store.publish

    def interrupted(run, name, data):
        if name.startswith(store.RESULTS):
            os.kill(os.getpid(), signal.SIGINT)
        publish(run, name, data)

    monkeypatch.setattr(store, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)] * 4, tmp_path / "run", **SMALL)
    assert len(store.read(tmp_path / "run")) == 4


class Unreadable:
    """Forty examples that cannot be read, and a signal with the fourth."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        if i == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("no such image")


def test_a_signal_while_images_are_read_ends_the_run(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        gpulime.runs.explain(Tiny(), Unreadable(), tmp_path / "run", **SMALL)
    assert not (tmp_path / "run" / "report.html").exists()


def refuses_dark(image):
    if image.max() < 0.1:
        raise RuntimeError("too dark")
    return halves(image)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (torch.zeros(3, 0, 5), "decode", "(3, 0, 5)"),
        (torch.zeros(3, 12, 12, dtype=torch.uint8), "segments", "RuntimeError: too dark"),
    ],
    ids=["empty", "segmentation"],
)
def test_one_bad_image_is_one_error_row(bad, kind, message, workers, tmp_path):
    images = [torch.full((3, 12, 12), 200, dtype=torch.uint8) for _ in range(3)]
    images[1] = bad
    gpulime.runs.explain(Tiny(), images, tmp_path / "run", workers=workers, n_samples=20, segments=refuses_dark)
    rows = rows_of(tmp_path / "run")
    assert [rows[name]["status"] for name in "012"] == ["ok", "error", "ok"]
    assert rows["1"]["error_type"] == kind
    assert message in rows["1"]["error"]


@pytest.mark.parametrize(
    "setting",
    [
        {"kernel": lambda d, width: torch.ones_like(d)},
        {"segments": lambda image: halves(image)},
        {"activation": lambda z: z.softmax(1)},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_functions_without_a_name_cannot_be_compared(setting, tmp_path):
    images = [torch.rand(3, 12, 12) for _ in range(2)]
    arguments = {**SMALL, **setting}
    gpulime.runs.explain(Tiny(), images[:1], tmp_path / "a", **arguments)
    with pytest.raises(gpulime.GpulimeError, match=rf"the ones that made them \({next(iter(setting))}\): give a model_id"):
        gpulime.runs.explain(Tiny(), images, tmp_path / "a", **arguments)
    for _ in range(2):
        outcome = gpulime.runs.explain(Tiny(), images, tmp_path / "b", model_id="mine", **arguments)
    assert outcome.ok == 2


class Listed:
    """A dataset with a list of samples, as ImageFolder has, of what it is told."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return torch.full((3, 12, 12), i / 4), 0


def test_two_examples_of_one_path_are_refused(tmp_path):
    with pytest.raises(gpulime.GpulimeError, match=r"a/x\.png"):
        gpulime.runs.explain(Tiny(), Listed([("a/x.png", 0), ("a/x.png", 1), ("b.png", 2)]), tmp_path / "run", **SMALL)


def conv(channels):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


def channelled(folder, out, channels, **data):
    given = config(folder, out)
    model = configs.ModelConfig("test_run.conv", {"channels": channels})
    return dataclasses.replace(given, model=model, data=dataclasses.replace(given.data, crop=16, **data))


PICTURES = {
    "1": np.full((16, 16), 9, np.uint8),
    "3": np.full((16, 16, 3), 9, np.uint8),
    "4": np.full((16, 16, 4), 9, np.uint8),
    "deep": np.full((16, 16), 3000, np.uint16),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_have_as_many_channels_as_the_model_takes(channels, tmp_path):
    (tmp_path / "data").mkdir()
    for name, array in PICTURES.items():
        if (name, channels) != ("deep", 4):
            Image.fromarray(array).save(tmp_path / f"data/{name}.png")
    assert from_config.run(channelled(tmp_path / "data", tmp_path / "run", channels)) == exits.OK
    assert (tmp_path / "run" / "report.html").exists()


def test_arrays_of_many_bands_and_a_single_odd_file(tmp_path):
    (tmp_path / "data").mkdir()
    for i in range(2):
        np.save(tmp_path / f"data/{i}.npy", np.random.default_rng(i).random((16, 16, 13), np.float32))
    Image.fromarray(PICTURES["3"]).save(tmp_path / "data/3.png")
    assert from_config.run(channelled(tmp_path / "data", tmp_path / "run", 13)) == exits.ERROR_ROWS
    rows = rows_of(tmp_path / "run")
    assert [rows[name]["error_type"] for name in ("0.npy", "1.npy", "3.png")] == [None, None, "channels"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_images_that_cannot_fit_the_model_end_the_run_in_one_line(photographs, tmp_path, dry_run):
    chosen = channelled(photographs, tmp_path / "run", 13)
    with pytest.raises(gpulime.GpulimeError, match=r"^image 'ant/0\.png' has 3 channels; the model takes 13 \(data\.channels"):
        from_config.run(chosen, dry_run=dry_run)
    assert not store.shards(tmp_path / "run")


def test_a_class_folder_added_between_calls_is_refused(photographs, tmp_path):
    out = tmp_path / "run"
    from_config.run(config(photographs, out))
    (photographs / "asp").mkdir()
    with pytest.raises(
        gpulime.GpulimeError, match=r"other settings: target of 'bee' was 1, is 2; target of 'asp' was not set, is 1"
    ):
        from_config.run(config(photographs, out))


def test_samples_that_are_no_paths_are_numbered(tmp_path):
    gpulime.runs.explain(Tiny(), Listed([(torch.zeros(2), 0), (torch.ones(2), 1)]), tmp_path / "run", **SMALL)
    assert set(rows_of(tmp_path / "run")) == {"0", "1"}


def test_gray_pictures_stay_gray(tmp_path):
    gray = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (12, 12), dtype=np.uint8)) for i in range(2)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    assert gpulime.runs.explain(model, gray, tmp_path / "run", **SMALL).ok == 2


def test_a_narrowing_activation_bounds_the_targets(tmp_path):
    images = [(torch.rand(3, 12, 12), target) for target in (0, 3)]
    gpulime.runs.explain(Tiny(), images, tmp_path / "run", labels="target", activation=first_two, **SMALL)
    rows = rows_of(tmp_path / "run")
    assert [rows[name]["error_type"] for name in "01"] == [None, "target"]


def first_two(outputs):
    return outputs[:, :2]


def test_class_names_of_another_length_cost_one_batch(tmp_path, counted):
    seen = []
    model = Tiny()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    images = [torch.rand(3, 12, 12)] * 3
    with pytest.raises(gpulime.GpulimeError, match="class_names has 2 names; the model has 4 classes"):
        gpulime.runs.explain(model, images, tmp_path / "run", class_names=["a", "b"], batch_size=8, **SMALL)
    assert sum(seen) == 8
    names = ["w", "x", "y", "z"]
    assert gpulime.runs.explain(model, images, tmp_path / "run", class_names=names, **{**SMALL, "n_samples": 30}).ok == 3
    assert store.manifest(tmp_path / "run")["class_names"] == names


def test_a_place_that_takes_no_files_costs_no_forward(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file/run"):
        gpulime.runs.explain(Silent(), [torch.rand(3, 12, 12)], tmp_path / "file" / "run", **SMALL)
    out = tmp_path / "run"
    gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], out, model_id="tiny", **SMALL)
    shutil.rmtree(out / "_staging")
    (out / "_staging").touch()  # as on a disk that has become read-only since
    with pytest.raises(OSError, match="_staging"):
        gpulime.runs.explain(Silent(), [torch.rand(3, 12, 12)] * 2, out, model_id="tiny", **SMALL)
    assert len(store.done(out)) == 1


class Silent(Tiny):
    def forward(self, x):
        raise AssertionError("a forward was spent")


@pytest.mark.parametrize("device", ["cuda:9", "gpu", "mps"])
def test_a_device_that_is_not_there_is_named(device, photographs, tmp_path):
    with pytest.raises(gpulime.GpulimeError, match=f"device.*{device}"):
        from_config.run(config(photographs, tmp_path / "run", device=device))


def test_a_link_to_itself_is_one_error_row(photographs, tmp_path):
    (photographs / "loop.png").symlink_to("loop.png")
    from_config.run(config(photographs, tmp_path / "run"))
    rows = rows_of(tmp_path / "run")
    assert rows["loop.png"]["error_type"] == "decode"
    assert sum(row["status"] == "ok" for row in rows.values()) == 6
