"""A user's dataset on the command line: explained as from Python, stored in run.json, found again by report."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import gpulime
from gpulime import config as configs
from gpulime.runs import from_config
from gpulime.runs.progress import exits
from gpulime.runs.reading.transform import Transform
from gpulime.runs.store import store

CALLS = []


class Pictures(list):
    """Gray pictures with targets."""


def make(n=3):
    CALLS.append(n)
    noise = np.random.default_rng(0)
    return Pictures((Image.fromarray(noise.integers(0, 255, (12, 12), dtype=np.uint8)), i % 2) for i in range(n))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def config(out, factory="test_images:make", lime=None, report=False, **data):
    return configs.from_dict(
        {
            "model": {"factory": "test_images:model"},
            "data": {"factory": factory, "kwargs": {"n": 3}, **data},
            "lime": {"quality": "lime", "n_samples": 30, "segments": {"grid": {"rows": 2, "columns": 2}}, **(lime or {})},
            "out": str(out),
            "report": report,
        }
    )


def rows_of(out):
    return {row["image_id"]: row for row in store.read(out).to_pylist()}


def test_a_dataset_of_a_factory_is_explained_as_from_python(tmp_path):
    assert from_config.run(config(tmp_path / "run", limit=2)) == exits.OK
    assert from_config.run(config(tmp_path / "run")) == exits.OK
    settings = {"n_samples": 30, "segments": {"grid": {"rows": 2, "columns": 2}}, "report": False}
    gpulime.runs.explain(model(), make(), tmp_path / "python", **settings)
    rows, expected = rows_of(tmp_path / "run"), rows_of(tmp_path / "python")
    assert rows.keys() == expected.keys() == {"0", "1", "2"}
    for name, row in rows.items():
        same = ("target", "image_sha256", "labels", "status", "h", "w")
        assert [row[key] for key in same] == [expected[name][key] for key in same]
        np.testing.assert_allclose(row["coef"], expected[name]["coef"], rtol=1e-4, atol=1e-7)
    about = store.manifest(tmp_path / "run")
    assert (about["config"]["data"]["factory"], about["config"]["data"]["kwargs"]) == ("test_images:make", {"n": 3})
    assert about["transform"]["channels"] == 3


def test_report_finds_the_pictures_again(tmp_path):
    from_config.run(config(tmp_path / "run", report=True))
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/") > 3
    picture = from_config.pictures(tmp_path / "run")
    row = rows_of(tmp_path / "run")["1"]
    assert np.array_equal(picture(row).pixels, np.asarray(make()[1][0].convert("RGB")))
    assert picture({**row, "image_sha256": "0" * 64}) is None  # it has changed
    from_config.report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text().count("data:image/") == page.count("data:image/")


def test_the_code_that_a_run_names_is_not_called_unless_this_user_has_run_it(tmp_path, monkeypatch):
    from_config.run(config(tmp_path / "run", report=True))
    manifest = tmp_path / "run" / "run.json"
    about = json.loads(manifest.read_text())
    about["config"]["data"] |= {"factory": "test_images:hostile", "kwargs": {"path": str(tmp_path / "ran")}}
    manifest.write_text(json.dumps(about))
    with pytest.raises(gpulime.GpulimeError, match=r"code that you have not run in this folder: report\.html would lose"):
        from_config.report(tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    from_config.report(tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    chosen = config(tmp_path / "run")
    assert from_config._reader({**about, "config": dataclasses.asdict(chosen)}) is not None
    monkeypatch.chdir(tmp_path)  # where the name may lead to other code
    assert from_config._reader({**about, "config": dataclasses.asdict(chosen)}) is None


def hostile(path):
    with open(path, "w"):
        return make()


def nothing(n):
    return []


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("test_images:nothing", "dataset must have a length above 0 and give its images by number; got builtins.list"),
        ("test_images:no_such", "test_images has no 'no_such'"),
        ("test_images:CALLS", "must be something to call that returns the dataset"),
        ("test_images:hostile", "the call with {'n': 3} failed with TypeError"),
    ],
)
def test_a_factory_that_makes_no_dataset_is_refused(factory, message, tmp_path):
    with pytest.raises(gpulime.GpulimeError) as caught:
        from_config.run(config(tmp_path / "run", factory=factory))
    assert str(caught.value).startswith(f"data.factory {factory!r}: {message}")


def test_settings_that_are_for_files_are_said_not_to_be_used(tmp_path, capsys):
    assert from_config.images(config(tmp_path, resize=8, crop=8).data, Transform(), None)[0].count == 3
    assert capsys.readouterr().err == "data.factory makes the images; not used: data.resize, data.crop\n"


def test_a_colour_that_hides_counts_in_unit_for_bytes_too(tmp_path):
    from_config.run(config(tmp_path / "run", lime={"fill": 0.5}))
    bytes_ = [(torch.from_numpy(np.array(image)).expand(3, -1, -1) / 255, target) for image, target in make()]
    settings = {"n_samples": 30, "segments": {"grid": {"rows": 2, "columns": 2}}, "fill": 0.5, "report": False}
    gpulime.runs.explain(model(), bytes_, tmp_path / "python", **settings)
    rows, expected = rows_of(tmp_path / "run"), rows_of(tmp_path / "python")
    np.testing.assert_allclose(rows["0"]["coef"], expected["0"]["coef"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_pictures_of_a_dataset_are_scaled(mode, tmp_path):
    seen = []

    class Watched(nn.Module):
        def forward(self, rows):
            seen.append(rows.max().item())
            return rows.flatten(1)[:, :3]

    image = Image.new(mode, (12, 12), 3000 if mode != "F" else 3000 / 65535)
    settings = {"n_samples": 30, "segments": {"grid": {"rows": 2, "columns": 2}}, "report": False, "activation": None}
    assert gpulime.runs.explain(Watched(), [(image, 0)], tmp_path / "run", fill=0.0, **settings).ok == 1
    assert max(seen) == pytest.approx(3000 / 65535)


def test_channels_of_a_dataset(tmp_path):
    settings = {"n_samples": 30, "segments": {"grid": {"rows": 2, "columns": 2}}, "report": False}
    gray = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    rgb = [image.convert("RGB") for image, _ in make()]
    assert gpulime.runs.explain(gray, rgb, tmp_path / "gray", **settings).ok == 3
    flat = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    assert gpulime.runs.explain(flat, rgb, tmp_path / "flat", channels=1, **settings).ok == 3
    with pytest.raises(gpulime.GpulimeError, match="image '0' has 3 channels; the model takes 5"):
        gpulime.runs.explain(nn.Conv2d(5, 1, 1), rgb, tmp_path / "five", **settings)


def test_settings_reach_the_reader(tmp_path):
    data = dataclasses.replace(config(tmp_path).data, factory=None, source="a", max_megabytes=7.0, exif="apply")
    reader = from_config._reader({"config": {"data": dataclasses.asdict(data)}, "transform": {}})
    assert (reader.data.max_megabytes, reader.data.exif) == (7.0, "apply")


def test_keep_without_masks_is_refused(tmp_path):
    """A segmenter's ids have no meaning across pictures: an arbitrary segment would be kept in silence."""
    data = configs.DataConfig(source=str(tmp_path), keep=0)
    with pytest.raises(gpulime.GpulimeError, match=r"^data\.keep names segments of masks: set data\.masks too"):
        from_config.images(data, Transform(), None)
