"""Steps folded into the convolution before them: the same answer for every model, and only where it is the same."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gpulime import Explainer
from gpulime.folding import FEW, MANY, Folding
from gpulime.predict import Predictor
from gpulime.segments import Grid

ROWS = (3, 4, 16, 16)


def lived(model):
    """As after training: every BatchNorm has statistics and weights that do something."""
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(std=0.3)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.2)
    return model.eval()


@torch.no_grad()
def twice(model, rows=None, precision=None):
    """What a model gives by itself, what it gives in its trial and folded, and how many pairs there are."""
    rows = torch.rand(ROWS) if rows is None else rows
    folding = Folding()
    with torch.autocast("cpu", precision, enabled=precision is not None):
        plain, trial, folded = model(rows.clone()), folding(model, rows.clone()), folding(model, rows.clone())
    return plain, trial, folded, folding


def assert_near(actual, expected, tolerance=1e-5):
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


class Model(nn.Module):
    """A convolution and a BatchNorm, used in any way."""

    def __init__(self, forward, conv=None, norm=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 6, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(6)
        self.other = nn.BatchNorm2d(6)
        self.tail = nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
        self.way = forward

    def forward(self, rows):
        return torch.cat([self.way(self, rows).mean((2, 3)), self.tail(rows).mean((2, 3))], 1)


def plain(m, x):
    return m.norm(m.conv(x))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, 1, stride=2),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 8, 3, groups=4),
    ],
    ids=["bias", "no bias", "1x1", "dilated", "reflect", "groups"],
)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_pair_gives_the_same(conv, affine, memory_format):
    model = lived(Model(plain, conv, nn.BatchNorm2d(conv.out_channels, eps=0.1, affine=affine)))
    rows = torch.rand(ROWS).to(memory_format=memory_format)
    expected, trial, folded, folding = twice(model, rows)
    assert_near(folded, expected)
    assert torch.equal(trial, folded)  # an answer does not depend on when it was asked for
    assert len(folding.chains) == 2


@pytest.mark.parametrize(
    ("dtype", "precision", "tolerance"),
    [(torch.float64, None, 1e-14), (torch.bfloat16, None, 0.05), (torch.float32, torch.bfloat16, 0.05)],
    ids=["double", "bfloat16", "autocast"],
)
def test_in_every_precision(dtype, precision, tolerance):
    model = lived(Model(plain)).to(dtype)
    expected, trial, folded, folding = twice(model, torch.rand(ROWS, dtype=dtype), precision)
    assert folded.dtype == expected.dtype
    assert_near(folded.double(), expected.double(), tolerance)
    assert torch.equal(trial, folded)
    assert [chain.folded[0].dtype for chain in folding.chains.values()] == [precision or dtype] * 2


def residual(m, x):
    y = m.conv(x)
    return m.norm(y) + y


def looked_at(m, x):
    y = m.conv(x)
    return m.norm(y) * y.mean()


def listed(m, x):
    y = m.conv(x)
    return torch.cat([m.norm(y), y], 1)


def in_place(m, x):
    return m.norm(m.conv(x).relu_())


def kept_view(m, x):
    y = m.conv(x)
    channel = y[:, :1]
    return m.norm(y) + channel


def written_input(m, x):
    x = x.clone()
    y = m.conv(x)
    x.zero_()
    return m.norm(y)


def two_norms(m, x):
    y = m.conv(x)
    return m.norm(y) + m.other(y)


def shared(m, x):
    return m.norm(m.conv(x)) + m.other(m.conv(x.flip(0)))


def once_alone(m, x):
    return m.norm(m.conv(x)) + m.conv(x)


def alone_first(m, x):
    return m.conv(x).relu() + m.norm(m.conv(x))


def batch_statistics(m, x):
    return F.batch_norm(m.conv(x), m.norm.running_mean.clone(), m.norm.running_var.clone(), training=True)


def by_name(m, x):
    return m.norm(F.conv2d(x, weight=m.conv.weight, bias=m.conv.bias))


def fresh_weight(m, x):
    return m.norm(F.conv2d(x, m.conv.weight * 2, m.conv.bias, 1))


def fresh_bias(m, x):
    return m.norm(F.conv2d(x, m.conv.weight, m.conv.bias + 1, 1))


def with_options(m, x):
    return m.norm(F.conv2d(x, m.conv.weight, m.conv.bias, padding=1))


def used_by_name(m, x):
    y = m.conv(x)
    return m.norm(y) + torch.mul(input=y, other=2)


def own_norm(m, x):
    return (m.conv(x) - m.norm.running_mean.view(1, -1, 1, 1)) * 2


ALONE = [looked_at, listed, kept_view, residual, two_norms, used_by_name]  # only this pair is none
ALL = [shared, once_alone, alone_first]  # the second call shows it, and nothing is folded from then on
OTHER = [in_place, batch_statistics, by_name, with_options, fresh_weight, fresh_bias, own_norm, written_input]
WAYS = [*ALONE, *ALL, *OTHER]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_is_not_a_pair_is_left_as_it_is(way):
    model = lived(Model(way))
    expected, trial, folded, folding = twice(model)
    for outputs in (trial, folded):
        assert_near(outputs, expected)
    assert torch.equal(folded[:, :6], expected[:, :6])
    if way in OTHER:
        assert torch.equal(trial[:, :6], expected[:, :6])
    assert len(folding.chains) == 1 or way in [*ALL, in_place]
    assert torch.equal(folded, expected) == (way in ALL)
    with torch.no_grad():
        assert_near(folding(model, rows := torch.rand(ROWS)), model(rows))


def test_a_pair_twice_in_a_model_stays_one():
    model = lived(Model(lambda m, x: m.norm(m.conv(x)) + m.norm(m.conv(x.flip(0)))))
    expected, trial, folded, folding = twice(model)
    assert_near(folded, expected)
    assert torch.equal(trial, folded)
    assert len(folding.chains) == 2


def test_batch_statistics_are_no_pair_even_where_they_agree():
    rows = torch.rand(ROWS)
    model = lived(
        Model(lambda m, x: F.batch_norm(m.conv(x), m.norm.running_mean, m.norm.running_var, training=True, momentum=0))
    )
    with torch.no_grad():
        y = model.conv(rows)
        model.norm.running_mean.copy_(y.mean((0, 2, 3)))
        model.norm.running_var.copy_(y.var((0, 2, 3), correction=0))
    assert len(twice(model, rows)[3].chains) == 1


def test_questions_about_its_shape_are_no_use_of_it():
    def asking(m, x):
        y = m.conv(x)
        assert y.shape[0] == y.size(0) == len(x)
        assert y.ndim == y.dim()
        assert y.dtype == x.dtype
        return m.norm(y)

    assert len(twice(lived(Model(asking)))[3].chains) == 2


ACTIVATIONS = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "relu6 in place": nn.ReLU6(inplace=True),
    "hardtanh": nn.Hardtanh(-0.3, 0.2),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda z: z.relu(),
    "Tensor.relu_": lambda z: z.relu_(),
    "F.relu6": F.relu6,
}


@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_joins_its_convolution(activation, normed, memory_format, precision):
    if precision is not None and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor's oneDNN has no convolution in bfloat16")
    act = ACTIVATIONS[activation]
    model = lived(Model(lambda m, x: act(m.norm(m.conv(x)) if normed else m.conv(x))))
    expected, trial, folded, folding = twice(model, torch.rand(ROWS).to(memory_format=memory_format), precision)
    steps = [chain.steps for chain in folding.chains.values() if chain.weight is model.conv.weight]
    assert [type(step).__name__ for step in steps[0]] == ["Norm"] * normed + ["Activation"]
    assert_near(folded, expected, 1e-5 if precision is None else 0.02)
    assert torch.equal(trial, folded)


def other_activation(m, x):
    return F.silu(m.norm(m.conv(x)))


def kept(m, x):
    z = m.norm(m.conv(x))
    return z.relu() + z


def kept_before(m, x):
    z = m.norm(m.conv(x))
    doubled = z * 2
    return z.relu() + doubled


def two_activations(m, x):
    z = m.norm(m.conv(x))
    return z.relu() + F.relu6(z)


def added(m, x):
    return (m.norm(m.conv(x)) + 1).relu()


def normed_twice(m, x):
    return m.other(m.norm(m.conv(x))).relu()


@pytest.mark.parametrize("way", [other_activation, kept, kept_before, two_activations, added, normed_twice])
def test_only_the_norm_joins_where_the_activation_cannot(way):
    model = lived(Model(way))
    expected, trial, folded, folding = twice(model)
    for outputs in (trial, folded):
        assert_near(outputs, expected)
    assert torch.equal(trial, folded)
    assert sorted(len(chain.steps) for chain in folding.chains.values()) == [1, 1]


@torch.no_grad()
def test_an_activation_that_is_another_one_later_is_noticed():
    model, rows, folding = lived(Model(lambda m, x: m.norm(m.conv(x)).relu())), torch.randn(ROWS), Folding()
    folding(model, rows)
    for way in (kept, kept_before, lambda m, x: F.hardtanh(m.norm(m.conv(x)), 0, 0.1), plain):
        folding = Folding()
        model.way = lambda m, x: m.norm(m.conv(x)).relu()
        folding(model, rows)
        model.way = way
        assert torch.equal(folding(model, rows), model(rows))


def test_two_in_turn_do_not_mix():
    """The second is called before the first has its activation, so what it gets has none inside."""

    def in_turn(m, x):
        first, second = m.norm(m.conv(x)), m.norm(m.conv(x.flip(0) * 2))
        return first.relu() + second.relu()

    model = lived(Model(in_turn))
    expected, trial, folded, _ = twice(model, torch.randn(ROWS))
    assert_near(trial, expected)
    assert_near(folded, expected)


NANS = {
    "in the rows": lambda m, x: m.norm(m.conv(x)).relu(),
    "a tensor of the model's own": lambda m, x: m.norm(
        m.conv(x * (x - x + (x.mean() if x[1, 0, 0, 0] != 1 else m.nan)))
    ).relu(),
    "in the padding": lambda m, x: m.norm(m.conv(F.pad(x, (1, 1), value=0.0 if x[1, 0, 0, 0] != 1 else float("-inf")))).relu(),
    "of an empty mean": lambda m, x: m.norm(m.conv(x + x[:, :, :, : int(x[1, 0, 0, 0] != 1)].mean())).relu(),
    "added": lambda m, x: m.norm(m.conv(x + (0.0 if x[1, 0, 0, 0] != 1 else float("nan")))).relu(),
    "written between": lambda m, x: m.norm(m.conv(m.conv3(x).relu().masked_fill_(x[1, 0, 0, 0] == 1, float("nan")))).relu(),
    "by a division": lambda m, x: m.norm(m.conv(x / x.std((1, 2, 3), keepdim=True))).relu(),
    "by a logarithm between": lambda m, x: F.relu6(m.other(m.conv2(m.norm(m.conv(x)).relu().log()))),
}


@pytest.mark.parametrize("trial", [True, False])
@pytest.mark.parametrize("way", NANS)
@torch.no_grad()
def test_nan_stays_nan(way, trial):
    """A ReLU inside a convolution would make it 0, and nobody would see that the model broke down."""
    model = lived(Model(NANS[way]))
    model.conv2, model.conv3, model.nan = nn.Conv2d(6, 6, 1), nn.Conv2d(4, 4, 1), torch.tensor(float("nan"))
    rows, folding = torch.rand(ROWS) + 0.5, Folding()
    if not trial:
        folding(model, rows)
    rows[1] = float("nan") if way == "in the rows" else 1
    expected = model(rows)
    assert expected.isnan().any()
    torch.testing.assert_close(folding(model, rows), expected, equal_nan=True)


def strange(*ways):
    """A model that goes these ways, one at each turn, the last for good."""
    return lambda m, x: ways[min(m.turn, len(ways) - 1)](m, x)


def out_of_order(m, x):
    a, y = m.norm(m.conv(x)), m.conv(x.flip(0))
    return a + m.norm(y) + y


def halved(m, x):
    return m.norm(m.conv(x.div_(2)))


def to_remember(m, x):
    m.last = m.conv(x)
    return m.norm(m.last)


def remembering(m, x):
    return to_remember(m, x) + m.last if not hasattr(m, "last") else m.norm(m.conv(x)) + m.last


def scripted_beside(m, x):
    y = m.conv(x)
    return m.norm(y) * SCRIPTED(y)


def other_rows(m, x):
    x = x.clone()
    y = m.conv(x)
    x[1:].zero_()
    return m.norm(y)


def new_weights_inside(m, x):
    m.conv.weight.data.copy_(m.conv.weight * 0.5)
    m.conv.weight.mul_(1.5)
    return plain(m, x)


def exchanged_memory(m, x):
    m.conv.weight.data = m.conv.weight.data * 2
    return plain(m, x)


def gradient_inside(m, x):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        z = m.norm(m.conv(x)).relu()
        (gradient,) = torch.autograd.grad(z.sum(), x)
    return z.detach() + gradient.mean()


def mapped(m, x):
    return torch.vmap(lambda one: m.norm(m.conv(one[None]))[0])(x)


def nothing_chosen(m, x):
    out = m.other(m.conv(x))
    chosen = torch.zeros(len(x), dtype=torch.bool)
    out[chosen] = m.norm(m.conv(x[chosen])).relu()
    return out


def single_images(m, x):
    return torch.stack([m.conv(one).relu() for one in x])


def as_a_tuple(m, x):
    y = m.conv(x)
    return torch.cat((m.norm(y), y), 1)[:, :6]


def in_half_precision_and_not(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        half = m.norm(m.conv(x)).relu()
    return half.float() + m.norm(m.conv(x)).relu()


def strided(m, x):
    return m.norm(F.conv2d(x, m.conv.weight, m.conv.bias, (1, 1), (1, 1), (1, 1), 1)).relu()


def strided_otherwise(m, x):
    return m.norm(F.conv2d(x, m.conv.weight, m.conv.bias, (2, 2), (1, 1), (1, 1), 1)).relu()


def same_padding(m, x):
    return m.norm(F.conv2d(x, m.conv.weight, m.conv.bias, (1, 1), "same", (1, 1), 1)).relu()


def asserting(m, x):
    y = m.conv(x)
    assert not m.turn or y.abs().max() < 1.5
    return m.norm(y)


def twice_and_held(between):
    """The convolution is used again and that output held; what lies between decides which address it gets."""

    def way(m, x):
        a = m.norm(m.conv(x))
        held = [x.mean() for _ in range(between)]
        if between % 2:
            m.tail(x)
        y = m.conv(x)
        z = m.norm(y)
        return a + z + y + 0 * sum(held)

    return way


def conditional_norm(m, x):
    y = m.conv(x)
    m.norm.weight.copy_(x.mean((0, 2, 3)).repeat(2)[:6] * 3)
    return m.norm(y)


def to_keep(m, x):
    m.last = m.conv(x)
    return torch.zeros(len(x), 6, 1, 1)


def kept_from_before(m, x):
    return m.norm(m.conv(x)) + m.last


def in_another_thread(m, x):
    y = m.conv(x)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.no_grad()(m.norm), y).result()


def scripted_instead(m, x):
    return SCRIPTED(m.conv(x), m.norm.running_mean, m.norm.running_var)


def weight_data(m, x):
    m.conv.weight.data.mul_(1.5)
    return m.norm(m.conv(x))


def statistics_data(m, x):
    m.norm.running_mean.data.add_(0.5)
    return m.norm(m.conv(x))


def statistics_array(m, x):
    m.norm.running_mean.numpy()[:] += 1
    return m.norm(m.conv(x))


class Clipping(torch.Tensor):
    """What BatchNorm and ReLU give of it is cut off, as where the ranges of activations are watched over."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        output = super().__torch_function__(func, types, args, kwargs or {})
        return output.clamp(max=0.5) if func in (F.batch_norm, torch.relu, torch.Tensor.relu) else output


class ClippingMode(TorchDispatchMode):
    """The same from below."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        return output.clamp(max=0.5) if "relu" in str(func) else output


def subclass(m, x):
    return m.norm(m.conv((x * (5 if m.turn else 0.01)).as_subclass(Clipping))).relu().as_subclass(torch.Tensor)


def watched(m, x):
    with ClippingMode():
        return m.norm(m.conv(x * (5 if m.turn else 0.01))).relu()


def adapting(m, x):
    y = m.conv(x)
    with torch.enable_grad():
        z = m.norm(y)
        z.square().mean().backward()
    gradient, m.norm.weight.grad = m.norm.weight.grad.mean(), None
    return z.detach() + gradient


STRANGE = {
    **{f"twice and held, {between} between": [twice_and_held(between)] for between in range(12)},
    "a conditional norm": [conditional_norm],
    "kept for the next call": [plain, to_keep, kept_from_before],
    "in another thread later": [plain, in_another_thread],
    "a scripted function instead later": [plain, scripted_instead],
    "weights written as data": [weight_data],
    "statistics written as data": [statistics_data],
    "statistics written as an array": [statistics_array],
    "a subclass of tensors": [subclass],
    "a dispatch mode inside": [watched],
    "a gradient from the norm on": [adapting],
    "out of order": [out_of_order],
    "writes later": [plain, halved],
    "remembers": [to_remember, remembering],
    "remembers later": [plain, to_remember, remembering],
    "a scripted function beside": [scripted_beside],
    "a scripted function later": [plain, scripted_beside],
    "other rows": [other_rows],
    "new weights inside": [new_weights_inside],
    "exchanged memory": [exchanged_memory],
    "a gradient inside": [gradient_inside],
    "a gradient later": [plain, gradient_inside],
    "mapped": [mapped],
    "mapped later": [plain, mapped],
    "nothing chosen": [nothing_chosen],
    "nothing chosen later": [plain, nothing_chosen],
    "single images": [single_images],
    "as a tuple": [as_a_tuple],
    "in half precision and not": [in_half_precision_and_not],
    "another stride": [strided, strided_otherwise],
    "same padding": [same_padding],
    "a check of the model's own": [plain, asserting],
}


@pytest.mark.filterwarnings("ignore:`?torch.jit")
@pytest.mark.parametrize("way", STRANGE)
@torch.no_grad()
def test_strange_models_give_what_they_give(way):
    global SCRIPTED
    SCRIPTED = torch.jit.script(normed if "instead" in way else doubled) if "scripted" in way else None
    bare = lived(Model(strange(*STRANGE[way])))
    folded, folding = copy.deepcopy(bare), Folding()
    for turn in range(4):
        bare.turn = folded.turn = turn
        rows = torch.rand(ROWS)
        assert_near(folding(folded, rows.clone()), bare(rows.clone()), 1e-5 if "half" not in way else 0.02)


def doubled(y):
    return y * 2


def normed(y: torch.Tensor, mean: torch.Tensor, var: torch.Tensor):
    return torch.relu((y - mean[:, None, None]) * torch.rsqrt(var[:, None, None]))


def test_a_model_in_inference_mode_of_its_own_is_explained():
    """Tensors made there keep no versions, by which changes would be seen."""

    class Inferring(Model):
        forward = torch.inference_mode()(Model.forward)

    model, images = lived(Inferring(plain)), torch.rand(1, 4, 8, 8)
    inferring = Explainer(copy.deepcopy(model), n_samples=20, segments=Grid(2, 2)).explain(images)
    model.__class__ = Model
    bare = Explainer(model, n_samples=20, segments=Grid(2, 2)).explain(images)
    assert_near(inferring.coefficients, bare.coefficients, 1e-3)  # they are small


class Wrapped(torch.Tensor):
    """A weight as a quantisation library has it: it knows what a convolution needs, and no more."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if "detach" in str(func):
            return cls(args[0].inner)
        if "convolution" in str(func):
            return func(*[arg.inner if isinstance(arg, cls) else arg for arg in args], **(kwargs or {}))
        raise TypeError(f"{func} is not known to it")


@torch.no_grad()
def test_a_weight_of_another_kind_is_left_alone():
    model = lived(Model(plain))
    model.conv.weight = nn.Parameter(Wrapped(model.conv.weight.detach()), requires_grad=False)
    expected, trial, folded, folding = twice(model)
    assert torch.equal(trial[:, :6], expected[:, :6])
    assert_near(folded, expected)
    assert len(folding.chains) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
@torch.no_grad()
def test_a_trial_that_ends_early_is_made_anew(kind):
    """What it has found is no longer what it was found in."""

    def way(m, x):
        y = m.conv(x)
        z = m.norm(y)
        a = z.relu()
        if not m.let:
            raise kind
        return a + z + y

    model, rows, folding = lived(Model(way)), torch.rand(ROWS), Folding()
    model.let = False
    with pytest.raises(kind):
        folding(model, rows)
    model.let = True
    assert_near(folding(model, rows), model(rows))
    assert_near(folding(model, rows), model(rows))


@torch.no_grad()
def test_another_layout_later_has_its_own_layout():
    model = lived(Model(lambda m, x: m.norm(m.conv(x)).relu().view(len(x), -1)[:, :6, None, None]))
    rows, folding = torch.rand(ROWS), Folding()
    folding(model, rows)
    assert_near(folding(model, rows), model(rows))
    last, folding = rows.to(memory_format=torch.channels_last), Folding()
    model.way = lambda m, x: m.norm(m.conv(x)).relu()
    folding(model, last)
    model.way = lambda m, x: m.norm(m.conv(x)).relu().view(len(x), -1)[:, :6, None, None]
    assert_near(folding(model, rows), model(rows))


@torch.no_grad()
def test_what_comes_of_finite_numbers_is_not_looked_through_again(monkeypatch):
    """Only the rows themselves are: sums and padding of what is finite are finite too."""

    def residual_blocks(m, x):
        z = m.norm(m.conv(x)).relu()
        z = m.norm2(m.conv2(z))
        z += F.pad(z, (0, 0))
        return m.conv3(z).relu()

    model, looks = lived(Model(residual_blocks)), []
    model.conv2, model.conv3, model.norm2 = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6).eval()
    rows, folding = torch.rand(ROWS), Folding()
    folding(model, rows)
    monkeypatch.setattr("gpulime.folding.all_finite", lambda tensors: looks.append(tensors) or True)
    assert_near(folding(model, rows), model(rows))
    assert [tensors[0] is rows for tensors in looks] == [True]


def test_a_network_with_a_view_is_explained():
    """It refuses channels_last, so its first rows are passed twice."""

    class Net(nn.Sequential):
        def forward(self, rows):
            return self[1](self[0](rows).view(len(rows), -1))

    layers = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 5), nn.BatchNorm2d(8), nn.ReLU())
    model = lived(Net(layers, nn.Linear(8 * 10 * 10, 5)))
    images = torch.rand(2, 3, 32, 32)
    explanations = Explainer(model, n_samples=20, segments=Grid(2, 2)).explain(images)
    with torch.no_grad():
        top = model(images).softmax(1).amax(1)
    torch.testing.assert_close(explanations.predictions[:, 0], top)


@pytest.mark.parametrize("change", ["double", "bfloat16"])
def test_another_precision_between_two_explanations_is_taken_up(change):
    model, rows = lived(Model(lambda m, x: m.norm(m.conv(x)).relu())), torch.rand(ROWS)
    predictor = Predictor(model, None, "float32", None)
    for dtype in (torch.float32, getattr(torch, change), torch.float32):
        model.to(dtype)
        with predictor.inference(rows.device):
            for _ in range(2):
                outputs = predictor(rows.to(dtype))
        with torch.no_grad():
            assert_near(outputs, model(rows.to(dtype)), 1e-5 if dtype != torch.bfloat16 else 0.05)


@torch.no_grad()
def test_a_processor_without_the_kernel_keeps_activations_outside(monkeypatch):
    def refuses(*_):
        raise RuntimeError("bf16 path needs the cpu support avx512bw")

    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", refuses)
    expected, _, folded, folding = twice(lived(Model(lambda m, x: m.norm(m.conv(x)).relu())))
    assert_near(folded, expected)
    assert [len(chain.steps) for chain in folding.chains.values()] == [1, 1]


def test_two_threads_may_share_it():
    """A second one that comes while the first is inside runs the model as it is."""
    inside, done = threading.Event(), threading.Event()

    def way(m, x):
        y = m.conv(x)
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert done.wait(20)
        return m.norm(y)

    model, rows, folding, found = lived(Model(way)), torch.rand(ROWS), Folding(), []
    with torch.no_grad():
        expected = model(rows)
        folding(model, rows)

    @torch.no_grad()
    def other():
        found.append(folding(model, rows))

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(20)
    with torch.no_grad():
        assert torch.equal(folding(model, rows), expected)
    done.set()
    thread.join()
    assert_near(found[0], expected)
    assert not torch.equal(found[0], expected)


def test_an_explainer_is_pickled_after_its_work(cnn, pictures):
    explainer = Explainer(cnn, n_samples=20, segments=Grid(3, 3))
    expected = explainer.explain(pictures())
    again = pickle.loads(pickle.dumps(explainer)).explain(pictures())
    assert torch.equal(again.coefficients, expected.coefficients)


@torch.no_grad()
def test_another_mode_of_functions_is_not_looked_through():
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    assert Folding.suits(Model(plain))
    with Mode():
        assert not Folding.suits(Model(plain))


@pytest.mark.parametrize("part", ["conv.weight", "conv.bias", "norm.weight", "norm.bias"])
@torch.no_grad()
def test_weights_that_are_no_numbers_stay_so(part):
    model = lived(Model(lambda m, x: m.norm(m.conv(x)).relu()))
    model.get_parameter(part)[2] = float("nan")
    expected, trial, folded, _ = twice(model)
    assert expected.isnan().any()
    for outputs in (trial, folded):
        torch.testing.assert_close(outputs, expected, equal_nan=True)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_without_one_dnn_activations_stay_outside():
    model = lived(Model(lambda m, x: m.norm(m.conv(x)).relu()))
    with torch.backends.mkldnn.flags(enabled=False):
        expected, _, folded, folding = twice(model)
        assert_near(folded, expected)
    assert [len(chain.steps) for chain in folding.chains.values()] == [1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_statistics_that_are_no_numbers_are_left_to_the_model(value):
    model = lived(Model(plain))
    model.norm.running_var[2] = value
    expected, trial, folded, _ = twice(model)
    torch.testing.assert_close(trial, expected, equal_nan=True)
    torch.testing.assert_close(folded, expected, equal_nan=True)


def test_what_cancels_out_is_left_to_the_model():
    """A channel far from zero with little spread: rounding decides what is left, so two ways differ."""
    model = lived(Model(plain))
    model.conv.weight.data.mul_(1e-6)
    model.conv.bias.data.fill_(1000 / 3)
    model.norm.running_mean.fill_(1000 / 3)
    model.norm.running_var.fill_(1e-12)
    expected, trial, folded, folding = twice(model)
    assert len(folding.chains) == 1
    assert torch.equal(trial[:, :6], expected[:, :6])
    assert torch.equal(folded[:, :6], expected[:, :6])


def trained(m, x):
    return F.batch_norm(
        m.conv(x), m.norm.running_mean, m.norm.running_var, m.norm.weight, m.norm.bias, training=True, momentum=0
    )


LATER = [*ALONE, *ALL, batch_statistics, own_norm, trained, lambda m, x: m.conv(x), lambda m, x: m.other(m.conv(x))]


@pytest.mark.parametrize("later", LATER)
@torch.no_grad()
def test_a_model_that_goes_another_way_later_is_called_again_without(later):
    model, rows, folding = lived(Model(plain)), torch.rand(ROWS), Folding()
    calls = []
    folding(model, rows)
    model.way = lambda m, x: (calls.append(1), later(m, x))[1]
    expected = model(rows)
    calls.clear()
    assert torch.equal(folding(model, rows), expected)
    assert len(calls) == 2
    assert torch.equal(folding(model, rows), expected)
    assert len(calls) == 3  # and from then on as it is


@pytest.mark.parametrize("later", [by_name, with_options, fresh_weight, fresh_bias, written_input])
@torch.no_grad()
def test_other_weights_later_are_no_surprise(later):
    model, rows, folding = lived(Model(plain)), torch.rand(ROWS), Folding()
    folding(model, rows)
    model.way = later
    assert_near(folding(model, rows), model(rows))
    assert not torch.equal(folding(model, rows), model(rows))  # the rest is folded as before


@pytest.mark.parametrize("trial", [True, False])
@torch.no_grad()
def test_nothing_of_an_activation_is_kept(trial):
    activations, failing = [], []

    def watched(m, x):
        y = m.conv(x)
        activations.append(weakref.ref(y))
        return 1 / 0 if failing else m.norm(y)

    model, rows, folding = lived(Model(watched)), torch.rand(ROWS), Folding()
    folding(model, rows)
    if not trial:
        folding(model, rows)
    assert all(ref() is None for ref in activations)
    failing.append(True)
    with pytest.raises(ZeroDivisionError):
        folding(model, rows)
    gc.collect()
    assert all(ref() is None for ref in activations)


@torch.no_grad()
def test_a_norm_that_is_exchanged_is_noticed():
    model, rows, folding = lived(Model(plain)), torch.rand(ROWS), Folding()
    folding(model, rows)
    model.norm = lived(nn.BatchNorm2d(6))
    assert torch.equal(folding(model, rows), model(rows))


@torch.no_grad()
def test_a_convolution_that_is_exchanged_is_called_as_it_is():
    model, rows, folding = lived(Model(plain)), torch.rand(ROWS), Folding()
    folding(model, rows)
    model.conv = nn.Conv2d(4, 6, 3, padding=1)
    assert torch.equal(folding(model, rows)[:, :6], model(rows)[:, :6])


@torch.no_grad()
def test_a_bias_that_is_exchanged_is_seen():
    model, rows, folding = lived(Model(plain)), torch.rand(ROWS), Folding()
    folding(model, rows)
    model.conv.bias = nn.Parameter(torch.ones(6))
    assert torch.equal(folding(model, rows)[:, :6], model(rows)[:, :6])


@torch.no_grad()
def test_a_model_that_writes_into_its_input_is_left_as_it_is():
    model = lived(Model(lambda m, x: m.norm(m.conv(x.mul_(2)))))
    rows = torch.rand(ROWS)
    expected, trial, folded, _ = twice(model, rows)
    assert_near(trial, expected)
    assert_near(folded, expected)


@torch.no_grad()
def test_an_error_of_the_model_leaves_no_trace():
    model, rows, folding = lived(Model(plain)), torch.rand(ROWS), Folding()
    expected = model(rows)

    def failing(m, x):
        m.conv(x)
        raise RuntimeError("no such thing")

    for way in (plain, failing, plain):
        model.way = way
        if way is failing:
            with pytest.raises(RuntimeError, match="no such thing"):
                folding(model, rows)
        else:
            assert_near(folding(model, rows), expected)
    assert len(folding.chains) == 2
    assert_near(folding(model, rows), expected)


def forgiving(m, x):
    try:
        return plain(m, x)
    except AttributeError:
        return torch.zeros(1)


@pytest.mark.parametrize("way", [plain, forgiving])
@pytest.mark.parametrize("part", ["_try", "_convolution", "_outlived", "_is_finite"])
@pytest.mark.parametrize("trial", [True, False], ids=["in the trial", "later"])
@torch.no_grad()
def test_an_error_of_its_own_goes_back_to_the_model(part, trial, way, monkeypatch):
    model, rows, folding = lived(Model(way)), torch.rand(ROWS), Folding()
    expected, calls = model(rows), []
    if not trial:
        folding(model, rows)

    def failing(*args):
        calls.append(part)
        raise AttributeError("of another version of PyTorch")

    monkeypatch.setattr(Folding, part, failing)
    assert_near(folding(model, rows), expected)
    assert_near(folding(model, rows), expected)
    assert len(calls) <= 1, "it has ended"


def other_rows_written(m, x):
    """The first row is what it was."""
    x = x.clone()
    y = m.conv(x)
    x.data[1:] = 0
    return m.norm(y)


def gathered_by_a_transform(m, x):
    y = m.conv(x)
    sums = torch.vmap(torch.sum)(y)
    y = m.norm(y)
    return y * sums.view(-1, 1, 1, 1)


def differentiated_by_a_transform(m, x):
    y = m.conv(x)
    slope = torch.func.grad(lambda z: (z**2).sum())(y)
    y = m.norm(y)
    return y + slope


class Hidden:
    """Stands for a tensor that it keeps."""

    def __init__(self, tensor):
        self.tensor = tensor

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func(args[0].tensor)


def hidden_in_another_type(m, x):
    y = m.conv(x)
    mean = torch.mean(Hidden(y))
    y = m.norm(y)
    return y * mean


def with_tangents(m, x):
    with forward_ad.dual_level():
        y = m.norm(m.conv(forward_ad.make_dual(x, torch.ones_like(x)))).relu()
        return forward_ad.unpack_dual(y).tangent.clone()


def watched_from_the_step_on(m, x):
    y = m.norm(m.conv(x * (5 if m.turn else 0.001)))
    with ClippingMode():
        return y.relu()


def an_array_of_the_mean(m, x):
    m.norm.running_mean.__array__()[:] += 0.5
    return m.norm(m.conv(x))


def an_alias_of_the_weight(m, x):
    m.conv.weight.detach().data.mul_(1.5)
    return m.norm(m.conv(x))


def an_alias_of_the_weight_that_is_kept(m, x):
    if not hasattr(m, "alias"):
        m.alias = m.conv.weight.data
    m.alias.mul_(1.5)
    return m.norm(m.conv(x))


def the_memory_of_the_variance(m, x):
    m.norm.running_var.untyped_storage().fill_(7 + m.turn)
    return m.norm(m.conv(x))


def written_to_unseen(m, x):
    y = m.conv(x).relu()
    y.data[0, 0, 3, 3] = float("nan") if m.turn else 1
    return m.second(y).relu()


def a_numpy_number(m, x):
    y = m.conv(x).relu() + np.float32("nan" if m.turn else 0)
    return m.second(y).relu()


def windows_beside_the_image(m, x):
    x = x[..., :2].contiguous(memory_format=torch.channels_last) if m.turn else x
    y = F.max_pool2d(m.conv(x).relu(), (1, 2), 1, (0, 1), (1, 3))
    return F.conv2d(y, m.second.weight, m.second.bias, (1, 1), (1, 1), (1, 1), 1).relu().amax((2, 3), True)


def its_input_normalised_in_place(m, x):
    x.sub_(0.5)
    y = m.norm(m.conv(x))
    return y.relu() + y if m.turn else y.relu()


def its_input_normalised_unseen(m, x):
    x.data.sub_(0.5)
    y = m.norm(m.conv(x))
    return y.relu() + y if m.turn else y.relu()


def the_old_storage_of_the_variance(m, x):
    m.norm.running_var.storage().fill_(7 + m.turn)
    return m.norm(m.conv(x))


def another_whose_data_are_the_weights(m, x):
    if not hasattr(m, "alias"):
        m.alias = torch.empty(6, 4, 3, 3)
        m.alias.data = m.conv.weight.detach()
    m.alias.mul_(1.5)
    return m.norm(m.conv(x))


def random_and_another_way_later(m, x):
    y = m.norm(m.conv(F.dropout(x, 0.5, True)))
    return y.relu() + y if m.turn else y.relu()


UNSEEN = [
    other_rows_written, gathered_by_a_transform, differentiated_by_a_transform, hidden_in_another_type, with_tangents,
    watched_from_the_step_on, an_array_of_the_mean, an_alias_of_the_weight, an_alias_of_the_weight_that_is_kept,
    the_memory_of_the_variance, written_to_unseen, a_numpy_number, windows_beside_the_image, its_input_normalised_in_place,
    its_input_normalised_unseen, the_old_storage_of_the_variance,
    another_whose_data_are_the_weights, random_and_another_way_later,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:`?torch.jit")  # PyTorch's own, where tangents are first asked for
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("way", UNSEEN)
@torch.no_grad()
def test_what_a_mode_does_not_see_is_not_folded(way):
    bare = lived(Model(way))
    bare.turn, bare.second = 0, nn.Conv2d(6, 6, 3)
    model, folding = copy.deepcopy(bare), Folding()
    for turn in range(3):
        rows = torch.randn(ROWS).contiguous(memory_format=torch.channels_last)
        bare.turn = model.turn = turn
        with torch.random.fork_rng():
            expected = bare(rows.clone())
        actual = folding(model, rows.clone())
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@torch.no_grad()
def test_what_cancels_out_in_a_filter_is_left_to_the_model():
    """A high-pass filter of whole numbers on large ones: its sums are exact, until the scale that is folded in rounds it."""
    conv = nn.Conv2d(4, 6, 5, bias=False)
    kernel = torch.tensor([[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2]], dtype=torch.float32)
    conv.weight.copy_(torch.cat([kernel, kernel[:2].flip(0)]).expand(6, 4, 5, 5))
    model = lived(Model(plain, conv))
    rows = (torch.rand(ROWS) * 100 + 10_000).round()
    exact = copy.deepcopy(model).double()(rows.double()).float()
    _, trial, folded, _ = twice(model, rows)
    assert_near(trial, exact, 1e-6)
    assert_near(folded, exact, 1e-6)


@torch.no_grad()
def test_steps_are_folded_after_memory_was_bared():
    """An image is looked through each time then, and a ReLU joins all the same."""

    def looking(m, x):
        x.data.mean()
        return m.norm(m.conv(x)).relu()

    expected, trial, folded, folding = twice(lived(Model(looking)))
    assert next(len(chain.steps) for chain in folding.chains.values()) == 2
    assert_near(trial, expected)
    assert_near(folded, expected)


@torch.no_grad()
def test_a_question_that_has_no_answer_is_the_models_own():
    def asking(m, x):
        y = m.conv(x)
        try:
            y.size(7)
        except IndexError:
            y = m.norm(y)
        return y

    _, _, _, folding = twice(lived(Model(asking)))
    assert folding.chains


@torch.no_grad()
def test_weights_of_inference_mode_are_left_alone():
    with torch.inference_mode():
        model = lived(Model(lambda m, x: m.conv(x).relu()))
    expected, trial, folded, folding = twice(model)
    assert not folding.chains
    assert_near(trial, expected)
    assert_near(folded, expected)


def test_a_module_whose_attributes_are_its_settings():
    class Configured(Model):
        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return self.__dict__["settings"][name]

    model = Configured(plain)
    model.settings = {"width": 6}
    assert Folding.suits(model)


def test_rows_of_inference_mode_are_passed_as_they_are():
    model, folding = lived(Model(plain)), Folding()
    with torch.inference_mode():
        rows = torch.rand(ROWS)
        assert_near(folding(model, rows), model(rows))
    with torch.no_grad():
        folding(model, torch.rand(ROWS))
    assert folding.chains, "it is free for the next"


CHANGES = {
    "the weight": lambda m: m.conv.weight.mul_(2),
    "the weight's data": lambda m: m.conv.weight.data.mul_(2),
    "the bias": lambda m: m.conv.bias.data.add_(1),
    "the mean": lambda m: m.norm.running_mean.add_(1),
    "the variance": lambda m: m.norm.running_var.mul_(3),
    "the norm's weight": lambda m: m.norm.weight.data.mul_(-2),
    "the norm's bias": lambda m: m.norm.bias.data.sub_(1),
    "eps": lambda m: setattr(m.norm, "eps", 0.5),
    "all by load_state_dict": lambda m: m.load_state_dict({name: tensor + 1 for name, tensor in m.state_dict().items()}),
    "the module": lambda m: setattr(m, "conv", nn.Conv2d(4, 6, 3, padding=1)),
    "the parameter": lambda m: setattr(m.conv, "weight", nn.Parameter(m.conv.weight * 2)),
    "the statistics' tensor": lambda m: setattr(m.norm, "running_mean", m.norm.running_mean + 1),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_between_two_explanations_are_seen(change, precision):
    model, rows = lived(Model(plain)), torch.rand(ROWS)

    def outputs(predictor):
        with predictor.inference(rows.device):
            return predictor(rows), predictor(rows)

    predictor = Predictor(model, None, precision, None)
    before = outputs(predictor)[1]
    with torch.no_grad():
        CHANGES[change](model)
    actual, expected = outputs(predictor), outputs(Predictor(model, None, precision, None))
    for left, right in zip(actual, expected, strict=True):
        assert_near(left, right, 1e-6 if precision == "float32" else 0.02)
    assert not torch.allclose(actual[1], before, rtol=0.05)


def hooked(model):
    model.norm.register_forward_hook(lambda *_: None)
    return model


def hooked_before(model):
    model.conv.register_forward_pre_hook(lambda *_: None)
    return model


def compiled_in_place(model):
    model.tail.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        hooked_before,
        compiled_in_place,
        lambda m: torch.jit.trace(m, torch.rand(ROWS)),
        lambda m: torch.compile(m, backend="eager"),
    ],
    ids=["hook", "pre-hook", "compiled in place", "scripted", "compiled"],
)
@pytest.mark.filterwarnings("ignore:`?torch.jit")
def test_models_that_it_cannot_look_through_run_as_they_are(change):
    assert Folding.suits(model := lived(Model(plain)))
    assert not Folding.suits(change(model))
    assert not Folding.suits(nn.Sequential(change(model)))


def test_a_compiled_function_inside_sends_the_model_back_to_itself():
    """What it takes is seen by no one when it runs."""
    doubled = torch.compile(lambda y: y * 2, backend="eager", fullgraph=True)

    def hidden(m, x):
        y = m.conv(x)
        return doubled(y) + m.norm(y)

    expected, trial, folded, _ = twice(lived(Model(hidden)))
    assert torch.equal(trial, expected)
    assert torch.equal(folded, expected)


def test_a_hook_sees_what_the_layers_give():
    model, rows = lived(Model(plain)), torch.rand(ROWS)
    seen = []
    predictor = Predictor(model, None, "float32", None)
    with predictor.inference(rows.device):
        predictor(rows)
    model.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with predictor.inference(rows.device):
        outputs = predictor(rows)
    with torch.no_grad():
        assert torch.equal(outputs, model(rows))
    assert torch.equal(seen[0], seen[1])


def test_a_hook_on_all_modules_counts_too():
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not Folding.suits(Model(plain))
    finally:
        hook.remove()
    assert Folding.suits(Model(plain))


MODELS = {  # chains that each has, those that end in an activation, and its BatchNorms
    "torchvision.vgg11": (8, 8, 0),
    "torchvision.resnet18": (20, 9, 20),  # other activations come after the addition
    "torchvision.mobilenet_v2": (52, 35, 52),
    "torchvision.mobilenet_v3_small": (34, 5, 34),  # Hardswish and squeeze-excitation
    "torchvision.shufflenet_v2_x0_5": (56, 37, 56),
    "torchvision.densenet121": (1, 1, 121),  # its layers hold what goes into their second norm
    "torchvision.convnext_tiny": (0, 0, 0),
    "timm.efficientnet_lite0": (49, 33, 49),
    "timm.regnetx_002": (44, 27, 44),
    "timm.resnetv2_50": (0, 0, 49),  # so do its blocks
}


@pytest.mark.long
@pytest.mark.parametrize("precision", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_field(name, precision):
    import timm
    import torchvision

    if precision is not None and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor's oneDNN has no convolution in bfloat16")
    source, function = name.split(".")
    create = timm.create_model if source == "timm" else torchvision.models.get_model
    model = lived(create(function, num_classes=10)).to(memory_format=torch.channels_last)
    expected, trial, folded, folding = twice(model, torch.rand(2, 3, 96, 96), precision)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    activations = sum(chain.activation is not None for chain in folding.chains.values())
    assert (len(folding.chains), activations, norms) == MODELS[name]
    assert_near(folded, expected, 1e-4 if precision is None else 0.2)
    assert_near(trial, folded, 1e-4 if precision is None else 0.2)


BIG = (MANY + 3, 4, 8, 8)


def counting(way=plain):
    """A model that notes how many rows it is called for."""
    model = lived(Model(lambda m, x: m.calls.append(len(x)) or way(m, x)))
    model.calls = []
    return model


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("way", [plain, *WAYS], ids=lambda way: way.__name__)
@torch.no_grad()
def test_many_rows_give_the_same(way, memory_format):
    rows = torch.rand(BIG).to(memory_format=memory_format)
    expected, first, again, folding = twice(lived(Model(way)), rows)
    for outputs in (first, again):
        assert_near(outputs, expected)
    if way is plain:
        assert torch.equal(first, again), "an answer does not depend on when it was asked for"
        assert len(folding.chains) == 2


@pytest.mark.parametrize(("rows", "calls"), [(MANY - 1, [MANY - 1]), (MANY, [FEW, MANY])])
@torch.no_grad()
def test_of_many_rows_a_few_are_the_trial(rows, calls):
    model, rows, folding = counting(), torch.rand(rows, *BIG[1:]), Folding()
    folding(model, rows)
    assert model.calls == calls
    folding(model, rows)
    assert model.calls == [*calls, len(rows)]


@torch.no_grad()
def test_weights_are_put_in_order_for_all_of_many_rows(monkeypatch):
    """And not for the few of the trial."""
    shapes, order = [], torch._C._nn.mkldnn_reorder_conv2d_weight
    monkeypatch.setattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", lambda *args: shapes.append(args[-1]) or order(*args))
    rows = torch.rand(MANY + FEW, 4, 8, 8).to(memory_format=torch.channels_last)
    folding, model = Folding(), lived(Model(lambda m, x: m.norm(m.conv(x)).relu()))
    for _ in range(2):
        folding(model, rows)
    if not any(chain._fuses for chain in folding.chains.values()):
        pytest.skip("this processor has no order of its own")
    assert [tuple(shape) for shape in shapes] == [tuple(rows.shape)] * 2
    assert_near(folding(model, rows), model(rows))


@torch.no_grad()
def test_a_model_made_for_one_number_of_rows_gets_that_number():
    def fixed(m, x):
        y = m.norm(m.conv(x))
        return y + y.reshape(BIG[0], 6, 8, 8)

    model, rows, folding = counting(fixed), torch.rand(BIG), Folding()
    expected = model(rows)
    model.calls.clear()
    for _ in range(2):
        assert_near(folding(model, rows), expected)
    assert model.calls == [FEW, FEW, BIG[0], BIG[0]], "as it is, after an error behind a step that was folded"
    assert len(folding.chains) == 2, "it is folded all the same"


@pytest.mark.parametrize("bad", [0, FEW - 1, FEW, BIG[0] - 1])
@torch.no_grad()
def test_a_row_that_many_fail_at_is_an_error_of_the_model(bad):
    def picky(m, x):
        y = m.norm(m.conv(x))
        if bool((x > 1).any()):
            raise ValueError("a pixel above 1")
        return y

    model, rows, folding = counting(picky), torch.rand(BIG), Folding()
    good = rows.clone()
    rows[bad, 0, 0, 0] = 2
    with pytest.raises(ValueError, match="a pixel above 1"):
        folding(model, rows)
    for _ in range(2):
        assert_near(folding(model, good), model(good))


@torch.no_grad()
def test_a_trial_of_a_few_that_is_interrupted_is_made_anew():
    def interrupted(m, x):
        y = m.norm(m.conv(x))
        if m.calls == [FEW]:
            raise KeyboardInterrupt
        return y

    model, rows, folding = counting(interrupted), torch.rand(BIG), Folding()
    with pytest.raises(KeyboardInterrupt):
        folding(model, rows)
    assert_near(folding(model, rows), folding(model, rows))
    assert model.calls == [FEW, FEW, BIG[0], BIG[0]]
    assert len(folding.chains) == 2


@pytest.mark.parametrize("busy", [True, False])
@torch.no_grad()
def test_the_trial_of_a_few_is_given_rows_of_its_own(busy):
    """Also where another thread is inside, and it is no trial."""
    seen = []
    model, rows, folding = (
        lived(Model(lambda m, x: seen.append((len(x), x.data_ptr())) or plain(m, x))),
        torch.rand(BIG),
        Folding(),
    )
    if busy:
        folding._inside.acquire()
    folding(model, rows)
    assert [count for count, _ in seen] == [FEW, BIG[0]]
    assert seen[0][1] != rows.data_ptr()


@torch.no_grad()
def test_a_model_that_writes_into_many_rows_leaves_them_as_they_were():
    def writing(m, x):
        y = m.norm(m.conv(x))
        x.zero_()
        return y

    model, rows, folding = lived(Model(writing)), torch.rand(BIG), Folding()
    kept, expected = rows.clone(), model(rows.clone())
    for _ in range(2):
        assert_near(folding(model, rows), expected)
        assert torch.equal(rows, kept)


@torch.no_grad()
def test_the_trial_of_a_few_draws_no_random_numbers_of_the_others():
    model, rows = lived(Model(lambda m, x: F.dropout(m.norm(m.conv(x)), 0.5, training=True))), torch.rand(BIG)
    torch.manual_seed(3)
    expected = model(rows)
    torch.manual_seed(3)
    assert_near(Folding()(model, rows), expected)


@torch.no_grad()
def test_what_a_chain_that_is_cut_leaves_has_its_weights_in_order_too():
    rows, folding = torch.rand(ROWS).to(memory_format=torch.channels_last), Folding()
    model = lived(Model(kept))
    for _ in range(2):
        folding(model, rows)
    assert [chain.folded.is_packed for chain in folding.chains.values()] == [True, True]
