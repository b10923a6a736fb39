"""quickshift: scikit-image's ids, from the reference and from the kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data, segmentation

from gpulime.errors import GpulimeError
from gpulime.images.segments import describe, segment
from gpulime.ops import source
from gpulime.ops.lab import rgb2lab_reference
from gpulime.ops.quickshift import quickshift, quickshift_reference
from gpulime.segments import Quickshift

PHOTOGRAPHS = ["astronaut", "chelsea", "coffee", "rocket"]
LIME = {"ratio": 0.2, "kernel_size": 4, "max_dist": 200, "sigma": 0, "rng": 42}
OPTIONS = [
    {},
    {"kernel_size": 1},
    {"kernel_size": 2.5, "max_dist": 6},
    {"kernel_size": 6, "max_dist": 20, "ratio": 1},
    {"max_dist": 1},
    {"ratio": 0},
    {"ratio": 1, "max_dist": 10, "kernel_size": 3},
    {"sigma": 1},
    {"rng": 7, "ratio": 0.5},
]
# c, h, w; on 40 of 63 rows the window is cut by a border, and 1 has no neighbours at all
SHAPES = [(3, 63, 65), (1, 63, 65), (5, 24, 31), (3, 1, 1), (3, 1, 50), (5, 50, 1), (2, 9, 33)]


def photograph(name, h=63, w=65, step=4):
    """(1, 3, h, w) float32 in [0, 1]: every fourth pixel of rows and columns, from the middle."""
    picture = getattr(data, name)()[::step, ::step]
    top, left = (picture.shape[0] - h) // 2, (picture.shape[1] - w) // 2
    return torch.from_numpy(picture[top : top + h, left : left + w] / np.float32(255)).permute(2, 0, 1)[None].contiguous()


def problem(c=3, h=63, w=65, n=1):
    """(n, c, h, w): photographs one after another, with as many channels as wanted."""
    pictures = [photograph(name)[..., :h, :w] for name in PHOTOGRAPHS[:n]]
    return torch.cat([picture.repeat(1, 2, 1, 1)[:, 1 : c + 1] if c != 3 else picture for picture in pictures]).contiguous()


def scikit(images, **options):
    """Labels of scikit-image for each image without Lab."""
    shown = images.permute(0, 2, 3, 1).numpy()
    options = LIME | options
    return torch.from_numpy(np.stack([segmentation.quickshift(image, convert2lab=False, **options) for image in shown])).int()


def in_lab(images):
    """As `quickshift` compares colours; scikit-image's own Lab differs in last bits from one processor to the next."""
    c = images.shape[1]
    return rgb2lab_reference(images.expand(-1, 3, -1, -1)) if c in (1, 3) else images


def assert_same(found, expected):
    assert (found.shape, found.dtype) == (expected.shape, torch.int32)
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_what_scikit_image_gives_in_every_shape(shape, device):
    images = problem(*shape)
    assert_same(quickshift_reference(images.to(device)), scikit(in_lab(images)))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_is_what_scikit_image_gives_with_every_option(options, device):
    images = problem(n=2)
    expected = scikit(in_lab(images), **options)
    assert_same(quickshift_reference(images.to(device), **options), expected)
    assert all(labels.max() > 0 for labels in expected)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_image_is_divided_by_noise_alone(value):
    images = torch.full((1, 3, 90, 81), value)
    expected = scikit(in_lab(images))
    assert_same(quickshift_reference(images), expected)
    assert expected.max() > 2


def test_saturated_parts_have_scikit_images_ids():
    """Equal pixels have equal densities, except for noise in the last bits."""
    images = (problem(n=3) * 2 - 0.5).clamp(0, 1)
    assert_same(quickshift_reference(images), scikit(in_lab(images)))


@pytest.mark.long
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_in_scikit_images_own_lab(name):
    images = photograph(name, 100, 150, 2)
    shown = images[0].permute(1, 2, 0).numpy()
    expected = torch.from_numpy(segmentation.quickshift(shown, **LIME)).int()
    found = quickshift_reference(images)[0]
    assert found.max() == expected.max()
    assert (found == expected).float().mean() >= 0.999


def test_ids_run_in_raster_order_of_roots_and_images_stand_alone():
    images = problem(n=3)
    found = quickshift_reference(images)
    for image, labels in zip(images, found, strict=True):
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
        assert torch.equal(quickshift_reference(image[None])[0], labels)


# ---- The kernel


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_kernel_gives_what_its_reference_gives_in_every_shape(shape, host):
    images = problem(*shape, n=3)
    assert_same(quickshift(images), scikit(in_lab(images)))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_kernel_gives_what_its_reference_gives_with_every_option(options, host):
    images = problem(n=2)
    assert_same(quickshift(images, **options), scikit(in_lab(images), **options))


@pytest.mark.parametrize("c", [32, 33])
def test_the_kernel_takes_many_channels(c, host):
    images = torch.rand(1, c, 9, 11)
    expected = scikit(images, max_dist=1.1)
    assert expected.max() > 2
    assert_same(quickshift(images, max_dist=1.1), expected)


def test_the_kernel_takes_constant_and_strided_images(host):
    images = torch.ones(2, 3, 40, 41)
    assert_same(quickshift(images), quickshift_reference(images))
    images = problem(n=2)[:, :, ::2].permute(0, 1, 3, 2)
    assert_same(quickshift(images), quickshift_reference(images))


def test_the_engine_segments_with_the_kernel(host):
    images, segmenter = problem(n=2), Quickshift(kernel_size=2.5, max_dist=6)
    assert describe(segmenter, images.device).startswith("gpulime ")
    found = segment(segmenter, images)
    assert_same(found.labels, quickshift_reference(images, kernel_size=2.5, max_dist=6))
    assert found.counts.tolist() == [int(labels.max()) + 1 for labels in found.labels]
    gray = images[:, :1].double()
    assert_same(segment(segmenter, gray).labels, quickshift_reference(gray.float(), kernel_size=2.5, max_dist=6))


def test_the_host_waits_for_nothing(host, unread):
    images = problem(n=2)
    with unread:
        found = quickshift(images, sigma=1)
    assert_same(found, quickshift_reference(images, sigma=1))


@pytest.mark.parametrize(("device", "package"), [("cpu", "scikit-image"), ("cuda", "gpulime")])
def test_without_cupy_a_gpu_runs_the_reference_and_a_cpu_scikit_image(device, package, monkeypatch):
    monkeypatch.setattr(source, "available", lambda device: False)
    assert describe(Quickshift(), torch.device(device)).startswith(f"{package} ")


@pytest.mark.gpu
@pytest.mark.usefixtures("kernels")
class TestOnAGpu:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_in_every_shape(self, shape):
        images = problem(*shape, n=3)
        assert_same(quickshift(images.cuda()), quickshift_reference(images))

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_with_every_option_and_without_waiting(self, options, watched):
        images = problem(n=2)
        shown = images.cuda()
        quickshift(shown, **options)  # compiles, and copies the noise
        with watched:
            found = quickshift(shown, **options)
        assert_same(found, quickshift_reference(images, **options))


@pytest.mark.parametrize("shape", [(3, 17, 35), (1, 1, 1), (5, 1, 50)], ids=str)
def test_the_kernel_under_sanitizers(shape, sanitized):
    images = problem(*shape, n=2)
    assert_same(quickshift(images, kernel_size=2.5), quickshift_reference(images, kernel_size=2.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_not_finite_take_no_other_with_them(value, sanitized):
    images = problem(c=2, h=8, w=9, n=3)
    expected = quickshift_reference(images)
    images[1, 0, 3, 4] = value
    labels = quickshift(images)
    assert torch.equal(labels[::2], expected[::2])
    assert (labels >= 0).all()
    assert (labels < 72).all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sum = (float)(sum + exp((double)exponent))", "sum += (float)exp((double)exponent)"),
        ("float sum = noise[own]", "float sum = 0"),
        ("squares < nearest", "squares <= nearest"),
        ("density[line + column] > least", "density[line + column] >= least"),
        ("sqrtf(nearest) > max_dist", "nearest > max_dist"),
        ("centre + radius : size - 1", "centre + radius - 1 : size - 1"),
        ("while (family[at] != at)", "if (family[at] != at)"),
    ],
)
def test_a_broken_kernel_is_noticed(right, wrong, host, monkeypatch, tmp_path):
    for file in source.folder().glob("*.cu*"):
        text = file.read_text()
        assert right in text or file.name != "quickshift.cu"
        (tmp_path / file.name).write_text(text.replace(right, wrong))
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    images = problem(n=2)
    same = [
        torch.equal(quickshift(images, **options), quickshift_reference(images, **options))
        for options in ({}, {"ratio": 0}, {"max_dist": 10})
    ]
    assert not all(same)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(3, 5, 5), {}, r"images must be \(n, c, h, w\), none of them 0; got \(3, 5, 5\)"),
        (torch.rand(1, 3, 0, 5), {}, r"images must be \(n, c, h, w\), none of them 0; got \(1, 3, 0, 5\)"),
        (torch.zeros(1, 3, 5, 5, dtype=torch.uint8), {}, "images must be float32; got torch.uint8"),
        (torch.rand(1, 3, 5, 5), {"kernel_size": 0.5}, "kernel_size must be at least 1; got 0.5"),
        (torch.rand(1, 3, 5, 5), {"kernel_size": float("nan")}, "kernel_size must be at least 1; got nan"),
        (torch.rand(1, 3, 5, 5), {"sigma": -1}, "sigma must be at least 0; got -1"),
        (torch.rand(1, 3, 5, 5), {"rng": None}, "rng must be a whole number, at least 0; got None"),
    ],
)
@pytest.mark.parametrize("function", [quickshift, quickshift_reference])
def test_arguments_that_do_not_fit(function, images, options, message):
    with pytest.raises(GpulimeError, match=message):
        function(images, **options)
