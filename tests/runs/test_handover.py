"""What reading processes hand over comes out as it went in, in few pieces."""

import pickle

import pytest
import torch

from gpulime.runs.handover import SMALL_BYTES, apart
from gpulime.runs.loader import DatasetReader, Read
from gpulime.runs.sources import Item
from gpulime.runs.workers import read_all
from gpulime.segments import CPU, Grid

WIDE = SMALL_BYTES // 4


def read(i, pixels=None, **error):
    return Read(Item(str(i), b""), pixels, "00", None, **error)


def images(*shapes, dtype=torch.float32):
    return [(torch.arange(torch.Size(shape).numel()) % 200 + i).to(dtype).view(shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    ("given", "pieces"),
    [
        ([], 0),
        (images((3, 4, 5), (3, 4, 5), (3, 4, 5)), 1),
        (images((3, 4, 5), (3, 5, 4), (3, 5, 4), (3, 4, 5)), 3),
        (images((3, 4, 5)) + images((3, 4, 5), dtype=torch.uint8), 2),
        ([None, *images((1, 2, 2), (1, 2, 2)), None, *images((1, 2, 2)), None], 1),
        ([None, None], 0),
        (images((1, 1, WIDE), (1, 1, WIDE)), 1),
        (images((1, 1, WIDE + 1), (1, 1, WIDE + 1), (1, 1, 1)), 3),
        ([image.permute(2, 0, 1) for image in images((4, 5, 3), (4, 5, 3))], 1),
    ],
    ids=["none", "alike", "shapes", "dtypes", "errors between", "errors", "small", "large", "channels last"],
)
def test_reads_come_out_as_they_went_in(given, pieces):
    reads = [read(i, one) if one is not None else read(i, error="is empty", kind="decode") for i, one in enumerate(given)]
    handed = pickle.loads(pickle.dumps(apart(reads)))
    assert len(handed.pieces) == pieces
    out = handed.together()
    assert [(one.item, one.error, one.kind, one.sha256) for one in out] == [(r.item, r.error, r.kind, r.sha256) for r in reads]
    for one, before in zip(out, given, strict=True):
        assert (one.pixels is None) == (before is None)
        assert before is None or (one.pixels.dtype == before.dtype and one.pixels.equal(before))


def test_a_large_image_is_not_copied():
    [image] = images((1, 1, WIDE + 1))
    assert apart([read(0, image)]).pieces[0].data_ptr() == image.data_ptr()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_small_images_crosses_in_one_piece(workers):
    pictures = images(*[(3, 12, 12)] * 5)
    items = [Item(str(i), str(i).encode()) for i in range(5)]
    batches = list(read_all(items, DatasetReader(pictures), Grid(), CPU, 3, workers))
    sizes = [[one.pixels.untyped_storage().nbytes() // pictures[0].nbytes for one in batch] for batch in batches]
    assert sizes == [[3, 3, 3], [2, 2]]
    assert all(one.pixels.equal(before) for one, before in zip([*batches[0], *batches[1]], pictures, strict=True))
