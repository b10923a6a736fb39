"""Readers and batches: the result for each image, and the grouping of images."""

import hashlib
import warnings
from collections import UserDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from gpulime.config import DataConfig
from gpulime.engine.masks import key
from gpulime.runs.reading.batches import Checks, batches
from gpulime.runs.reading.read import DatasetReader, FileReader, Read
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.transform import Transform
from gpulime.runs.reading.workers import read_all
from gpulime.segments import CPU, Slic


class Buffered:
    """Fills one buffer, and returns it each time."""

    def __init__(self, n):
        self.n, self.buffer = n, torch.empty(3, 8, 8)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.buffer.fill_(i / 10)


class Sample(NamedTuple):
    label: int
    image: torch.Tensor


class Pair(NamedTuple):
    photo: torch.Tensor
    kind: int


class Photograph(torch.Tensor):
    pass


def quietly(make):
    """Warnings of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def item(i):
    return Item(f"image {i}", str(i).encode())


@pytest.mark.parametrize(
    ("example", "shape", "target"),
    [
        (torch.rand(3, 5, 4), (3, 5, 4), None),
        ((torch.rand(1, 5, 4), 7), (1, 5, 4), 7),
        ((torch.rand(1, 5, 4), torch.tensor(2)), (1, 5, 4), 2),
        ((torch.rand(1, 5, 4, dtype=torch.bfloat16), np.int64(3)), (1, 5, 4), 3),
        ((torch.rand(1, 5, 4, requires_grad=True), np.array([4])), (1, 5, 4), 4),
        ([Image.new("L", (4, 5)), "a caption"], (1, 5, 4), "a caption"),
        ((3, torch.rand(1, 5, 4), 7), (1, 5, 4), 7),
        ((torch.rand(1, 5, 4), {"patient": 5}, 7), (1, 5, 4), 7),
        ((torch.rand(1, 5, 4), "cat.png", 7), (1, 5, 4), 7),
        ((torch.rand(1, 5, 4), None, torch.tensor([0.0, 1.0, 1.0])), (1, 5, 4), [0.0, 1.0, 1.0]),
        ((torch.rand(1, 5, 4), 7, {"patient": 5}), (1, 5, 4), 7),
        ({"image": Image.new("RGB", (4, 5)), "label": 7}, (3, 5, 4), 7),
        ({"pixel_values": torch.rand(3, 5, 4), "labels": torch.tensor(7)}, (3, 5, 4), 7),
        ({"pixel_values": torch.rand(3, 5, 4).tolist(), "labels": [7, 2]}, (3, 5, 4), [7, 2]),
        (UserDict({"img": Image.new("RGB", (4, 5)), "fine_label": 7}), (3, 5, 4), 7),
        (Sample(7, torch.rand(1, 5, 4)), (1, 5, 4), 7),
        (Pair(torch.rand(1, 5, 4), 7), (1, 5, 4), 7),
        ((np.zeros((5, 4, 3), np.uint8), 7), (3, 5, 4), 7),
        ((np.zeros((5, 4), ">u2"), 7), (1, 5, 4), 7),
        (np.zeros((5, 4, 3))[:, ::-1], (3, 5, 4), None),
        (Image.new("P", (4, 5)), (3, 5, 4), None),
        ((torch.rand(1, 5, 4), [[1, 2], [3]]), (1, 5, 4), None),
        ((torch.rand(1, 5, 4), {"boxes": []}), (1, 5, 4), None),
        ((torch.rand(1, 5, 4), torch.tensor(2, dtype=torch.bfloat16)), (1, 5, 4), 2),
        (torch.rand(1, 5, 4).expand(3, 5, 4), (3, 5, 4), None),
    ],
)
def test_a_dataset_may_give_tensors_or_pictures_with_or_without_target(example, shape, target):
    read = DatasetReader([example])(item(0))
    assert (read.error, tuple(read.pixels.shape), read.target) == (None, shape, target)
    assert len(read.sha256) == 64


@pytest.mark.parametrize(
    ("example", "kind", "message"),
    [
        (np.zeros((3, 15, 14)), "decode", r"must be \(h, w, c\) or \(h, w\); got \(3, 15, 14\): is that \(c, h, w\)\?"),
        (torch.rand(1, 3, 5, 4), "decode", r"got \(1, 3, 5, 4\)"),
        ("cat.png", "decode", r"a tensor \(c, h, w\), a PIL image or an array \(h, w, c\); got str"),
        (("cat.png", 3), "decode", r"\(image, target\), or a mapping with .*; got tuple of \(str, int\)\. \[\(one\[0\]"),
        ({"photo": 1, "label": 2}, "decode", "one of image, pixel_values, img, x; got dict with 'photo', 'label'"),
        ({"image": 1, "age class": 2, "label_2": 3}, "decode", "must have one label; got 'age class', 'label_2': choose with"),
        ((3, torch.rand(3, 5, 4)), "decode", r"got tuple of \(int, Tensor \(3, 5, 4\)\): .* its index or its target\?"),
        (torch.rand(5, 4), "decode", r"got \(5, 4\)"),
        (torch.zeros(3, 5, 4).long(), "decode", "uint8, float16, bfloat16, float32 or float64; got torch.int64"),
        (torch.full((3, 2, 2), torch.nan), "non_finite", "12 of its 12 values"),
        ((), "decode", r"got tuple of \(\)"),
        (quietly(torch.rand(3, 5, 4).to_sparse), "decode", "a dense tensor that holds its values; got torch.sparse_coo on cpu"),
        (torch.rand(3, 5, 4, device="meta"), "decode", "a dense tensor that holds its values; got torch.strided on meta"),
        (torch.rand(3, 5, 4).to(torch.float8_e4m3fn), "decode", "float32 or float64; got torch.float8_e4m3fn"),
        (torch.rand(3, 5, 4, dtype=torch.complex64), "decode", "float32 or float64; got torch.complex64"),
        (
            quietly(lambda: torch.quantize_per_tensor(torch.rand(3, 5, 4), 0.1, 0, torch.quint8)),
            "decode",
            "float32 or float64; got torch.quint8",
        ),
    ],
)
def test_what_is_no_image_says_what_it_is(example, kind, message):
    read = DatasetReader([example])(item(0))
    assert read.pixels is None
    assert read.kind == kind
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(read.error)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tensor_of_an_odd_kind_costs_only_itself(workers):
    odd = [
        quietly(torch.rand(3, 8, 8).to_sparse),
        torch.empty(3, 8, 8, device="meta"),
        torch.rand(3, 8, 8).to(torch.float8_e5m2),
    ]
    sound = torch.rand(3, 8, 8)
    dataset = [sound, *odd, sound]
    [batch] = read_all([item(i) for i in range(5)], DatasetReader(dataset), Slic(), CPU, 5, workers)
    assert [read.kind for read in batch] == [None, "decode", "decode", "decode", None]
    assert batch[0].pixels.equal(sound)
    assert batch[4].pixels.equal(sound)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_tensor_of_a_class_of_its_own_is_read_as_a_plain_one(workers):
    dataset = [torch.rand(3, 8, 8).as_subclass(Photograph), torch.rand(3, 8, 8)]
    [batch] = read_all([item(i) for i in range(2)], DatasetReader(dataset), Slic(), CPU, 2, workers)
    assert [type(read.pixels) for read in batch] == [torch.Tensor, torch.Tensor]
    assert [read.pixels.tolist() for read in batch] == [image.tolist() for image in dataset]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_returns_one_buffer_each_time_gets_its_own_pixels(workers):
    [batch] = read_all([item(i) for i in range(4)], DatasetReader(Buffered(4)), Slic(), CPU, 4, workers)
    for i, read in enumerate(batch):
        assert torch.equal(read.pixels, torch.full((3, 8, 8), i / 10))
        assert read.sha256 == hashlib.sha256(read.pixels.numpy().tobytes()).hexdigest()


def test_images_of_one_shape_go_together_in_order():
    shapes = [(3, 4, 4), (3, 4, 4), (3, 4, 5), None, (3, 4, 5), (3, 4, 4)]
    reads = [Read(item(i), None if shape is None else torch.rand(shape)) for i, shape in enumerate(shapes)]
    found = list(batches(reads, "top", True))
    assert [[read.item.image_id for read in part] for part, _ in found] == [
        ["image 0", "image 1"],
        ["image 2"],
        ["image 3"],
        ["image 4"],
        ["image 5"],
    ]
    assert found[0][1].keys.tolist() == [key("image 0"), key("image 1")]
    assert [batch is None for _, batch in found] == [False, False, True, False, False]
    assert all(batch.top and batch.labels is None for _, batch in found if batch)


@pytest.mark.parametrize(
    ("labels", "wanted", "top"),
    [
        ("top", None, True),
        ("target", [[4, -1], [2, 3]], False),
        ("top+target", [[4, -1], [2, 3]], True),
        ([1, 0], [[1, 0]] * 2, False),
    ],
)
def test_which_labels_are_asked_for(labels, wanted, top):
    [(_, batch)] = batches(
        [Read(item(i), torch.rand(1, 2, 2), classes=some) for i, some in enumerate(([4], [2, 3]))], labels, True
    )
    assert (batch.labels if batch.labels is None else batch.labels.tolist(), batch.top) == (wanted, top)


def test_no_target_means_none_more():
    [(_, batch)] = batches([Read(Item("a", b""), torch.rand(1, 2, 2))], "top+target", True)
    assert batch.labels.tolist() == [[-1]]


@pytest.mark.parametrize(("in_unit", "dtype", "most"), [(True, torch.float32, 1), (False, torch.uint8, 255)])
def test_bytes_become_unit_floats_only_where_a_fill_counts_in_those(in_unit, dtype, most):
    [(_, batch)] = batches([Read(Item("a", b""), torch.full((1, 2, 2), 255, dtype=torch.uint8))], "top", in_unit)
    assert (batch.images.dtype, batch.images.max()) == (dtype, most)


def test_a_thin_picture_that_resizing_would_blow_up_is_refused(tmp_path):
    Image.new("RGB", (4000, 1)).save(tmp_path / "thin.png")
    data = DataConfig(max_megapixels=1.0)
    read = FileReader(data, Transform(resize=256, crop=224))(Item("thin.png", bytes(tmp_path / "thin.png")))
    assert (read.pixels, read.kind) == (None, "too_large")
    assert "262 megapixels" in read.error
    assert FileReader(data, Transform(crop=224))(Item("thin.png", bytes(tmp_path / "thin.png"))).error is None


def test_reading_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    list(read_all([item(0)], DatasetReader([torch.rand(3, 4, 4)]), Slic(), CPU, 4, workers=0))
    expected = torch.random.get_rng_state()
    torch.random.set_rng_state(before)
    torch.rand(3, 4, 4)
    assert torch.equal(torch.random.get_rng_state(), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_segmented_as_they_are_read(workers):
    pixels = torch.randint(0, 255, (3, 20, 24), dtype=torch.uint8)
    slic = Slic(n_segments=6)
    [[here]] = read_all([item(0)], DatasetReader([pixels]), slic, CPU, 4, workers=workers)
    expected = slic(pixels.permute(1, 2, 0).numpy().astype(np.float32) / 255)
    np.testing.assert_array_equal(here.segments, expected)
    [[there]] = read_all([item(0)], DatasetReader([pixels / 255]), slic, CPU, 4, workers=workers)
    assert there.segments is None  # it may be normalised, which the explainer knows


def test_hints_are_said_once_with_how_many_and_which_first(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(4):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{i}.jpg", **({"exif": exif} if i % 2 else {}))
    checks = Checks(proven=True)

    def read(transform, **settings):
        reader = FileReader(DataConfig(**settings), transform)
        return [reader(Item(f"{i}.jpg", bytes(tmp_path / f"{i}.jpg"))) for i in range(4)]

    checks.look(read(Transform(resize=20, crop=15)))
    shown = capsys.readouterr().err
    assert shown.startswith("2 of 4 images read together, the first '1.jpg', have a camera's rotation tag, which is ignored")
    assert "data.exif: apply" in shown
    checks.look(read(Transform(crop=14)))
    shown = capsys.readouterr().err
    assert shown.startswith("4 of 4 images read together, the first '0.jpg', have less than a quarter of the picture left")
    assert "rotation" not in shown
    checks.look(read(Transform(crop=14)))
    Checks(proven=True).look(read(Transform(crop=15), exif="apply"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("size", "transform", "kept"),
    [
        ((40, 20), Transform(), 1),
        ((40, 20), Transform(resize=10), 1),
        ((40, 20), Transform(crop=20), 0.5),
        ((40, 20), Transform(10, 10), 0.5),
        ((40, 20), Transform(12, 10), 25 / 72),
        ((4, 4), Transform(crop=8), 1),
    ],
)
def test_how_much_of_a_picture_the_crop_keeps(size, transform, kept):
    assert transform.kept(size) == pytest.approx(kept)


def test_whatever_goes_wrong_with_a_file_is_its_own_error(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 0, 3), np.uint8))

    np.save(tmp_path / "b.npy", np.zeros((4, 4, 3), np.uint8))
    read = FileReader(DataConfig(), Transform(resize=8))(Item("a", bytes(tmp_path / "a.npy")))
    assert (read.pixels, read.kind) == (None, "decode")
    reader = FileReader(DataConfig(), type("Broken", (Transform,), {"__call__": lambda self, picture: 1 / 0})())
    assert reader(Item("b", bytes(tmp_path / "b.npy"))).error == "ZeroDivisionError: division by zero"
