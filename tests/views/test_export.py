"""Exported files have the run's contents, under names independent of ids."""

from __future__ import annotations

import csv
import hashlib
import re

import numpy as np
import pytest
from PIL import Image
from rows import HOSTILE, LABELS, at, explained, failed, picture, run

from gpulime.errors import GpulimeError
from gpulime.explanations import shades
from gpulime.runs import from_config, open_run
from gpulime.views import diff
from gpulime.views.export import COLUMNS, INDEX, _near, export
from gpulime.views.report import diff_page


def index(folder):
    """The lines of the index, as docs tell to read them."""
    with (folder / INDEX).open(newline="", encoding="utf-8") as file:
        return [{name: cell.removeprefix("'") for name, cell in line.items()} for line in csv.DictReader(file)]


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_arrays_are_those_of_the_row(tmp_path):
    folder = run(tmp_path / "run", explained("a"), explained("b", coef=[[1, 2, 3, 4]] * 2))
    assert export(folder, ["b"], tmp_path / "to").images == 1
    lines = index(tmp_path / "to")
    assert [tuple(line) for line in lines] == [COLUMNS] * 2
    assert [(line["image_id"], line["label"], line["name"], line["prediction"], line["r2"]) for line in lines] == [
        ("b", "1", "tabby", "0.75", "0.5"),
        ("b", "2", "lynx", "0.125", ""),
    ]
    assert lines[0]["arrays"] == lines[1]["arrays"] == f"000000-{hashlib.sha256(b'b').hexdigest()[:12]}.npz"
    with np.load(tmp_path / "to" / lines[0]["arrays"], allow_pickle=False) as arrays:
        assert str(arrays["image_id"]) == "b"
        np.testing.assert_array_equal(arrays["labels"], [1, 2])
        np.testing.assert_array_equal(arrays["predictions"], np.float32([0.75, 0.125]))
        np.testing.assert_array_equal(arrays["intercepts"], [0.1, 0.2])
        np.testing.assert_array_equal(arrays["r2"], [0.5, np.nan])
        np.testing.assert_array_equal(arrays["r2_loo"], [np.nan, np.nan])  # a row of an earlier version
        np.testing.assert_array_equal(arrays["coefficients"], np.float32([[1, 2, 3, 4]] * 2))
        np.testing.assert_array_equal(arrays["segments"], LABELS)
        np.testing.assert_array_equal(arrays["heatmaps"], np.float32([LABELS + 1] * 2))
        assert arrays["segments"].dtype == np.int32
        assert arrays["heatmaps"].dtype == arrays["coefficients"].dtype == np.float32


def test_standard_errors_are_exported_and_uncertain_segments_hatched(tmp_path):
    errors = [[0.1, 0.2, 0.1, 0.0], [0.0] * 4]  # of the first label, 1 and 2 are not certain
    folder = run(tmp_path / "run", explained("a"), explained("b", coef_se=errors), explained("c", coef_se=[[0.0] * 4] * 2))
    export(folder, None, tmp_path / "to")
    lines = index(tmp_path / "to")
    arrays = [np.load(tmp_path / "to" / line["arrays"])["standard_errors"] for line in lines[::2]]
    assert np.isnan(arrays[0]).all()
    np.testing.assert_array_equal(arrays[1], np.float32(errors))
    (old, second), (hatched, certain), (new, _) = (
        [np.asarray(Image.open(tmp_path / "to" / line["overlay"])) for line in lines[i : i + 2]] for i in (0, 2, 4)
    )
    np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(second, certain)
    assert set(np.unique(LABELS[(old != hatched).any(-1)])) == {1, 2}


def test_overlays_lie_on_the_picture_where_it_is_at_hand_and_are_transparent_elsewhere(tmp_path):
    path, pixels = picture(tmp_path)
    wrong_size, _ = picture(tmp_path, "other.png", (30, 20))
    gone = {"path": b"/nowhere.png", "image_sha256": "0" * 64}
    rows = [explained("here", **at(path)), explained("gone", **gone), explained("other", **at(wrong_size))]
    assert export(run(tmp_path / "run", *rows), None, tmp_path / "to").without_picture == 2
    lines = index(tmp_path / "to")
    shown = {(line["image_id"], line["label"]): opened(tmp_path / "to" / line["overlay"]) for line in lines}
    heat = np.array([0.5, -0.25, 0.125, 0.0])[LABELS]
    np.testing.assert_array_equal(shown["here", "1"], shades.blend(pixels, LABELS, heat, 0.5))
    for image_id in ("gone", "other"):
        overlay = shown[image_id, "1"]
        assert overlay.shape == (24, 20, 4)
        quarters = overlay[[2, 2, 14, 14], [2, 14, 2, 14]]  # inside each
        assert quarters[:, 3].tolist() == [191, 96, 48, 0]
        assert quarters[0, 2] > quarters[0, 0]  # blue
        assert quarters[1, 0] > quarters[1, 2]  # orange


def test_a_picture_that_changed_since_is_not_at_hand(tmp_path):
    path, pixels = picture(tmp_path)
    now, then = hashlib.sha256((tmp_path / "cat.png").read_bytes()).hexdigest(), "0" * 64
    folder = run(tmp_path / "run", *(explained(sha256, path=path, image_sha256=sha256) for sha256 in (now, then)))
    export(folder, None, tmp_path / "to")
    shapes = [opened(tmp_path / "to" / line["overlay"]).shape for line in index(tmp_path / "to")]
    assert shapes == [pixels.shape] * 2 + [(*LABELS.shape, 4)] * 2


def test_a_row_without_a_checksum_brings_no_picture(tmp_path):
    """It may be another's, and name any file of this machine."""
    path, _ = picture(tmp_path)
    folder = run(tmp_path / "run", explained("mine", path=path, image_sha256=None))
    export(folder, None, tmp_path / "to")
    assert opened(tmp_path / "to" / index(tmp_path / "to")[0]["overlay"]).shape == (*LABELS.shape, 4)
    assert "data:image/jpeg" not in from_config.report(folder).read_text()
    assert np.unique(open_run(folder)["mine"].image).size == 1
    other = run(tmp_path / "other", explained("mine", path=path, image_sha256=None))
    text = diff_page.write(diff.compare(folder, other), tmp_path).read_text()
    assert "no picture" in text


def test_a_run_made_from_python_has_no_pictures_at_hand(tmp_path):
    export(run(tmp_path / "run", explained("a"), files=False), None, tmp_path / "to")
    assert opened(tmp_path / "to" / index(tmp_path / "to")[0]["overlay"]).shape == (*LABELS.shape, 4)


def test_no_id_makes_a_name(tmp_path):
    rows = [explained(image_id) for image_id in HOSTILE]
    assert export(run(tmp_path / "run", *rows), HOSTILE, tmp_path / "in" / "to").images == len(HOSTILE)
    names = sorted(path.name for path in (tmp_path / "in" / "to").iterdir())
    assert len(names) == 3 * len(HOSTILE) + 1
    assert all(re.fullmatch(r"\d{6}-[0-9a-f]{12}(\.npz|-class-[12]\.png)|index\.csv", name) for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "in"}
    assert [line["image_id"] for line in index(tmp_path / "in" / "to")][::2] == HOSTILE  # newlines and quotes come back whole


def test_no_cell_is_a_formula_and_all_come_back(tmp_path):
    ids = ["=1+1", "+1", "-1", "@x", "\tx", "'=1", "''", "plain", "a=b", ""]
    rows = [explained(image_id, pred_probs=[-0.5, 0.25], r2=[-0.25, None]) for image_id in ids]
    export(run(tmp_path / "run", *rows, names=("a", "=cmd()", "b")), None, tmp_path / "to")
    assert [(line["image_id"], line["name"]) for line in index(tmp_path / "to")[::2]] == [(one, "=cmd()") for one in ids]
    with (tmp_path / "to" / INDEX).open(newline="") as file:
        cells = list(csv.DictReader(file))
    texts = [line[name] for line in cells for name in ("image_id", "name")]
    assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t"))]
    assert {line["prediction"] for line in cells} == {"-0.5", "0.25"}, "numbers stay numbers"


def test_half_of_a_surrogate_pair_in_a_name_leaves_a_whole_index(tmp_path):
    export(run(tmp_path / "run", explained("a"), names=("tench", "ta\ud800by", "lynx")), None, tmp_path / "to")
    assert [line["name"] for line in index(tmp_path / "to")] == [r"ta\ud800by", "lynx"]
    assert len(list((tmp_path / "to").iterdir())) == 4


def test_all_that_are_ok_by_default_and_each_once(tmp_path):
    folder = run(tmp_path / "run", explained("a"), failed("bad"), explained("c"))
    assert export(folder, None, tmp_path / "all").images == 2
    assert export(folder, ["c", "a", "c"], tmp_path / "some").images == 2
    assert [line["image_id"] for line in index(tmp_path / "some")] == ["c", "c", "a", "a"]


def test_names_are_left_out_where_they_are_not_known(tmp_path):
    export(run(tmp_path / "run", explained("a"), names=("tench", "tabby")), None, tmp_path / "to")
    assert [line["name"] for line in index(tmp_path / "to")] == ["tabby", ""]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["cats/1.jpeg", "a"], r"1 of 2 ids are not among the 3 of .*run: 'cats/1.jpeg' \(did you mean 'cats/1.jpg'\?\)"),
        (["zzz"] * 2, r"1 of 1 ids are not among the 3 of .*run: 'zzz'$"),
        ([str(i) for i in range(9)], r"9 of 9 ids are not among the 3 .*'0', '1', '2', '3', '4' \.\.\.$"),
        (["a", "bad"], "image 'bad' has no explanation: decode: is empty"),
        ([], "ids must name at least one image; got none"),
    ],
)
def test_an_id_that_cannot_be_written_is_named(tmp_path, ids, message):
    folder = run(tmp_path / "run", explained("a"), explained("cats/1.jpg"), failed("bad"))
    with pytest.raises(GpulimeError, match=message):
        export(folder, ids, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_nothing_is_overwritten_and_a_run_must_hold_something(tmp_path):
    folder = run(tmp_path / "run", explained("a"))
    (tmp_path / "empty").mkdir()
    assert export(folder, None, tmp_path / "empty").images == 1
    for taken in (tmp_path / "empty", tmp_path / "empty" / INDEX):
        with pytest.raises(GpulimeError, match="is there and not an empty folder: choose another"):
            export(folder, None, taken)
    with pytest.raises(GpulimeError, match=r"holds no run: there is no run\.json in it"):
        export(tmp_path, None, tmp_path / "to")
    with pytest.raises(GpulimeError, match="holds no explanation: 1 rows, none of them ok"):
        export(run(tmp_path / "bad", failed("a")), None, tmp_path / "to")


@pytest.mark.parametrize(
    ("image_id", "meant"),
    [
        ("cats/1.jpeg", "cats/1.jpg"),
        ("Cats/1.JPG", "cats/1.jpg"),
        ("chelsae", "chelsea"),
        ("chelsea.png", "chelsea"),
        ("photo_2.png", "val/photo_2.png"),
        ("cats/2.jpg", None),
        ("dogs/1.jpg", None),
        ("photo_3.png", None),
        ("val/dog.png", None),
        ("zzz", None),
    ],
)
def test_only_an_id_that_is_really_near_is_suggested(image_id, meant):
    known = ["cats/1.jpg", "chelsea", "val/photo_2.png", "val/cat.png"]
    assert _near(image_id, known) == (f" (did you mean {meant!r}?)" if meant else "")
