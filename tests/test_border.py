"""Zeros around an image: a convolution that is told of them gives the same, and nothing else notices that they are missing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gpulime.border import Border, Bordered
from gpulime.folding import Folding

ROWS = (3, 4, 17, 16)


def rows():
    return torch.randn(ROWS).contiguous(memory_format=torch.channels_last)


class Model(nn.Module):
    """A convolution after a border, and a BatchNorm."""

    def __init__(self, way, conv=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 4, 3, stride=2, groups=4)
        self.norm = nn.BatchNorm2d(self.conv.out_channels)
        self.norm.running_mean.normal_(std=0.3)
        self.norm.running_var.uniform_(0.5, 2)
        self.way, self.turn = way, 0
        self.eval()

    def forward(self, x):
        return self.way(self, x).mean((2, 3))


def plain(m, x, border=(0, 1, 0, 1)):
    return m.norm(m.conv(F.pad(x, border))).relu()


def folded_twice(model, images):
    """What the model gives by itself, in the trial and folded, and the folding."""
    folding = Folding()
    with torch.no_grad():
        return model(images.clone()), folding(model, images.clone()), folding(model, images.clone()), folding


def assert_near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("border", [(1, 1, 1, 1), (0, 1, 0, 1), (2, 0, 1, 3), (0, 0, 2, 1), (0, 0, 0, 0)], ids=str)
def test_a_convolution_that_is_told_of_it_gives_the_same(border, kernel, stride, dtype):
    conv = nn.Conv2d(4, 8, kernel, stride, padding=(0, 1), groups=4)
    model = Model(lambda m, x: plain(m, x, border), conv).to(dtype)
    expected, trial, folded, folding = folded_twice(model, rows().to(dtype))
    assert [chain.border for chain in folding.chains.values()] == [Border(*border)]
    assert torch.equal(trial, folded)
    if dtype is torch.float32:
        assert_near(folded, expected)
    else:
        torch.testing.assert_close(folded, expected, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("conv", "border", "known"),
    [
        (nn.Conv2d(4, 6, 3), (1, 1, 2, 2), True),
        (nn.Conv2d(4, 6, 3, dilation=2), (2, 2, 2, 2), True),
        (nn.Conv2d(4, 6, 3), (0, 1, 0, 1), False),  # wider weights would cost more than zeros
        (nn.Conv2d(4, 4, 3, dilation=2, groups=4), (0, 1, 0, 1), False),
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), (1, 1, 1, 1), False),
        (nn.Conv2d(4, 4, 3, groups=4), (-1, 1, 0, 0), False),
        (nn.Conv2d(4, 4, 3, groups=4), (1, 1), False),
    ],
)
def test_where_it_can_be_told(conv, border, known):
    expected, trial, folded, folding = folded_twice(Model(lambda m, x: plain(m, x, border), conv), rows())
    assert_near(trial, expected)
    assert_near(folded, expected)
    assert [chain.border for chain in folding.chains.values()] == [Border(*border) if known else None]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.pad(x, (0, 1, 0, 1), "constant", 0),
        lambda x: F.pad(x, [0, 1, 0, 1], value=0.0),
        lambda x: F.pad(input=x, pad=(0, 1, 0, 1)),
        nn.ZeroPad2d((0, 1, 0, 1)),
    ],
)
def test_however_it_is_written(call):
    expected, _, folded, folding = folded_twice(Model(lambda m, x: m.norm(m.conv(call(x))).relu()), rows())
    assert_near(folded, expected)
    known = [chain.border for chain in folding.chains.values()]
    assert known in ([Border(0, 1, 0, 1)], [None])  # None: no tensor by place, which is left alone


def reflected(m, x):
    return m.norm(m.conv(F.pad(x, (0, 1, 0, 1), "reflect")))


def of_ones(m, x):
    return m.norm(m.conv(F.pad(x, (0, 1, 0, 1), value=1.0)))


def used_twice(m, x):
    x = F.pad(x, (0, 1, 0, 1))
    return m.norm(m.conv(x)) + x.mean()


def used_first(m, x):
    x = F.pad(x, (0, 1, 0, 1))
    mean = x.mean()
    return m.norm(m.conv(x)) + mean


def written_outside(m, x):
    x = F.pad(x, (0, 1, 0, 1))
    x.relu_()
    return m.norm(m.conv(x))


def written_outside_later(m, x):
    x = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        x.relu_()
    return m.norm(m.conv(x))


def clamped(m, x):
    """In the trial nothing is beyond."""
    x = F.pad(x * 1000 if m.turn else x, (0, 1, 0, 1))
    x.clamp_(-10, 10)
    return m.norm(m.conv(x))


def nan_outside_later(m, x):
    y = F.pad(x.relu(), (0, 1, 0, 1))
    if m.turn:
        y[1, 0, 3, 3] = float("nan")
    return torch.cat([m.norm(m.conv(torch.cat([y]))).relu(), plain(m, x)], 1)


def a_pad_of_a_pad_that_is_written_to(m, x):
    inner = F.pad(x, (1, 1, 1, 1))
    outer = F.pad(inner, (0, 1, 0, 1))
    inner.relu_()
    return m.norm(m.conv(outer)) + inner.mean() + plain(m, x).mean()


def data_written_between(m, x):
    x = x.clone()
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        x.data.mul_(2)
    return m.norm(m.conv(y)) + x.mean()


def an_array_written_between(m, x):
    x = x.clone()
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        x.numpy()[:] *= 2
    return m.norm(m.conv(y)) + x.mean()


def an_earlier_array_written_between(m, x):
    x = x.clone()
    array = x.numpy()
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        array *= 2
    return m.norm(m.conv(y)) + x.mean()


def an_earlier_array_of_nan(m, x):
    """What a convolution gives of finite numbers is not looked through again."""
    y = plain(m, x)
    if m.turn:
        y.detach().numpy()[0, 0] = float("nan")
    return plain(m, y)


def another_shape_later(m, x):
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        y.unsqueeze_(0)
    return m.norm(m.conv(y[0] if m.turn else y)) + y.ndim


def other_memory_later(m, x):
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        y.data = torch.ones(3, 4, 20, 20)
    return m.norm(m.conv(y)) + y.shape[2]


def its_own_input_written(m, x):
    y = F.pad(x, (0, 1, 0, 1))
    x.mul_(2)
    return m.norm(m.conv(y)) + plain(m, x.clone())


def errors_swallowed(m, x):
    x = x.clone()
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        x.mul_(2)
    try:
        return m.norm(m.conv(y)) + y.mean()
    except RuntimeError:
        return torch.zeros(1)


def written_inside(m, x):
    x = x.clone()
    y = F.pad(x, (0, 1, 0, 1))
    x.mul_(2)
    return m.norm(m.conv(y)) + x.mean()


def written_inside_later(m, x):
    x = x.clone()
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        x.mul_(2)
    return m.norm(m.conv(y)) + x.mean()


def held(m, x):
    m.last = F.pad(x, (0, 1, 0, 1))
    return m.norm(m.conv(m.last))


def held_later(m, x):
    y = F.pad(x, (0, 1, 0, 1))
    if m.turn:
        before, m.last = getattr(m, "last", y), y
        return m.norm(m.conv(y)) + before.mean()
    return m.norm(m.conv(y))


def as_an_array(m, x):
    y = F.pad(x, (0, 1, 0, 1))
    return m.norm(m.conv(y)) + (float(y.numpy().max()) if m.turn else 0)


def by_its_address(m, x):
    y = F.pad(x, (0, 1, 0, 1))
    return m.norm(m.conv(y)) + (y.data_ptr() == 0 if m.turn else 0)


def asked(m, x):
    y = F.pad(x, (0, 1, 0, 1))
    last = y.is_contiguous(memory_format=torch.channels_last) and type(y) is not None and y.stride() == y.clone().stride()
    return m.norm(m.conv(y)) + y.shape[2] + y.size(3) + y.ndim + (y.dtype is torch.float32) + last


def of_planes(m, x):
    return m.norm(m.conv(F.pad(x.contiguous(), (0, 1, 0, 1))))


def another_border_later(m, x):
    return m.norm(m.conv(F.pad(x, (1, 0, 0, 1) if m.turn else (0, 1, 0, 1))))


def none_later(m, x):
    return m.norm(m.conv(x if m.turn else F.pad(x, (0, 1, 0, 1))))


def twice(m, x):
    return m.norm(m.conv(F.pad(F.pad(x, (1, 1, 1, 1)), (0, 1, 0, 1))))


def single_images(m, x):
    return torch.cat([m.norm(m.conv(F.pad(image, (0, 1, 0, 1))[None])) for image in x])


WAYS = [
    reflected, of_ones, used_twice, used_first, written_outside, written_outside_later, clamped, written_inside,
    written_inside_later, held, held_later, as_an_array, by_its_address, asked, of_planes, another_border_later,
    none_later, twice, single_images, nan_outside_later, a_pad_of_a_pad_that_is_written_to, data_written_between,
    an_array_written_between, an_earlier_array_written_between, an_earlier_array_of_nan, another_shape_later,
    other_memory_later, its_own_input_written, errors_swallowed,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_strange_models_give_what_they_give(way):
    bare = Model(way)
    model, folding = copy.deepcopy(bare), Folding()
    for turn in range(4):
        images = rows()
        bare.turn = model.turn = turn
        assert_near(folding(model, images.clone()), bare(images.clone()))
        assert type(getattr(model, "last", images)) is torch.Tensor


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("activation", [torch.relu, torch.clone])
@torch.no_grad()
def test_beside_wider_weights_nothing_is_lost_or_spread(activation, value):
    """A weight of 0 makes NaN of an infinity."""
    model = Model(lambda m, x: activation(m.norm(m.conv(F.pad(x, (0, 1, 0, 1))))).amax((2, 3), keepdim=True))
    images, folding = rows(), Folding()
    folding(model, images)
    images[1, :, 5, 5] = value
    torch.testing.assert_close(folding(model, images), model(images), equal_nan=True)


def test_what_is_asked_of_it_is_asked_of_the_real_one():
    images = rows()
    bordered = Bordered(images, Border(1, 0, 2, 3))
    assert (bordered.shape, bordered.stride()) == ((3, 4, 22, 17), F.pad(images, (1, 0, 2, 3)).stride())
    assert torch.equal(bordered + 0, F.pad(images, (1, 0, 2, 3)))
    with pytest.raises(RuntimeError):
        Bordered(images, Border(1, 1, 1, 1)).untyped_storage().data_ptr()
    late = Bordered(images, Border(1, 1, 1, 1))
    images += 1
    with pytest.raises(RuntimeError, match="changed since"):
        late.sum()
