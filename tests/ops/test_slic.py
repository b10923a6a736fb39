"""slic: the reference gives scikit-image's ids, the kernel the reference's."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import torch
from skimage import data, segmentation
from skimage.color import rgb2lab as scikit_rgb2lab
from skimage.util import regular_grid

from gpulime import device as devices
from gpulime import segments
from gpulime.errors import GpulimeError
from gpulime.images.segments import describe, segment
from gpulime.ops import slic as module
from gpulime.ops import source
from gpulime.ops.quickshift import quickshift
from gpulime.ops.slic import slic, slic_reference
from gpulime.runs.reading.read import DatasetReader
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.workers import read_all
from gpulime.segments import Slic

# kind, c
IMAGES = [("noise", 3), ("noise", 5), ("blocks", 1), ("blocks", 5)]
# h, w
SIZES = [(1, 1), (1, 50), (50, 1)]
OPTIONS = [
    {"n_segments": 1, "max_num_iter": 2},
    {"n_segments": 2, "compactness": 0.3, "max_num_iter": 3},
    {"n_segments": 31, "max_num_iter": 1, "min_size_factor": 2.0, "max_size_factor": 1.5},
    {"n_segments": 31, "max_num_iter": 0},
    {"n_segments": 40, "compactness": 1e-4, "enforce_connectivity": False},
    {"n_segments": 50, "compactness": 0.1, "min_size_factor": 0.9, "max_size_factor": 1.2, "sigma": 0.7},
    {"n_segments": 257, "compactness": 1.0, "min_size_factor": 0.2, "max_size_factor": 1.0},
    {"n_segments": 12, "max_size_factor": 5.0, "sigma": 30.0},
]


def image(kind, h=63, w=65, c=3):
    """(1, c, h, w) in [0, 1]: slopes with noise, which leaves parts of all sizes, blocks of flat colours, or one colour."""
    random = torch.Generator().manual_seed(h + w + c)
    if kind == "blocks":
        colours = torch.rand(1, c, -(-h // 9), -(-w // 9), generator=random)
        return colours.repeat_interleave(9, 2).repeat_interleave(9, 3)[:, :, :h, :w].contiguous()
    if kind == "one colour":
        return torch.full((1, c, h, w), 0.3)
    down, across = (
        torch.rand(1, c, *size, generator=random).cumsum(i).div(max(h, w)) for i, size in ((2, (h, 1)), (3, (1, w)))
    )
    return 0.6 * (down + across) + 0.1 * torch.rand(1, c, h, w, generator=random)


def photograph(name, size=None):
    """(1, 3, h, w), a part of one of scikit-image's."""
    pixels = torch.from_numpy(getattr(data, name)()[: size or None, : size or None].copy())
    return pixels.permute(2, 0, 1)[None].float() / pixels.new_full((), 255, dtype=torch.float32)


def scikit(images, **options):
    """Labels of scikit-image with the options of `segments.Slic`."""
    arrays = images.permute(0, 2, 3, 1).numpy()
    arrays = arrays.repeat(3, axis=3) if arrays.shape[3] == 1 else arrays
    return torch.from_numpy(np.stack([Slic(**options)(array) for array in arrays])).int()


@pytest.fixture
def scikit_lab(monkeypatch):
    """Use scikit-image's own Lab, whose last bits depend on the processor; later steps must then be equal to the bit."""

    def rgb2lab(images):
        return torch.from_numpy(scikit_rgb2lab(images.permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2)

    monkeypatch.setattr(module, "rgb2lab_reference", rgb2lab)
    monkeypatch.setattr(module, "rgb2lab", rgb2lab)


@pytest.fixture
def replaced(monkeypatch, tmp_path):
    """Replace pieces of the kernels' source."""

    def put(*pieces):
        shutil.copytree(source.folder(), tmp_path, dirs_exist_ok=True)
        text = (tmp_path / "slic.cu").read_text()
        for right, wrong in pieces:
            assert right in text
            text = text.replace(right, wrong)
        (tmp_path / "slic.cu").write_text(text)
        monkeypatch.setattr(source, "folder", lambda: tmp_path)

    return put


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "c"), IMAGES)
def test_the_reference_is_scikit_image(kind, c, options, scikit_lab):
    images = image(kind, c=c)
    assert torch.equal(slic_reference(images, **options), scikit(images, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "c"), IMAGES)
def test_the_kernel_is_scikit_image_as_its_reference_is(kind, c, options, scikit_lab, host):
    images = image(kind, c=c)
    labels = slic(images, **options)
    assert labels.dtype == torch.int32
    assert torch.equal(labels, scikit(images, **options))


@pytest.mark.parametrize("options", OPTIONS[4:6], ids=str)
@pytest.mark.parametrize("c", [1, 3])
def test_the_kernel_is_its_reference_in_a_lab_of_ones_own(c, options, host):
    images = image("noise", c=c)
    assert torch.equal(slic(images, **options), slic_reference(images, **options))


@pytest.mark.parametrize(
    ("kind", "h", "w"), [(kind, h, w) for h, w in SIZES for kind in ("noise", "one colour")] + [("one colour", 63, 65)]
)
@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_awkward_sizes(kind, options, h, w, scikit_lab, host):
    images = image(kind, h, w)
    expected = scikit(images, **options)
    assert torch.equal(slic_reference(images, **options), expected)
    assert torch.equal(slic(images, **options), expected)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("chelsea", 101, {"n_segments": 257}),
        ("coffee", 80, {}),
        ("coffee", 80, {"n_segments": 30, "sigma": 1.0}),
        ("rocket", 101, {"n_segments": 30, "sigma": 1.0}),
    ],
    ids=str,
)
def test_photographs(name, size, options, host):
    """With our own Lab, whose last bits differ from scikit-image's, a few pixels may get another segment."""
    images = photograph(name, size)
    labels, expected = slic(images, **options), scikit(images, **options)
    assert torch.equal(labels, slic_reference(images, **options))
    assert labels.max() == expected.max()
    assert (labels == expected).float().mean() > 0.999


def test_sums_beyond_what_float32_counts(host):
    """Rows of a segment of many pixels add up to more than 2**24: their rounded sum depends on its order."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(1, 2, 640, 8, generator=random).repeat_interleave(64, 3) * 0.2 + torch.linspace(0, 0.8, 512)
    options = {"n_segments": 3, "max_num_iter": 3}
    expected = scikit(images, **options)
    assert expected.flatten().bincount().max() * 320 > 2**24
    assert torch.equal(slic(images, **options), expected)


def test_each_image_is_segmented_by_itself_and_stays_as_it_is(host):
    images = torch.cat([image(kind, 40, 33) for kind in ("noise", "blocks", "one colour")]) * torch.rand(3, 1, 1, 1)
    before = images.clone()
    together = slic(images, n_segments=20)
    assert torch.equal(images, before)
    assert torch.equal(together, torch.cat([slic(one[None], n_segments=20) for one in images]))
    assert torch.equal(together, slic_reference(images, n_segments=20))


def test_strided_images(host):
    images = image("noise", 60, 80, c=6).transpose(2, 3)[:, ::2, 3::2, 1:]
    assert torch.equal(slic(images, n_segments=20), slic_reference(images.contiguous(), n_segments=20))


@pytest.mark.parametrize("c", [4, 27, 70])
def test_many_channels(c, host):
    """The last that are held in registers, the first with few centres in shared memory, and sums in three rounds of a warp."""
    images = image("blocks", 20, 30, c)
    assert torch.equal(slic(images, n_segments=50), scikit(images, n_segments=50))


@pytest.mark.parametrize(("warps", "rows"), [(1, 1), (3, 7)])
def test_blocks_of_any_size_do_the_same(warps, rows, host, monkeypatch, replaced):
    images = image("noise")
    expected = slic(images, n_segments=300)
    replaced(("WARPS = 8;", f"WARPS = {warps};"), ("ROWS = 4;", f"ROWS = {rows};"))
    monkeypatch.setattr(module, "_WARPS", warps)
    monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(module, "_CONNECT_THREADS", 1)
    assert torch.equal(slic(images, n_segments=300), expected)


@pytest.mark.parametrize("options", OPTIONS[3:6], ids=str)
def test_the_host_waits_for_nothing(options, host, unread):
    images = image("noise")
    with unread:
        labels = slic(images, **options)
    assert torch.equal(labels, slic_reference(images, **options))


def test_what_is_kept_between_calls_is_said_to_be_read(host, monkeypatch):
    """On any stream, also a different one: otherwise its memory would be reused too early once it is dropped."""
    read = []
    monkeypatch.setattr(devices, "read_here", lambda kept: read.append(tuple(kept.shape)) or kept)
    slic(image("noise", 12, 13), n_segments=1)
    quickshift(image("noise", 12, 13))
    assert read == [(1, 2), (12, 13)]


@pytest.mark.gpu
@pytest.mark.usefixtures("kernels")
class TestOnAGpu:
    @pytest.mark.parametrize(
        ("c", "options"),
        [(c, options) for c in (3, 5) for options in OPTIONS] + [(c, OPTIONS[5]) for c in (1, 4, 27)],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["noise", "blocks"])
    def test_with_every_option_and_without_waiting(self, kind, c, options, watched):
        images = torch.cat([image(kind, c=c), image("one colour", c=c)])
        shown = images.cuda()
        slic(shown, **options)  # compiles, and copies where centres start
        with watched:
            labels = slic(shown, **options)
        assert torch.equal(labels.cpu(), slic_reference(images, **options))

    @pytest.mark.parametrize("n_segments", [60, 256])
    def test_whole_photographs(self, n_segments):
        images = torch.cat([photograph(name, 224) for name in ("chelsea", "coffee")])
        labels = slic(images.cuda(), n_segments=n_segments)
        assert torch.equal(labels.cpu(), slic_reference(images, n_segments=n_segments))

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_on_a_second_device_with_the_first_one_current(self):
        images = image("noise")
        assert torch.equal(slic(images.to("cuda:1"), n_segments=20).cpu(), slic_reference(images, n_segments=20))
        assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("shorter", [2, 4])
def test_pixels_that_no_window_holds_keep_their_segment(shorter, host, monkeypatch):
    """Windows reach two steps, so hardly a pixel is outside all of them; shorter ones test such pixels."""
    images, start = image("noise", c=2), module._start
    options = {"n_segments": 20, "compactness": 1e-3, "enforce_connectivity": False}

    def short(*size):
        found = start(*size)
        return found._replace(reach=tuple(reach // shorter for reach in found.reach))

    monkeypatch.setattr(module, "_start", short)
    labels = slic_reference(images, **options)
    assert (labels == -1).any() == (shorter == 4)  # no window ever held them
    assert torch.equal(slic(images, **options), labels)
    options["enforce_connectivity"] = True
    assert torch.equal(slic(images, **options), slic_reference(images, **options))


@pytest.mark.parametrize("options", [OPTIONS[4], OPTIONS[5], OPTIONS[6]], ids=str)
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 50), (19, 23)])
def test_sanitizers_find_nothing(h, w, options, sanitized):
    images = image("noise", h, w)
    assert torch.equal(slic(images, **options), slic_reference(images, **options))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_not_finite_take_no_other_with_them(value, sanitized):
    images = torch.cat([image(kind, 8, 9, 2) for kind in ("noise", "blocks", "noise")])
    expected = slic_reference(images, n_segments=6)
    images[1, 0, 3, 4] = value
    labels = slic(images, n_segments=6)
    assert torch.equal(labels[::2], expected[::2])
    assert (labels >= -1).all()
    assert (labels < 72).all()
    with pytest.raises(ValueError, match=r"unmasked (NaN|infinite) values in image are not supported"):
        scikit(images, n_segments=6)


@pytest.mark.long
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("distance < nearest", "distance <= nearest"),
        ("(centre + (float)reach + 1.0f", "(centre + (float)reach"),
        ("meets(top, top + ROWS)", "meets(top, top + 1)"),
        ("c == 1 ? (float)x", "c == 1 ? (float)y"),
        ("sum = sum + four.x + four.y + four.z + four.w", "sum = sum + (four.x + four.y) + (four.z + four.w)"),
        ("if (x >= columns.last) x -= width", "if (x > columns.last) x -= width"),
        ("(1u << lane) - 1", "(2u << lane) - 1"),
        ("found - added >= 32", "found - added > 64"),
        ("steps[4] = {1, -1, (int)w, -(int)w}", "steps[4] = {-1, 1, (int)w, -(int)w}"),
        ("there[i] != own", "true"),
        ("size < min_size", "size <= min_size"),
        ("i < 4 && size < max_size", "i < 4"),
        ("beside = there[i];", "beside = beside == own ? there[i] : beside;"),
    ],
)
def test_a_wrong_kernel_is_noticed(right, wrong, host, replaced):
    replaced((right, wrong))
    assert not all(torch.equal(slic(images, **o), slic_reference(images, **o)) for images, o in noticing())


def noticing():
    """Images and options, the first of many that would notice."""
    yield image("noise"), {"n_segments": 60}
    yield image("one colour", 24, 24), {"n_segments": 36, "min_size_factor": 1.0}
    yield image("noise"), OPTIONS[6]
    yield image("blocks", c=5), OPTIONS[6]
    yield image("noise", 200, 200), {"n_segments": 8, "compactness": 0.1, "enforce_connectivity": False}


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(1, 3, 4, 4).double(), {}, "images must be float32; got torch.float64"),
        (torch.zeros(3, 4, 4), {}, r"images must be \(n, c, h, w\), none of them 0; got \(3, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4), {}, r"got \(0, 3, 4, 4\)"),
        (torch.zeros(1, 257, 2, 2), {}, "images must have at most 256 channels; got 257"),
        (
            torch.zeros(1, 1, 1, 1).expand(1, 1, 2**15, 2**15),
            {},
            r"fewer than 2\*\*30 pixels, and 2\*\*22 a row or column; got \(32768, 3",
        ),
        (
            torch.zeros(1, 1, 1, 1).expand(1, 1, 1, 2**22),
            {},
            r"fewer than 2\*\*30 pixels, and 2\*\*22 a row or column; got \(1, 4194304",
        ),
        (torch.zeros(1, 3, 4, 4), {"n_segments": 0}, "n_segments must be at least 1; got 0"),
        (torch.zeros(1, 3, 4, 4), {"compactness": 0}, "compactness must be positive; got 0"),
        (torch.zeros(1, 3, 4, 4), {"sigma": -1}, "sigma must be at least 0; got -1"),
        (
            torch.zeros(1, 3, 4, 4),
            {"max_size_factor": 0.1, "n_segments": 4},
            "max_size_factor = 0.1 leaves segments of 4 pixels",
        ),
    ],
)
@pytest.mark.parametrize("op", [slic, slic_reference])
def test_what_makes_no_sense(op, images, options, message, host):
    with pytest.raises(GpulimeError, match=message):
        op(images, **options)


def test_where_kernels_run_they_segment(host, pictures):
    images, slic_ = pictures(3), Slic(n_segments=12)
    found = segment(slic_, images)
    assert torch.equal(found.ids[0][found.labels[0].long()].int(), slic(images[:1], n_segments=12)[0])
    assert torch.equal(segment(slic_, pictures(3, c=1)).labels, segment(slic_, pictures(3, c=1).expand(3, 3, -1, -1)).labels)
    with pytest.raises(GpulimeError, match=r"segments gpulime .* slic\(.*\): compactness must be positive; got 0"):
        segment(Slic(compactness=0), images)


def test_rows_tell_who_segmented(host, monkeypatch):
    here = describe(Slic(), torch.device("cpu"))
    monkeypatch.setattr(source, "available", lambda device: False)
    there = describe(Slic(), torch.device("cpu"))
    assert here.split()[0] == "gpulime"
    assert there.split()[0] == "scikit-image"
    assert here.split("slic")[1] == there.split("slic")[1]


def test_readers_leave_to_the_device_what_it_does(host):
    pixels = (image("noise", 9, 9)[0] * 255).to(torch.uint8)
    [[read]] = read_all([Item("one", b"0")], DatasetReader([pixels]), Slic(), segments.CPU, 4, workers=0)
    assert read.segments is None


def test_scikit_image_is_the_one_that_is_followed():
    """Its own function, without what `Slic` adds."""
    images = photograph("chelsea", 60)
    expected = segmentation.slic(images[0].permute(1, 2, 0).numpy(), n_segments=12, start_label=0)
    assert torch.equal(scikit(images, n_segments=12)[0], torch.from_numpy(expected).int())


@pytest.mark.parametrize("points", [1, 2, 3, 7, 31, 60, 256, 5000, 60_000])
def test_centres_start_where_scikit_image_has_them(points):
    sizes = (1, 2, 3, 5, 8, 17, 24, 63, 65, 224, 375, 500)
    for h, w in itertools.product(sizes, sizes):
        _, *expected = regular_grid((1, h, w), points)
        found = [range(size)[axis] for size, axis in zip((h, w), module._grid(h, w, points), strict=True)]
        assert found == [range(size)[axis] for size, axis in zip((h, w), expected, strict=True)]
