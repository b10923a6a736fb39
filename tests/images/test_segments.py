"""Segments: ids without gaps that lead back to the ids of any segmenter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from skimage import segmentation

from gpulime import Explainer, segments
from gpulime.errors import GpulimeError
from gpulime.images.segments import describe, from_labels, segment
from gpulime.segments import Felzenszwalb, Grid, Quickshift, Slic, resolve

SEGMENTERS = [Slic(n_segments=12), Quickshift(kernel_size=1, max_dist=3, ratio=1), Felzenszwalb(), Grid(3, 4)]


def check(found, n, h, w):
    """Ids run from 0 without gaps in every image."""
    assert (found.labels.shape, found.labels.dtype) == ((n, h, w), torch.int32)
    assert found.ids.shape == (n, found.counts.max())
    for labels, count, ids in zip(found.labels, found.counts.tolist(), found.ids, strict=True):
        assert labels.unique().tolist() == list(range(count))
        assert ids[:count].unique().tolist() == ids[:count].tolist()
        assert (ids[count:] == -1).all()


@pytest.mark.filterwarnings("ignore:Got image with third dimension of 5")  # felzenszwalb doubts that it is one image
@pytest.mark.parametrize("c", [1, 3, 5])
@pytest.mark.parametrize("segmenter", SEGMENTERS, ids=lambda s: type(s).__name__)
def test_each_image_is_segmented_by_itself(segmenter, c, pictures):
    images = pictures(3, c)
    found = segment(segmenter, images)
    check(found, 3, 24, 20)
    assert (found.counts > 3).all()
    order = [2, 0, 1]
    again = segment(segmenter, images[order])
    assert torch.equal(again.labels, found.labels[order])
    alone = segment(segmenter, images[1:2])
    assert torch.equal(alone.labels, found.labels[1:2])
    assert torch.equal(alone.ids, found.ids[1:2, : found.counts[1]])


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 8), (63, 65)])
@pytest.mark.parametrize("segmenter", SEGMENTERS, ids=lambda s: type(s).__name__)
def test_images_of_awkward_sizes(segmenter, h, w, pictures):
    check(segment(segmenter, pictures(2, 3, h, w)), 2, h, w)


@pytest.mark.parametrize(
    ("name", "function", "options", "defaults"),
    [
        ("slic", segmentation.slic, {"n_segments": 15, "compactness": 5.0}, {"start_label": 0}),
        ("quickshift", segmentation.quickshift, {"max_dist": 5.0}, {"ratio": 0.2, "kernel_size": 4, "rng": 42}),
        ("felzenszwalb", segmentation.felzenszwalb, {"scale": 5.0}, {}),
    ],
)
def test_is_what_scikit_image_gives(name, function, options, defaults, pictures):
    images = pictures(2)
    found = segment(resolve({name: options}), images)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        expected = torch.from_numpy(function(image, **options, **defaults))
        assert torch.equal(found.ids[i][found.labels[i].long()], expected)


@pytest.mark.parametrize(("name", "kind"), segments.SEGMENTERS.items())
def test_names_options_and_dataclasses_mean_the_same(name, kind):
    assert resolve(name) == resolve({name: None}) == resolve({name: {}}) == resolve(kind()) == kind()
    for field in dataclasses.fields(kind):
        value = not field.default if isinstance(field.default, bool) else field.default + 1
        assert resolve({name: {field.name: value}}) == kind(**{field.name: value})


@pytest.mark.parametrize(("h", "w", "count"), [(24, 20, 12), (3, 4, 12), (2, 20, 8), (1, 1, 1)])
def test_grid_rectangles_run_row_by_row(h, w, count, device):
    found = segment(Grid(rows=3, columns=4), torch.rand(2, 3, h, w, device=device))
    check(found, 2, h, w)
    assert found.labels.device.type == device.type
    assert found.counts.tolist() == [count, count]
    counted = from_labels(found.labels)
    assert torch.equal(found.ids, counted.ids)
    assert torch.equal(found.labels, counted.labels)
    assert found.counts.dtype == counted.counts.dtype == found.ids.dtype
    assert torch.equal(found.labels[0], found.labels[0].sort(1).values)
    assert torch.equal(found.labels[0, :, 0], found.labels[0, :, 0].sort().values)
    sizes = found.labels[0].flatten().bincount()
    assert sizes.max() <= -(-h // min(h, 3)) * -(-w // min(w, 4))


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([0, 1, 2], torch.uint8),
        ([1, 2, 3], torch.int16),
        ([9, 9, 9], torch.int32),
        ([0, 98, 3], torch.int32),
        ([0, 99, 3], torch.int32),
        ([-1, 0, 1], torch.int32),
        ([-7, 0, 40_000], torch.int32),
        ([-(2**62), 5, 2**62], torch.int64),
    ],
)
def test_any_ids_are_renumbered_and_lead_back(ids, dtype, device):
    labels = torch.tensor(ids, dtype=dtype)[torch.randint(0, 3, (4, 9, 11))].to(device)
    labels[0] = ids[0]  # an image with one segment beside others with more
    found = from_labels(labels)
    check(found, 4, 9, 11)
    back = found.ids.gather(1, found.labels.flatten(1).long()).view(labels.shape)
    assert torch.equal(back, labels.long())


def test_the_host_reads_once_how_many_segments_there_are(unread, device):
    """`unread` ignores a list of numbers; any other read would count."""
    labels = torch.randint(0, 300, (4, 19, 21), dtype=torch.int32, device=device)
    with unread:
        found = from_labels(labels)
    check(found, 4, 19, 21)


def test_callables_see_rgb_and_keep_their_ids(pictures):
    shapes = []

    def halves(image):
        shapes.append((image.shape, image.dtype, image.min() >= 0, image.max() <= 1))
        return np.where(np.arange(20) < 10, 7, 3) * np.ones((24, 1), dtype=int)

    for c, seen in [(1, 3), (3, 3), (5, 5)]:
        found = segment(halves, pictures(2, c))
        assert shapes == [((24, 20, seen), np.float32, True, True)] * 2
        assert found.ids.tolist() == [[3, 7]] * 2
        assert (found.labels[:, :, :10] == 1).all()
        shapes.clear()


@pytest.mark.filterwarnings("ignore")
def test_limes_segmenters_are_callables_too(pictures):
    wrappers = pytest.importorskip("lime.wrappers.scikit_image")
    check(segment(wrappers.SegmentationAlgorithm("slic", n_segments=8), pictures(2)), 2, 24, 20)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda image: image, r"image 0: segments .*lambda.*: must return \(h, w\) = \(24, 20\) labels; got \(24, 20, 3\)"),
        (lambda image: image[..., 0], "must return integer labels; got float32"),
        (lambda image: None, r"must return \(h, w\) = \(24, 20\) labels; got \(\)"),
    ],
)
def test_what_a_callable_must_return(result, message, pictures):
    with pytest.raises(GpulimeError, match=message):
        segment(result, pictures(1))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, 3, 4), "segments must be integer labels; got torch.float32"),
        (torch.zeros(2, 3, 4, dtype=torch.bool), "segments must be integer labels; got torch.bool"),
        (torch.zeros(3, 4, dtype=torch.int32), r"segments must be \(n, h, w\); got \(3, 4\)"),
        (torch.zeros(0, 3, 4, dtype=torch.int32), r"got \(0, 3, 4\)"),
    ],
)
def test_label_maps_that_are_none(labels, message):
    with pytest.raises(GpulimeError, match=message):
        from_labels(labels)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("slick", r"must be one of 'slic', .*'grid'; got 'slick' \(did you mean 'slic'\?\)"),
        (
            {"slic": {"n_segment": 5}},
            r"'slic' has no option 'n_segment' \(did you mean 'n_segments'\?\); it has n_segments, comp",
        ),
        ({"slic": {}, "grid": {}}, r"segments must name one segmenter, .*; got \['slic', 'grid'\]"),
        ({"slic": {"n_segments": 0}}, "n_segments must be at least 1; got 0"),
        ({"slic": {"n_segments": "many"}}, "n_segments must be .* got .?many"),
        ({"slic": 60}, "segments 'slic' .*; got 60"),
        (Grid(rows=0), "rows must be at least 1; got 0"),
        (Grid(columns=-1), "columns must be at least 1; got -1"),
        (5, "segments must be a name, options or a callable; got 5"),
    ],
)
def test_bad_settings_are_named(spec, message):
    with pytest.raises(GpulimeError, match=message):
        resolve(spec)


def test_descriptions_tell_segmenters_apart():
    lines = [describe(s) for s in [Slic(), Slic(n_segments=60), Quickshift(), Felzenszwalb(), Grid(), from_labels]]
    assert len(set(lines)) == len(lines)
    assert "slic(n_segments=60, compactness=10.0" in lines[1]
    assert all("scikit-image 0." in line for line in lines[:4])
    assert lines[-1] == "from_labels"


def test_a_failing_callable_is_named_by_the_number_of_the_image_in_the_whole_batch():
    images = torch.rand(70, 3, 8, 8)
    images[67] = 0

    def fails(image):
        if image.max() == 0:
            raise RuntimeError("nothing to see")
        return np.zeros((8, 8), int)

    with pytest.raises(GpulimeError, match=r"image 67: .*RuntimeError: nothing to see"):
        Explainer(lambda x: x.mean((2, 3)), 5, segments=fails).explain(images)
