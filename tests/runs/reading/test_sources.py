"""Images of a source: order, ids, targets, ignored and refused files."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from gpulime.config import DataConfig
from gpulime.errors import GpulimeError
from gpulime.runs.reading.decode import FORMATS
from gpulime.runs.reading.pixels import DecodeError
from gpulime.runs.reading.read import load
from gpulime.runs.reading.sources import ENDINGS, Item, find

CONFIG = DataConfig()


@pytest.fixture
def folder(tmp_path):
    """Makes a folder with the given files: those with an image's ending are images of 3 x 2 pixels, else text."""

    def make(*names):
        for name in names:
            path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                if path.endswith(b".npy"):
                    np.save(file, np.zeros((2, 3, 3), np.uint8))
                elif path.lower().endswith((b".png", b".jpg", b".jpeg")):
                    Image.new("RGB", (3, 2)).save(file, "PNG")
                else:
                    file.write(b"text")
        return tmp_path

    return make


def items(path, class_names=None, **settings):
    return find(DataConfig(source=os.fspath(path), **settings), class_names).items


def listed(found):
    return [(item.image_id, item.target) for item in found]


def refused(path, class_names=None):
    with pytest.raises(GpulimeError) as caught:
        items(path, class_names)
    prefix = f"data.source {os.fspath(path)!r}: "
    assert str(caught.value).startswith(prefix)
    return str(caught.value).removeprefix(prefix)


def test_a_flat_folder(folder):
    path = folder("b.png", "a.JPG", "c.npy", "notes.md", ".hidden", "d.MD")
    source = find(DataConfig(source=str(path)))
    assert source.items == [Item(name, os.fsencode(path / name)) for name in ("a.JPG", "b.png", "c.npy")]
    assert source.ignored == {".md": 2, "": 1}
    assert all(load(item, CONFIG).size == (3, 2) for item in source.items)


def test_a_folder_a_class_is_read_as_imagefolder_reads_it(folder):
    path = folder("zebra/2.png", "zebra/10.png", "Ant/x.jpeg", "Ant/deep.png", "bee/z.png")
    folder(*(f"Ant/{deep}/y.png" for deep in ("z", "deep", "b", "c", "a", "B", "10", "9")))
    (path / "Ant/link").symlink_to(path / "bee")
    expected = [(os.path.relpath(name, path), target) for name, target in ImageFolder(str(path)).samples]
    assert listed(items(path)) == expected
    assert {target for _, target in expected} == {0, 1, 2}


def test_images_beside_class_folders_have_no_target(folder):
    path = folder("ant/a.png", "bee/readme.txt", "cat/c.png", "d.png")
    assert listed(items(path)) == [("d.png", None), ("ant/a.png", 0), ("cat/c.png", 2)]


def test_folders_named_as_classes_have_their_index(folder):
    path = folder("cat/1.png", "ant/2.png")
    assert listed(items(path, ["dog", "cat", "ant"])) == [("ant/2.png", 2), ("cat/1.png", 1)]
    assert listed(items(path, ["dog", "ant"])) == [("ant/2.png", 0), ("cat/1.png", 1)]  # not all are: sorted
    assert listed(items(path, ["cat", "ant", "cat"])) == [("ant/2.png", 1), ("cat/1.png", None)]  # which cat?


def test_limit_takes_the_first(folder):
    assert listed(items(folder("c.png", "a.png", "b.png"), limit=2)) == [("a.png", None), ("b.png", None)]


def test_hostile_names_keep_their_bytes(folder):
    names = [b"\xff\xfe.png", b"new\nline.png", "größe.png".encode(), b"<script>.png", b"back\\slash.png"]
    path = folder(*names)
    found = find(DataConfig(source=str(path)))
    assert {os.path.basename(item.path): item.image_id for item in found.items} == {
        b"\xff\xfe.png": "\\xff\\xfe.png",
        b"new\nline.png": "new\nline.png",
        "größe.png".encode(): "größe.png",
        b"<script>.png": "<script>.png",
        b"back\\slash.png": "back\\slash.png",
    }
    assert all(load(item, CONFIG).size == (3, 2) for item in found.items)


def test_names_with_equal_ids_are_refused(folder):
    path = folder(b"\xff.png", b"\\xff.png")
    assert refused(path) == r"image ids must be unique; 1 repeated: '\\xff.png'"


def test_a_text_list_is_relative_to_its_own_folder(folder):
    path = folder("sub/a.png", "b.png")
    (path / "list.txt").write_bytes(b"\xef\xbb\xbfsub/a.png\r\n\n./b.png\n../gone.png\n" + os.fsencode(path / "b.png"))
    source = find(DataConfig(source=str(path / "list.txt")))
    assert [item.image_id for item in source.items] == ["sub/a.png", "b.png", "../gone.png", str(path / "b.png")]
    assert [load(source.items[i], CONFIG).size for i in (0, 1, 3)] == [(3, 2)] * 3
    with pytest.raises(DecodeError, match="there is no such file"):
        load(source.items[2], CONFIG)


def test_a_text_list_may_hold_any_bytes(folder):
    path = folder(b"\xff.png")
    (path / "list.txt").write_bytes(b"\xff.png\n")
    source = find(DataConfig(source=str(path / "list.txt")))
    assert source.items[0].image_id == "\\xff.png"
    assert load(source.items[0], CONFIG).size == (3, 2)


def test_repeats_in_a_list_are_refused_and_the_first_five_named(tmp_path):
    names = [f"{i}.png" for i in range(9)]
    (tmp_path / "list.txt").write_text("\n".join([*names, "./0.png", *names[:7]]))
    assert refused(tmp_path / "list.txt") == (
        "image ids must be unique; 7 repeated: '0.png', '1.png', '2.png', '3.png', '4.png' ..."
    )


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("path\na.png\n", [None]),
        ("file,class_index,class_name\na.png,2,cat\nb.png,,\n", [2, None]),
        ("Label, FileName \ncat,a.png\n0,b.png\n", [1, 0]),
        ("filename,label,target\na.png,cat,0\n", [0]),
        ('path,target\n"new\nline.png",1\n', [1]),
    ],
)
def test_a_csv_list(tmp_path, text, targets):
    (tmp_path / "list.csv").write_text(text, newline="")
    found = items(tmp_path / "list.csv", ["ant", "cat", "dog"])
    assert [item.target for item in found] == targets
    assert found[0].image_id == ("new\nline.png" if "new" in text else "a.png")
    assert found[0].path == os.fsencode(tmp_path / found[0].image_id)


@pytest.mark.parametrize(
    ("text", "class_names", "message"),
    [
        ("name,target\na.png,0\n", None, "must have a column path or file or filename; its columns are name, target"),
        ("", None, "must have a column path or file or filename; its columns are "),
        ("path,target\na.png,0\n,1\n", None, "line 3: path is empty"),
        (
            "path,target\na.png,cow\n",
            ["ant", "cat"],
            "line 2: the target must be an index in 0..1 or one of the model's class names; got 'cow'",
        ),
        (
            "path,target\na.png,2\n",
            ["ant", "cat"],
            "line 2: the target must be an index in 0..1 or one of the model's class names; got '2'",
        ),
        (
            "path,target\na.png,-1\n",
            None,
            "line 2: the target must be an index in 0..2147483647 or one of the model's class names; got '-1'",
        ),
    ],
)
def test_a_bad_csv_list_is_refused(tmp_path, text, class_names, message):
    (tmp_path / "list.csv").write_text(text)
    assert refused(tmp_path / "list.csv", class_names) == message


def test_one_image(folder):
    path = folder("cat.png") / "cat.png"
    assert items(path) == [Item("cat.png", os.fsencode(path))]


def test_the_photographs_of_scikit_image():
    source = find(DataConfig())
    assert source.items == [Item(name, b"") for name in ("chelsea", "coffee", "astronaut", "rocket")]
    decoded = load(source.items[0], CONFIG)
    assert (decoded.picture.shape, decoded.size) == ((300, 451, 3), (451, 300))
    assert len(decoded.sha256) == 64


def test_what_is_no_source_is_refused(folder, tmp_path):
    path = folder("notes.md", "more.md", "movie.mp4")
    assert refused(tmp_path / "gone") == "there is no such folder or file"
    message = refused(path)
    assert message.startswith("holds no image (.jpg, ")
    assert message.endswith("; other files there: .md (2), .mp4 (1)")
    assert refused(path / "movie.mp4").startswith("must be a folder, a .txt or .csv list, an image (.jpg")


def test_settings_reach_the_decoder(folder):
    config = DataConfig(source=str(folder("a.png")), max_megapixels=1e-6)
    with pytest.raises(DecodeError) as caught:
        load(find(config).items[0], config)
    assert caught.value.kind == "too_large"


def test_some_of_the_classes_under_other_names_have_no_targets(folder):
    path = folder("n01440764/1.png", "n02099601/2.png")
    assert [item.target for item in items(path, ["tench", "cock", "retriever"])] == [None, None]
    assert [item.target for item in items(path, ["tench", "retriever"])] == [0, 1]
    assert [item.target for item in items(path)] == [0, 1]


def test_a_gif_is_read_and_each_ending_that_the_error_names(folder, tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.gif")
    assert listed(items(tmp_path)) == [("a.gif", None)]
    for name in FORMATS:
        endings = [ending for ending, known in Image.registered_extensions().items() if known == name]
        assert set(endings) & set(ENDINGS), name


def test_links_to_the_folders_above_are_entered_once(folder):
    path = folder("ant/a.png", "ant/deep/b.png", "bee/c.png")
    (path / "ant/up").symlink_to(path)
    (path / "ant/self").symlink_to(path / "ant")
    (path / "bee/again").symlink_to("..")
    (path / "bee/deep").symlink_to("../ant/deep")
    (path / "bee/deeper").symlink_to("../ant/deep")
    assert listed(items(path)) == [("ant/a.png", 0), ("ant/deep/b.png", 0), ("bee/c.png", 1), ("bee/deep/b.png", 1)]


def test_a_folder_that_cannot_be_listed_is_refused_by_name(folder, monkeypatch):
    path = folder("ant/a.png", "ant/closed/b.png")
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert refused(path) == f"cannot be read: [Errno 13] Permission denied: '{path}/ant/closed'"


def test_a_path_that_is_too_long_is_refused(tmp_path):
    inside = tmp_path / "ant"
    inside.mkdir()
    here, name = os.open(inside, os.O_RDONLY), "d" * 200
    for _ in range(25):
        os.mkdir(name, dir_fd=here)
        there = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    assert "File name too long" in refused(tmp_path)


def test_a_pipe_is_no_list(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    assert refused(tmp_path / "list.txt") == "is not a folder or a regular file"


def test_an_open_quote_in_a_list_is_refused(tmp_path):
    for text in ('path\n"a.png\nb.png\nc.png\n', 'path\n"a.png\nb.png\n"c.png\n'):
        (tmp_path / "list.csv").write_text(text)
        found = refused(tmp_path / "list.csv")
        assert found.startswith("line 2: ")
        assert "is a quote there that is not closed?" in found


@pytest.mark.parametrize("out", ["run", "runs/first", "cat/run"])
def test_a_run_inside_the_source_is_no_class(folder, out):
    path = folder("ant/a.png", "zebra/b.png", "cat/c.png")
    before = find(DataConfig(source=str(path)))
    folder(
        *(f"{out}/{name}" for name in ("run.json", "results/part.parquet", "_staging/x", "heartbeats/0.json", "report.html"))
    )
    after = find(DataConfig(source=str(path)))
    assert (after.items, after.targets) == (before.items, {"ant": 0, "cat": 1, "zebra": 2})


def test_a_run_in_the_source_itself(folder):
    path = folder("ant/a.png", "zebra/b.png")
    before = find(DataConfig(source=str(path)))
    folder("run.json", "results/part.parquet", "_staging/x", "heartbeats/0.json")
    assert find(DataConfig(source=str(path))) == before


def test_folders_without_targets_have_none(folder):
    path = folder("2024/1.png", "2025/2.png")
    assert find(DataConfig(source=str(path)), ["cat", "dog", "cow"]).targets == {}
