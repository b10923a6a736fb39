"""Readers and batches: what comes out for each image, and how images are put together."""

import numpy as np
import pytest
import torch
from PIL import Image

from gpulime.errors import GpulimeError
from gpulime.masks import key
from gpulime.runs.loader import DatasetReader, Read, batches, read_all
from gpulime.runs.sources import Item
from gpulime.segments import Slic


def item(i):
    return Item(f"image {i}", str(i).encode())


@pytest.mark.parametrize(
    ("example", "shape", "target"),
    [
        (torch.rand(3, 5, 4), (3, 5, 4), None),
        ((torch.rand(1, 5, 4), 7), (1, 5, 4), 7),
        ((torch.rand(1, 5, 4), torch.tensor(2)), (1, 5, 4), 2),
        ([Image.new("L", (4, 5)), "a caption"], (3, 5, 4), None),
    ],
)
def test_a_dataset_may_give_tensors_or_pictures_with_or_without_target(example, shape, target):
    read = DatasetReader([example])(item(0))
    assert (read.error, tuple(read.pixels.shape), read.item.target) == (None, shape, target)
    assert len(read.sha256) == 64


@pytest.mark.parametrize(
    ("example", "kind", "message"),
    [
        (np.zeros((5, 4, 3)), "decode", "got ndarray"),
        (torch.rand(5, 4), "decode", r"got \(5, 4\)"),
        (torch.full((3, 2, 2), torch.nan), "non_finite", "12 of its 12 values"),
    ],
)
def test_what_is_no_image_says_what_it_is(example, kind, message):
    read = DatasetReader([example])(item(0))
    assert read.pixels is None
    assert read.kind == kind
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(read.error)


def test_images_of_one_shape_go_together_in_order():
    shapes = [(3, 4, 4), (3, 4, 4), (3, 4, 5), None, (3, 4, 5), (3, 4, 4)]
    reads = [Read(item(i), None if shape is None else torch.rand(shape)) for i, shape in enumerate(shapes)]
    found = list(batches(reads, "top"))
    assert [[read.item.image_id for read in part] for part, _ in found] == [
        ["image 0", "image 1"],
        ["image 2"],
        ["image 4"],
        ["image 5"],
    ]
    assert found[0][1].keys.tolist() == [key("image 0"), key("image 1")]
    assert all(batch.top and batch.labels is None for _, batch in found)


@pytest.mark.parametrize(("labels", "wanted", "top"), [("top", None, True), ("target", [4], False), ("top+target", [4], True)])
def test_which_labels_are_asked_for(labels, wanted, top):
    [(_, batch)] = batches([Read(Item("a", b"", 4), torch.rand(1, 2, 2))], labels)
    assert (batch.labels if batch.labels is None else batch.labels.tolist(), batch.top) == (wanted, top)


def test_no_target_means_none_more_with_top_and_an_error_without():
    reads = [Read(Item("a", b""), torch.rand(1, 2, 2))]
    [(_, batch)] = batches(reads, "top+target")
    assert batch.labels.tolist() == [-1]
    with pytest.raises(GpulimeError, match="'a' has none"):
        list(batches(reads, "target"))


def test_workers_segment_what_they_read():
    pixels = torch.randint(0, 255, (3, 20, 24), dtype=torch.uint8)
    slic = Slic(n_segments=6)
    [[here]] = read_all([item(0)], DatasetReader([pixels]), slic, 4, workers=1)
    expected = slic(pixels.permute(1, 2, 0).numpy().astype(np.float32) / 255)
    np.testing.assert_array_equal(here.segments, expected)
    [[there]] = read_all([item(0)], DatasetReader([pixels]), slic, 4, workers=0)
    assert there.segments is None
