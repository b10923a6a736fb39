"""Data of reading processes arrives unchanged, in few pieces."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpulime.errors import GpulimeError
from gpulime.runs.reading.pack import SMALL_BYTES, apart
from gpulime.runs.reading.read import DatasetReader, Read
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.workers import read_all
from gpulime.segments import CPU, Grid

WIDE = SMALL_BYTES // 4


def read(i, pixels=None, segments=None, **error):
    return Read(Item(str(i), b""), pixels, "00", segments, **error)


def images(*shapes, dtype=torch.float32):
    return [(torch.arange(torch.Size(shape).numel()) % 200 + i).to(dtype).view(shape) for i, shape in enumerate(shapes)]


def crossed(handed):
    return pickle.loads(pickle.dumps(handed))


@pytest.mark.parametrize(
    ("given", "pieces"),
    [
        ([], 0),
        (images((3, 4, 5), (3, 4, 5), (3, 4, 5)), 1),
        (images((3, 4, 5), (3, 5, 4), (3, 5, 4), (3, 4, 5)), 3),
        (images((3, 4, 5)) + images((3, 4, 5), dtype=torch.uint8), 2),
        ([None, *images((1, 2, 2), (1, 2, 2)), None, *images((1, 2, 2)), None], 1),
        ([None, None], 0),
        (images(*[(1, 1, WIDE // 3)] * 7), 3),
        (images((1, 1, WIDE), (1, 1, WIDE)), 2),
        (images((1, 1, WIDE + 1), (1, 1, WIDE + 1), (1, 1, 1)), 3),
        ([image.permute(2, 0, 1) for image in images((4, 5, 3), (4, 5, 3))], 1),
    ],
    ids=["none", "alike", "shapes", "dtypes", "errors between", "errors", "many", "of the most", "large", "channels last"],
)
def test_reads_come_out_as_they_went_in(given, pieces):
    reads = [read(i, one) if one is not None else read(i, error="is empty", kind="decode") for i, one in enumerate(given)]
    handed = crossed(apart(reads))
    assert len(handed.pixels.pieces) == pieces
    out = handed.together()
    assert [(one.item, one.error, one.kind, one.sha256) for one in out] == [(r.item, r.error, r.kind, r.sha256) for r in reads]
    for one, before in zip(out, given, strict=True):
        assert (one.pixels is None) == (before is None)
        assert before is None or (one.pixels.dtype == before.dtype and one.pixels.equal(before))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, torch.uint8),
        (-1, 255, torch.int16),
        (0, 256, torch.int16),
        (0, 2**15, torch.int32),
        (-(2**31), 7, torch.int32),
        (0, 2**31, torch.int64),
    ],
)
def test_label_maps_cross_in_the_smallest_type_that_holds_them(low, high, dtype):
    maps = [np.array([[low, i, high]]) for i in range(5)]
    handed = crossed(apart([read(i, torch.ones(3, 1, 3), labels) for i, labels in enumerate(maps)]))
    assert [(piece.dtype, len(piece)) for piece in handed.maps.pieces] == [(dtype, 5)]
    assert not any(one.segments is not None or one.pixels is not None for one in handed.reads)  # what the message holds
    for one, labels in zip(handed.together(), maps, strict=True):
        assert one.segments.dtype == np.int64
        np.testing.assert_array_equal(one.segments, labels)


def test_reads_with_and_without_label_maps_keep_their_own():
    reads = [read(0, torch.ones(1, 1, 2)), read(1, torch.ones(1, 1, 2), np.array([[3, 4]])), read(2, error="x", kind="decode")]
    assert [one.segments is None for one in crossed(apart(reads)).together()] == [True, False, True]


def test_a_large_image_is_not_copied():
    [image] = images((1, 1, WIDE + 1))
    assert apart([read(0, image)]).pixels.pieces[0].data_ptr() == image.data_ptr()


def test_a_part_of_something_larger_goes_without_the_rest():
    whole = torch.rand(4, 1, 1, WIDE + 1)
    [piece] = apart([read(0, whole[2])]).pixels.pieces
    assert piece.untyped_storage().nbytes() == piece.nbytes == whole[2].nbytes
    assert piece[0].equal(whole[2])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=str)
def test_where_there_is_no_memory_for_a_piece_images_go_one_by_one(error, monkeypatch):
    def no_memory(tensors):
        raise error

    given = images((3, 4, 5), (3, 4, 5), (3, 4, 5))
    monkeypatch.setattr("torch.stack", no_memory)
    handed = apart([read(i, one) for i, one in enumerate(given)])
    assert len(handed.pixels.pieces) == 3
    assert all(one.pixels.equal(before) for one, before in zip(handed.together(), given, strict=True))


def test_other_errors_are_raised(monkeypatch):
    def broken(tensors):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr("torch.stack", broken)
    with pytest.raises(RuntimeError, match="illegal instruction"):
        apart([read(i, one) for i, one in enumerate(images((3, 4, 5), (3, 4, 5)))])


def test_pixels_beside_an_error_are_nobody_elses():
    given = images((1, 2, 2), (1, 2, 2), (1, 2, 2))
    handed = apart([read(0, given[0], error="odd", kind="decode"), read(1, given[1]), read(2, given[2])])
    assert all(one.pixels.equal(before) for one, before in zip(handed.together(), given, strict=True))


@pytest.mark.parametrize(("pieces", "count"), [(lambda given: given[:-1], 3), (lambda given: [*given, given[0]], 9)])
def test_pieces_that_lack_or_exceed_what_was_packed_are_an_error(pieces, count):
    handed = apart([read(i, one) for i, one in enumerate(images(*[(3, 4, 5)] * 3, *[(3, 5, 4)] * 3))])
    handed = replace(handed, pixels=replace(handed.pixels, pieces=pieces(handed.pixels.pieces)))
    with pytest.raises(GpulimeError, match=f"must hold 6 tensors, as many as were packed; got {count}"):
        handed.together()


def test_a_batch_of_small_images_crosses_in_one_piece():
    pictures = images(*[(3, 12, 12)] * 5)
    items = [Item(str(i), str(i).encode()) for i in range(5)]
    batches = list(read_all(items, DatasetReader(pictures), Grid(), CPU, 3, 1))
    sizes = [[one.pixels.untyped_storage().nbytes() // pictures[0].nbytes for one in batch] for batch in batches]
    assert sizes == [[3, 3, 3], [2, 2]]
    assert all(one.pixels.equal(before) for one, before in zip([*batches[0], *batches[1]], pictures, strict=True))


def test_no_piece_of_several_images_is_larger_than_a_megabyte():
    def halves(array):
        return (np.arange(array.shape[1]) < 100) + np.zeros(array.shape[:2], int)

    pictures = images(*[(3, 224, 224)] * 16, dtype=torch.uint8)
    items = [Item(str(i), str(i).encode()) for i in range(16)]
    [batch] = read_all(items, DatasetReader(pictures), halves, CPU, 16, 1)
    sizes = [one.pixels.untyped_storage().nbytes() / pictures[0].nbytes for one in batch]
    assert sizes == [6] * 12 + [4] * 4
    assert 6 * pictures[0].nbytes <= SMALL_BYTES
    assert all(one.pixels.equal(before) for one, before in zip(batch, pictures, strict=True))
    assert all((one.segments.dtype, one.segments.sum()) == (np.int64, 100 * 224) for one in batch)
