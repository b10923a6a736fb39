"""masked_images: equal to its reference, bit for bit, in every shape, dtype and memory format."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gpulime import device as devices
from gpulime.errors import GpulimeError
from gpulime.ops.masked_images import masked_images, masked_images_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8]
LABELS = [torch.uint8, torch.uint16, torch.int32]
FORMATS = [torch.contiguous_format, torch.channels_last]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# n, c, h, w, k, b
SHAPES = [
    (1, 3, 63, 65, 31, 1),
    (4, 1, 63, 65, 33, 13),
    (4, 5, 7, 9, 257, 37),
    (1, 1, 1, 1, 1, 3),
    (4, 3, 1, 1, 2, 5),
    (1, 5, 1, 8, 2, 9),
    (4, 3, 24, 20, 33, 64),
    (1, 3, 7, 9, 5, 130),  # more rows of one image than a number has bits
]


@pytest.fixture(autouse=True)
def allocated(monkeypatch):
    """The shapes that were allocated; memory comes filled with NaN (255 where there is none), so that a gap shows."""
    shapes = []

    def poisoned(*shape, dtype, device):
        shapes.append(shape)
        return torch.full(shape, float("nan") if dtype.is_floating_point else 255, dtype=dtype, device=device)

    monkeypatch.setattr(devices, "empty", poisoned)
    return shapes


def problem(n=4, c=3, h=7, w=9, k=5, b=11, dtype=torch.float32, memory_format=torch.contiguous_format, device="cpu"):
    random = torch.Generator().manual_seed(n + c + h + w + k + b)
    images, fills = (
        (torch.rand(n, c, h, w, generator=random) * 254).to(device, dtype).contiguous(memory_format=memory_format)
        for _ in range(2)
    )
    labels = torch.randint(0, k, (n, h, w), generator=random, dtype=torch.int32)
    index = torch.randint(0, n, (b,), generator=random)
    masks = torch.rand(b, k, generator=random) < 0.5
    return images, fills, labels.to(device), index.to(device), masks.to(device)


def bits(tensor):
    return tensor.contiguous().view(BITS[tensor.element_size()])


def assert_same_bits(actual, expected):
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(bits(actual), bits(expected))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_its_reference(shape, dtype, memory_format, device):
    arguments = problem(*shape, dtype, memory_format, device)
    rows = masked_images(*arguments)
    assert_same_bits(rows, masked_images_reference(*arguments))
    assert rows.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("order", ["sorted", "reversed", "alternating", "one image"])
def test_rows_of_any_order(order, device):
    images, fills, labels, index, masks = problem(b=12, device=device)
    index = {
        "sorted": index.sort().values,
        "reversed": index.sort(descending=True).values,
        "alternating": torch.arange(12, device=device) % 2,
        "one image": torch.full_like(index, 3),
    }[order]
    arguments = images, fills, labels, index, masks
    assert_same_bits(masked_images(*arguments), masked_images_reference(*arguments))


@pytest.mark.parametrize("dtype", DTYPES[:-1], ids=str)
@pytest.mark.parametrize(("shown", "source"), [(True, 0), (False, 1)])
def test_a_mask_of_ones_gives_the_image_bit_for_bit_and_one_of_zeros_the_fill(shown, source, dtype, device):
    images, fills, labels, index, masks = problem(dtype=dtype, device=device)
    for tensor in (images, fills):
        patterns = torch.randint(0, 256, (tensor.numel() * tensor.element_size(),)).to(device, torch.uint8)
        tensor.copy_(patterns.view(dtype).view_as(tensor))  # every bit pattern: NaN with payloads, -0.0, subnormals
    (images, fills)[source].view(-1)[:3] = torch.tensor([-0.0, float("nan"), float("-inf")])
    rows = masked_images(images, fills, labels, index, torch.full_like(masks, shown))
    assert_same_bits(rows, (images, fills)[source][index])


def test_memory_comes_from_the_device_module(allocated):
    rows = masked_images(*problem())
    assert allocated == [rows.shape]


def test_inputs_stay_as_they_are(device):
    arguments = problem(device=device)
    before = [argument.clone() for argument in arguments]
    masked_images(*arguments)
    assert all(torch.equal(argument, copy) for argument, copy in zip(arguments, before, strict=True))


def test_strided_inputs(device):
    images, fills, labels, index, masks = problem(n=4, c=3, h=8, w=10, b=12, device=device)
    arguments = images[::2, :, ::2, 1:], fills[::2, :, ::2, 1:], labels[::2, ::2, 1:], index[::2] % 2, masks[::2]
    assert_same_bits(masked_images(*arguments), masked_images_reference(*(t.contiguous() for t in arguments)))


@pytest.mark.parametrize("label", LABELS, ids=str)
def test_labels_of_any_of_three_dtypes(label, device):
    images, fills, labels, index, masks = problem(device=device)
    expected = masked_images_reference(images, fills, labels, index, masks)
    for implementation in (masked_images, masked_images_reference):
        assert_same_bits(implementation(images, fills, labels.to(label), index, masks), expected)


@pytest.mark.parametrize(("shape", "memory_format"), [*zip(SHAPES[-4:], 2 * FORMATS, strict=True)], ids=str)
def test_is_a_proper_custom_op(shape, memory_format, device):
    arguments = problem(*shape, memory_format=memory_format, device=device)
    torch.library.opcheck(torch.ops.gpulime.masked_images.default, arguments)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_compiles_without_a_break(memory_format, device):
    arguments = problem(memory_format=memory_format, device=device)
    compiled = torch.compile(lambda *args: masked_images(*args) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), masked_images_reference(*arguments) * 2)


def test_compiles_with_a_model_behind_it(cnn, device):
    arguments = problem(device=device)
    model = cnn.to(device)
    compiled = torch.compile(lambda *args: model(masked_images(*args)), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*arguments), model(masked_images_reference(*arguments)))


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (1, lambda fills: fills[:3], r"fills must be like images, \(4, 3, 7, 9\); got \(3, 3, 7, 9\)"),
        (1, lambda fills: fills.double(), "fills must be torch.float32 like images; got torch.float64"),
        (2, lambda labels: labels[:, 1:], r"labels must be \(n, h, w\) = \(4, 7, 9\); got \(4, 6, 9\)"),
        (0, lambda images: images[:0], r"images must be \(n, c, h, w\), none of them 0; got \(0, 3, 7, 9\)"),
        (0, lambda images: images.to(torch.complex128), "images must be of a dtype of 1 to 8 bytes; got torch.complex128"),
        (2, lambda labels: labels.long(), "labels must be uint8, uint16 or int32; got torch.int64"),
        (3, lambda index: index[:0], "index must hold at least one row, b > 0; got b = 0"),
        (3, lambda index: index.int(), r"index must be \(b,\) int64; got \(11,\) torch.int32"),
        (3, lambda index: index[1:], r"masks must be \(b, k\) with b = 10 and k from 1 to 65,535; got \(11, 5\)"),
        (4, lambda masks: masks[:, :0], r"masks must be \(b, k\) with b = 11 and k from 1 to 65,535; got \(11, 0\)"),
        (4, lambda masks: masks.new_ones(11, 65_536), r"b = 11 and k from 1 to 65,535; got \(11, 65536\)"),
        (4, lambda masks: masks[0], r"masks must be \(b, k\) with b = 11 and k from 1 to 65,535; got \(5,\)"),
        (4, lambda masks: masks.float(), "masks must be bool; got torch.float32"),
        (4, lambda masks: masks.to("meta"), "masks must be on cpu like images; got meta"),
    ],
)
def test_arguments_that_do_not_fit(place, change, message):
    arguments = list(problem())
    arguments[place] = change(arguments[place])
    with pytest.raises(GpulimeError, match=message):
        masked_images(*arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda images, fills, labels, index, masks: masked_images(images, fills, labels, index, ~masks),
        lambda images, fills, labels, index, masks: masked_images(fills, images, labels, index, masks),
        lambda images, fills, labels, index, masks: masked_images(images, fills, labels, index.roll(1), masks),
        lambda images, fills, labels, index, masks: devices.empty(11, 3, 7, 9, dtype=images.dtype, device=images.device),
    ],
    ids=["inverted mask", "fill for image", "wrong image", "rows unwritten"],
)
def test_a_wrong_implementation_is_noticed(wrong):
    arguments = problem()
    with pytest.raises(AssertionError):
        assert_same_bits(wrong(*arguments), masked_images_reference(*arguments))


def test_the_first_call_does_not_import_dynamo():
    """It takes more than a second, and a new process that explains one picture would wait for it."""
    code = """
import sys, torch, gpulime
gpulime.Explainer(lambda x: x.mean((2, 3)), n_samples=5, segments="grid").explain(torch.rand(1, 3, 32, 32))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
