"""The kernel of masked_images: without a GPU under the host shim, equal to the reference bit for bit; with one, on it."""

from __future__ import annotations

import pytest
import torch
from test_masked_images import FORMATS, LABELS, SHAPES, assert_same_bits, problem

from gpulime.errors import GpulimeError
from gpulime.ops import masked_images as op
from gpulime.ops import source

# n, c, h, w, k, b; c * h * w and h * w multiples of 16, of 8, of 2 and of nothing
KERNEL_SHAPES = [
    *SHAPES,
    (3, 5, 63, 65, 33, 7),
    (2, 3, 40, 56, 257, 130),
    (3, 3, 10, 12, 50, 33),
    (2, 1, 3, 6, 2, 31),
    (3, 8, 3, 5, 9, 66),
]
# One source for each size of a value and dtype of labels; these use each once at least.
DTYPES = [
    (torch.float64, torch.uint8),
    (torch.float32, torch.int32),
    (torch.float16, torch.uint16),
    (torch.bfloat16, torch.int32),
    (torch.uint8, torch.uint8),
]


def arguments_of(shape, dtype=torch.bfloat16, label=torch.int32, memory_format=torch.contiguous_format):
    images, fills, labels, index, masks = problem(*shape, dtype, memory_format)
    return images, fills, (labels % 256 if label == torch.uint8 else labels).to(label), index, masks


@pytest.fixture(params=[1, 2048], ids=["groups of 32 rows", "groups of 4 rows"])
def groups(request, monkeypatch):
    """The rows of a block, which otherwise depend on the size of the problem."""
    monkeypatch.setattr(op, "_BLOCKS", request.param)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize(("dtype", "label"), DTYPES, ids=str)
@pytest.mark.parametrize("shape", KERNEL_SHAPES, ids=str)
def test_equals_the_reference(shape, dtype, label, memory_format, groups, host):
    arguments = arguments_of(shape, dtype, label, memory_format)
    rows = op.by_kernel(*arguments)
    assert_same_bits(rows, op.masked_images_reference(*arguments))
    assert rows.is_contiguous(memory_format=memory_format)


def test_a_launcher_serves_many_batches_and_checks_each(host):
    images, fills, labels, index, masks = arguments_of((3, 3, 9, 8, 5, 7))
    rows = op.launcher(images, fills, labels)
    for where in (slice(0, 7), slice(2, 3)):
        expected = op.masked_images_reference(images, fills, labels, index[where], masks[where])
        assert_same_bits(rows(index[where], masks[where]), expected)
    with pytest.raises(GpulimeError, match=r"masks must be \(b, k\) with b = 7 and .*; got \(6, 5\)"):
        rows(index, masks[:6])
    with pytest.raises(GpulimeError, match=r"fills must be torch\.bfloat16 like images; got torch\.float32"):
        op.launcher(images, fills.float(), labels)


def test_the_host_reads_neither_index_nor_masks(host, unread):
    """So a CUDA graph of it, or of the reference, replays with new rows."""
    arguments = arguments_of((3, 3, 9, 8, 5, 7))
    with unread:
        rows = [implementation(*arguments) for implementation in (op.by_kernel, op.masked_images_reference)]
    assert_same_bits(*rows)


@pytest.mark.parametrize("k", [12_224, 12_225, 65_535])
def test_more_segments_than_find_room_in_shared_memory(k, host):
    images, fills, labels, index, masks = arguments_of((2, 3, 9, 8, k, 37))
    labels.view(-1)[-1] = k - 1
    arguments = images, fills, labels, index, masks
    assert_same_bits(op.by_kernel(*arguments), op.masked_images_reference(*arguments))
    narrow = images, fills, (labels % 65_536).to(torch.uint16), index, masks
    assert_same_bits(op.by_kernel(*narrow), op.masked_images_reference(*arguments))


def test_addresses_that_are_not_aligned(host):
    images, fills, labels, index, masks = problem(n=3, c=3, h=8, w=8, b=9)
    expected = op.masked_images_reference(images, fills, labels, index, masks)
    shifted = torch.cat([torch.zeros(1), images.flatten()])[1:].view_as(images)
    assert shifted.data_ptr() % 16
    for arguments in ((shifted, fills, labels, index, masks), (images, shifted, labels, index, masks)):
        assert_same_bits(op.by_kernel(*arguments), op.masked_images_reference(*arguments))
    moved = torch.cat([masks.new_zeros(1), masks.flatten()])[1:].view_as(masks)
    assert_same_bits(op.by_kernel(images, fills, labels, index, moved), expected)


def test_strides_are_made_right(host):
    images, fills, labels, index, masks = problem(n=4, c=3, h=8, w=10, b=12)
    arguments = images[::2, :, ::2, 1:], fills[::2, :, ::2, 1:], labels[::2, ::2, 1:], index[::2] % 2, masks[::2]
    assert_same_bits(op.by_kernel(*arguments), op.masked_images_reference(*arguments))
    mixed = images, fills.contiguous(memory_format=torch.channels_last), labels, index, masks
    assert_same_bits(op.by_kernel(*mixed), op.masked_images_reference(*mixed))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("label", LABELS[1:], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 3, 63, 65, 33, 5), (2, 5, 8, 8, 31, 33), (1, 1, 1, 1, 1, 1), (2, 1, 4, 4, 12_289, 3)], ids=str
)
def test_sanitizers_find_nothing(shape, label, memory_format, sanitized):
    arguments = arguments_of(shape, label=label, memory_format=memory_format)
    assert_same_bits(op.by_kernel(*arguments), op.masked_images_reference(*arguments))


@pytest.fixture
def broken(monkeypatch):
    """Replace a piece of the kernel's source."""
    joined = source.joined

    def put(right, wrong):
        text = joined("masked_images.cu")
        assert text.count(right) == 1
        monkeypatch.setattr(source, "joined", lambda file: text.replace(right, wrong))

    return put


@pytest.mark.long
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("shown[i] & bit ? shows[i] : hides[i]", "shown[i] & bit ? hides[i] : shows[i]"),
        ("if (value < problem.size)", "if (value + 8 < problem.size)"),
        ("min(group, b - first)", "min(group, b - first - 1)"),
        ("pixel + 1 == problem.pixels ? 0 : pixel + 1", "pixel + 1 == problem.pixels ? 0 : pixel"),
        (
            "if (masks[row * k + label]) atomicOr(&table[label], 1u << row)",
            "if (masks[row * k + label]) table[label] = 1u << row",
        ),
        ("table[label] = 0;\n    __syncthreads();", "table[label] = 0;\n"),
        ("left &= ~own", "left = 0"),
    ],
)
def test_a_kernel_that_is_broken_on_purpose_is_noticed(right, wrong, broken, groups, host):
    arguments = arguments_of((3, 8, 3, 5, 33, 70))
    assert_same_bits(op.by_kernel(*arguments), op.masked_images_reference(*arguments))
    broken(right, wrong)
    with pytest.raises(AssertionError):
        assert_same_bits(op.by_kernel(*arguments), op.masked_images_reference(*arguments))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("label < k; label += 32)", "label < k + 1; label += 32)"),
        ("if (value < problem.size)", "if (value <= problem.size)"),
        ("if (threadIdx.x < rows) image_of", "if (threadIdx.x <= rows) image_of"),
        ("int wide, int in_table) {", "int, int in_table) { const bool wide = true;"),
    ],
)
def test_what_only_a_sanitizer_sees(right, wrong, broken, sanitized):
    arguments = arguments_of((3, 3, 5, 7, 32, 32))
    broken(right, wrong)
    with pytest.raises(GpulimeError, match=r"masked_images.cu: masked_images: [^$]*(AddressSanitizer|runtime error)"):
        op.by_kernel(*arguments)


@pytest.mark.gpu
@pytest.mark.usefixtures("kernels")
class TestOnAGpu:
    """Not shown by a CPU: the kernel as CuPy compiles it, streams, graphs, a second device."""

    @pytest.mark.parametrize("memory_format", FORMATS, ids=str)
    @pytest.mark.parametrize(("dtype", "label"), DTYPES, ids=str)
    @pytest.mark.parametrize("shape", [*KERNEL_SHAPES, (4, 3, 224, 224, 50, 512)], ids=str)
    def test_equals_the_reference(self, shape, dtype, label, memory_format):
        arguments = [tensor.cuda() for tensor in arguments_of(shape, dtype, label, memory_format)]
        assert_same_bits(op.masked_images(*arguments), op.masked_images_reference(*arguments))

    def test_a_graph_replays_with_new_rows(self):
        arguments = [tensor.cuda() for tensor in arguments_of((4, 3, 63, 65, 33, 13))]
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            op.masked_images(*arguments)  # compiles, which no graph records
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            rows = op.masked_images(*arguments)
        *_, index, masks = arguments
        index.copy_(index.flip(0))
        masks.logical_not_()
        graph.replay()
        assert_same_bits(rows, op.masked_images_reference(*arguments))

    def test_it_runs_on_the_current_stream(self):
        arguments = [tensor.cuda() for tensor in arguments_of((4, 3, 224, 224, 50, 256))]
        expected, images = op.masked_images_reference(*arguments), arguments[0].clone()
        arguments[0].zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            arguments[0].copy_(images)  # on another stream the kernel would see zeros
            rows = op.masked_images(*arguments)
        stream.synchronize()
        assert_same_bits(rows, expected)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_on_a_second_device_with_the_first_one_current(self):
        arguments = [tensor.to("cuda:1") for tensor in arguments_of((4, 3, 63, 65, 33, 13))]
        assert_same_bits(op.masked_images(*arguments), op.masked_images_reference(*arguments))
        assert torch.cuda.current_device() == 0
