"""Calls of the model: unmodified, in eval mode, with as many rows as fit, and its state restored."""

from __future__ import annotations

import copy
import io
import sys
import threading
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from gpulime import Explainer
from gpulime.engine.flight import Flight
from gpulime.engine.model import Predictor
from gpulime.errors import GpulimeError
from gpulime.images.masked_images import MaskedImages
from gpulime.segments import Grid

MODES = {
    "train": lambda model: model.train(),
    "eval": lambda model: model.eval(),
    "a frozen part": lambda model: model.train()[1].eval(),
    "training parts": lambda model: model.eval()[1:4].train(),
}


class Extra(nn.Module):
    """A layer that returns its input and has a side effect."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, rows):
        self.what()
        return rows


def explain(model, images, **settings):
    explainer = Explainer(model, **{"n_samples": 20, "segments": Grid(3, 3), "batch_size": 16} | settings)
    return explainer.explain(images)


def assert_near(actual, expected, tolerance=1e-5):
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def state(model):
    """Everything that an explanation must leave unchanged."""
    return {
        "flags": [module.training for module in model.modules()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "strides": [tensor.stride() for tensor in model.state_dict().values()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "random": torch.get_rng_state(),
        "modes": [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        "autocast": [torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")],
        "hooks": [list(module._forward_pre_hooks) for module in model.modules()],
    }


def assert_same_state(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if name == "tensors":
            assert all(torch.equal(actual[name][key], tensor) for key, tensor in value.items())
        elif name == "random":
            assert torch.equal(actual[name], value)
        else:
            assert actual[name] == value, name


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_everything_stays_as_it_was(mode, precision, autocast, cnn, pictures):
    expected = explain(cnn, pictures(), precision=precision)
    MODES[mode](cnn.append(Extra(lambda: torch.rand(1))))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = state(cnn)
        explanations = explain(cnn, pictures(), precision=precision)
        assert_same_state(state(cnn), before)
    assert torch.equal(explanations.coefficients, expected.coefficients)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", [1, 2])
def test_everything_stays_as_it_was_when_the_model_fails(call, mode, cnn, pictures, calls):
    def fail():
        torch.rand(1)
        if len(calls) >= call:
            raise RuntimeError("no such thing")

    MODES[mode](cnn.append(Extra(fail)))
    before = state(cnn)
    with pytest.raises(RuntimeError, match="no such thing"):
        explain(cnn, pictures())
    assert_same_state(state(cnn), before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_around_it_has_the_same_gradients(precision, cnn, pictures):
    """Autocast caches cast weights; weights cast without gradients must not be used by the training step."""

    def gradients(explained):
        model = copy.deepcopy(cnn).train()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            if explained:
                explain(model, pictures(), precision=precision)
            loss = model(pictures()).float().square().mean()
        loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    actual, expected = gradients(True), gradients(False)
    assert all(gradient.any() for gradient in expected)
    assert all(torch.equal(left, right) for left, right in zip(actual, expected, strict=True))


@pytest.mark.parametrize("fill", ["mean", "blur"])
@pytest.mark.parametrize(
    "context",
    [lambda: torch.autocast("cpu", torch.bfloat16), torch.no_grad, torch.inference_mode, torch.enable_grad],
    ids=["autocast", "no_grad", "inference_mode", "enable_grad"],
)
def test_the_callers_context_changes_nothing(context, fill, cnn, pictures):
    expected = explain(cnn, pictures(), fill=fill, mean=0.4, std=0.3)
    with context():
        actual = explain(cnn, pictures(), fill=fill, mean=0.4, std=0.3)
    assert torch.equal(actual.coefficients, expected.coefficients)
    assert not actual.coefficients.requires_grad


@pytest.mark.parametrize("settings", [{}, {"quality": "fast"}, {"quality": "fast", "link": "identity"}])
def test_the_models_precision_is_not_that_of_the_fit(settings, pictures):
    def model(images):  # its outputs are the same in both precisions
        return (9 * (images[:, 0, ::4] != 0).float().mean(2)).softmax(-1)

    settings = {"n_samples": 257, "segments": Grid(4, 4), "fill": 0, "activation": None, **settings}
    found, expected = (explain(model, pictures(), precision=precision, **settings) for precision in ("bfloat16", "float32"))
    for name in ("coefficients", "standard_errors", "scores"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_new_weights_are_seen(cnn, pictures):
    explainer = Explainer(cnn, n_samples=20, segments=Grid(3, 3), batch_size=16, precision="bfloat16")
    explainer.explain(pictures())
    with torch.no_grad():
        cnn[-1].weight.neg_()
    torch.testing.assert_close(
        explainer.explain(pictures()).coefficients, explain(cnn, pictures(), precision="bfloat16").coefficients
    )


@pytest.mark.parametrize("change", ["double", "bfloat16"])
def test_another_dtype_between_two_explanations_is_taken_up(change, cnn, pictures):
    explainer, images = Explainer(cnn, 20, Grid(3, 3), activation=None), pictures()
    for dtype in (torch.float32, getattr(torch, change), torch.float32):
        cnn.to(dtype)
        found = explainer.explain(images)
        with torch.no_grad():
            expected = cnn(images.to(dtype)).float().gather(1, found.labels)
        assert_near(found.predictions, expected, 0.05 if dtype == torch.bfloat16 else 1e-5)


def test_a_model_in_inference_mode_of_its_own_is_explained(cnn, pictures):
    """Inference tensors have no version counters, which show changes."""
    expected = explain(cnn, pictures())
    cnn.forward = torch.inference_mode()(cnn.forward)
    assert_near(explain(cnn, pictures()).coefficients, expected.coefficients)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
@pytest.mark.parametrize("b", [7, 16, 60])
@pytest.mark.usefixtures("counted")
def test_a_model_out_of_memory_gets_fewer_rows_and_gives_the_same_answer(error, b, cnn, pictures):
    refused, passed = [], []

    def starved(rows):
        if len(rows) > 5:
            refused.append(len(rows))
            raise error("can't allocate memory")
        passed.append(len(rows))
        return cnn(rows)

    expected = explain(cnn, pictures(3), batch_size=b)
    with pytest.warns(UserWarning, match=f"out of memory with {b} rows: going on with fewer") as said:
        actual = explain(starved, pictures(3), batch_size=b)
    assert len(said) == 1
    assert_near(actual.coefficients, expected.coefficients)
    assert refused == [size for size in (b, b // 2, b // 4, b // 8) if size > 5]  # each size is tried once
    assert sum(passed) == 3 * 20  # all rows, each once


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_no_memory_for_one_row_is_an_error(error, pictures):
    def starved(rows):
        raise error(f"no memory for {len(rows)}")

    with pytest.raises(error, match="no memory for 1"):
        explain(starved, pictures())


class Flat(nn.Module):
    """A model with a ``view`` that refuses channels_last; it may write into its input."""

    def __init__(self, in_place=False):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 22 * 18, 5)
        self.in_place, self.formats = in_place, []

    def forward(self, x):
        self.formats.append(x.is_contiguous())
        x = self.conv(x.sub_(0.5) if self.in_place else x - 0.5).relu()
        return self.linear(x.view(x.size(0), -1))


def test_channels_last_is_used_where_the_model_takes_it(cnn, calls, pictures):
    explain(cnn, pictures())
    assert all(rows.is_contiguous(memory_format=torch.channels_last) for rows in calls)
    hostile = Flat()
    actual = explain(hostile, pictures())
    assert hostile.formats == [False] + [True] * 5  # a refusal, then 4 * 20 rows in fives
    assert_near(actual.coefficients, explain(lambda rows: hostile(rows.contiguous()), pictures()).coefficients, 1e-4)


def test_a_model_that_writes_into_its_input_gives_the_same_answer_or_none(pictures):
    """Rows that a failed call has written into must not be passed again."""

    def model(in_place):
        torch.manual_seed(1)
        return Flat(in_place)

    expected = explain(model(False), pictures())
    actual = explain(model(True), pictures())  # its first call fails, in channels_last
    assert_near(actual.predictions, expected.predictions)
    assert_near(actual.coefficients, expected.coefficients, 1e-4)

    def starved(rows):
        rows.sub_(0.5)
        raise MemoryError

    with pytest.raises(GpulimeError, match="the model writes into its input"):
        explain(starved, pictures())


def test_a_model_may_return_the_same_memory_again(cnn, pictures):
    """As compiled models that replay a CUDA graph do."""
    memory = torch.empty(2, 7)

    def model(rows):
        return memory[: len(rows)].copy_(cnn(rows))

    expected = explain(cnn, pictures(5), batch_size=2, activation=None)
    actual = explain(model, pictures(5), batch_size=2, activation=None)
    assert torch.equal(actual.labels, expected.labels)
    assert_near(actual.predictions, expected.predictions)
    assert_near(actual.coefficients, expected.coefficients)


@pytest.mark.parametrize(
    ("model_dtype", "precision", "seen"),
    [
        (torch.float32, "float32", torch.float32),
        (torch.float64, "float32", torch.float64),
        (torch.bfloat16, "float32", torch.bfloat16),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.float32, "float16", torch.float16),
    ],
)
def test_the_input_has_the_models_dtype_or_the_asked_precision(model_dtype, precision, seen, cnn, calls, pictures):
    expected = explain(cnn, pictures())
    calls.clear()
    explanations = explain(cnn.to(model_dtype), pictures(), precision=precision)
    assert {rows.dtype for rows in calls} == {seen}
    assert explanations.predictions.dtype == (torch.float64 if seen == torch.float64 else torch.float32)
    assert explanations.coefficients.dtype == torch.float64
    assert_near(explanations.coefficients, expected.coefficients, 0.2 if seen.itemsize == 2 else 1e-5)


LOGITS = torch.tensor([[1.0, 3.0, 2.0]])


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("softmax", LOGITS.softmax(1)),
        ("sigmoid", LOGITS.sigmoid()),
        (None, LOGITS),
        (lambda outputs: outputs**2, LOGITS**2),
    ],
    ids=["softmax", "sigmoid", "None", "callable"],
)
def test_activations(activation, expected, pictures):
    explanations = explain(lambda rows: LOGITS.expand(len(rows), 3), pictures(1), activation=activation)
    assert explanations.labels.tolist() == [[1, 2, 0]]
    torch.testing.assert_close(explanations.predictions, expected[:, [1, 2, 0]])


def test_a_softmax_of_probabilities_warns_once(cnn, pictures, recwarn):
    probabilities = nn.Sequential(cnn, nn.Softmax(1))
    for model, activation in [(cnn, "softmax"), (probabilities, None), (probabilities, "sigmoid")]:
        explain(model, pictures(), activation=activation)
    assert not recwarn.list
    explainer = Explainer(probabilities, n_samples=20, segments=Grid(3, 3), batch_size=16)
    explainer.explain(pictures())
    explainer.explain(pictures())
    (message,) = (str(warning.message) for warning in recwarn)
    assert "outputs already sum to one" in message
    assert "pass activation=None" in message


@pytest.mark.parametrize(("has", "precision", "said"), [(False, "bfloat16", 1), (False, "float32", 0), (None, "bfloat16", 0)])
def test_bfloat16_on_a_cpu_without_it_warns_once(has, precision, said, monkeypatch, cnn, pictures):
    monkeypatch.setattr("gpulime.device.cpu_bfloat16", lambda: has)
    explainer = Explainer(cnn, n_samples=20, segments=Grid(3, 3), batch_size=16, precision=precision)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            explainer.explain(pictures())
    messages = [str(warning.message) for warning in warned]
    assert [message.partition(":")[0] for message in messages] == ["this CPU has no instructions for bfloat16"] * said
    assert all("gpulime bench measures it" in message for message in messages)


TABLE = [[0.0, 1.0, 2.0]]


class Row(SimpleNamespace):
    """A model's output with names."""


class Logits(NamedTuple):
    """As torchvision's Inception gives it in training mode."""

    logits: torch.Tensor
    aux_logits: torch.Tensor


def table(x, classes=3):
    return torch.tensor(TABLE)[:, :classes].expand(len(x), classes) + x.mean((1, 2, 3))[:, None]


@pytest.mark.parametrize(
    "output",
    [
        lambda x: Row(logits=table(x), loss=None),
        lambda x: Row(loss=x.sum(), logits_per_image=table(x)),
        lambda x: OrderedDict(loss=x.sum(), logits=table(x)),
        lambda x: {"out": table(x), "aux": table(x)},
        lambda x: {"predictions": table(x), "features": x},
        lambda x: Logits(table(x), table(x)),
        lambda x: (table(x),),
        lambda x: [table(x), (x, x), None],
        lambda x: table(x).bfloat16(),
        lambda x: table(x).squeeze(),
        lambda x: table(x).requires_grad_(),
    ],
)
@pytest.mark.parametrize("b", [7, 20])
def test_where_an_output_has_its_classes(output, b, pictures):
    expected = explain(table, pictures(2), activation=None, batch_size=b)
    actual = explain(output, pictures(2), activation=None, batch_size=b)
    assert actual.labels.tolist() == [[2, 1, 0]] * 2
    assert not actual.predictions.requires_grad
    assert_near(actual.predictions, expected.predictions, 1e-2)


@pytest.mark.parametrize("activation", [None, "sigmoid", lambda outputs: outputs[:, 0]])
@pytest.mark.parametrize("squeezed", [lambda x: x.mean((1, 2, 3)), lambda x: x.mean((1, 2, 3))[:, None].squeeze()])
def test_a_number_per_image_is_one_column(squeezed, activation, pictures):
    """The last batch has one row."""
    expected = explain(lambda x: x.mean((1, 2, 3))[:, None], pictures(1), activation=activation, batch_size=19)
    actual = explain(squeezed, pictures(1), activation=activation, batch_size=19)
    assert actual.coefficients.shape == (1, 1, 9)
    assert torch.equal(actual.coefficients, expected.coefficients)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda x: {"a": x, "b": x},
            r"dict of 'a' \(16, .*, 'b' .*: wrap .* returns model\(x\)\[key\] with one of \['a', 'b'\]",
        ),
        (lambda x: Row(logits=x), r"got \(16, 3, 24, 20\): of a map per class, .* returns maps.mean\(\(2, 3\)\)"),
        (lambda x: (table(x), table(x)), r"got tuple of \(16, 3\), \(16, 3\): .* returns model\(x\)\[i\], with the i of"),
        (
            lambda x: [{"boxes": x, "labels": x, "scores": x}] * len(x),
            r"got list of dict, .*one\['scores'\]\[one\['labels'\] == c\]",
        ),
        (lambda x: Row(logits=x[:, :, 0], pred_boxes=x), r"got \(16, 3, 20\): this model finds objects: .*'scores'"),
        (lambda x: x.mean((2, 3)).numpy(), r"got ndarray \(16, 3\): .*gpulime.lime_image.LimeImageExplainer\(\)"),
        (lambda x: None, "got NoneType: wrap it in an nn.Module whose forward returns one"),
        (lambda x: x.mean((2, 3))[1:], r"the model must return \(b, classes\) or \(b,\) with b = 16; got \(15, 3\)"),
        (lambda x: x, r"with b = 16; got \(16, 3, 24, 20\): .* returns maps.mean\(\(2, 3\)\)"),
        (lambda x: x.mean((2, 3))[:, :0], r"with b = 16; got \(16, 0\)"),
        (lambda x: x.mean((2, 3)).long(), "the model must return a floating tensor; got torch.int64"),
        (lambda x: x.mean((1, 2, 3))[:, None], "returns one column, .* use activation='sigmoid'"),
        (lambda x: x.mean((1, 2, 3)), "returns one column, .* use activation='sigmoid'"),
        (lambda x: sys.exit(0), r"the model called sys.exit\(0\)"),
    ],
)
def test_what_a_model_must_return(model, message, pictures):
    with pytest.raises(GpulimeError, match=message) as refused:
        explain(model, pictures())
    assert "\n" not in str(refused.value)


def test_what_an_activation_must_return(cnn, pictures):
    with pytest.raises(GpulimeError, match=r"the activation must return \(b, classes\) or \(b,\) with b = 16; got \(7,\)"):
        explain(cnn, pictures(), activation=lambda outputs: outputs[0])


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("resnet18", {}, "model must be an nn.Module or a callable .* got str"),
        (
            type("Model", (), {"__module__": "keras.src", "__call__": None})(),
            {},
            r"keras.src.Model: .* Keras model's predict, with",
        ),
        (SimpleNamespace(predict=None), {}, r"model is a types.SimpleNamespace: .*explain_instance\(image, model.predict\)"),
        (
            nn.Linear(1, 1, device="meta"),
            {"device": "cpu"},
            r"the model is on meta and device='cpu' was asked for; move it with model.to\('cpu'\)",
        ),
        (nn.Linear(1, 1), {"device": "mps"}, "device must be 'cpu', 'cuda' or 'cuda:N'; got 'mps'"),
        (nn.Linear(1, 1, device="meta"), {}, "gpulime works on 'cpu' and 'cuda'; got 'meta'"),
    ],
)
def test_models_that_cannot_be_called(model, settings, message, pictures):
    with pytest.raises(GpulimeError, match=message):
        explain(model, pictures(), **settings)


def test_work_is_done_where_the_model_is(device, cnn, pictures):
    expected = explain(cnn, pictures())
    explanations = explain(cnn.to(device), pictures())
    assert explanations.coefficients.device.type == device.type
    assert Predictor(cnn, None, "float32", None).device(pictures()).type == device.type
    assert_near(explanations.cpu().coefficients, expected.coefficients, 1e-4)


@pytest.mark.parametrize(
    ("name", "message"), [("gpu", "device must be 'cpu', 'cuda' or 'cuda:N'; got 'gpu'"), ("cuda:99", "sees [0-9]+ GPUs")]
)
def test_a_device_that_is_not_there_is_named(name, message, cnn):
    with pytest.raises(GpulimeError, match=message):
        Explainer(cnn, device=name)


def test_no_memory_to_compose_rows_is_survived_too(monkeypatch, cnn, pictures):
    expected, rows = explain(cnn, pictures(3)), Flight.rows

    def starved(self, start, stop):
        if stop - start > 5:
            raise torch.OutOfMemoryError("no memory")
        return rows(self, start, stop)

    monkeypatch.setattr(Flight, "rows", starved)
    with pytest.warns(UserWarning, match="out of memory with 16 rows: going on with fewer"):
        actual = explain(cnn, pictures(3))
    assert_near(actual.coefficients, expected.coefficients)


def test_no_memory_to_draw_masks_is_survived_too(monkeypatch, cnn, pictures):
    expected, draw = explain(cnn, pictures(10), n_samples=100), MaskedImages.draw

    def starved(self, sampler, index, samples):
        if index.numel() > 150:
            raise torch.OutOfMemoryError("no memory")
        return draw(self, sampler, index, samples)

    monkeypatch.setattr(MaskedImages, "draw", starved)
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 1000})
    monkeypatch.setattr("gpulime.engine.fit.MASK_ENTRIES", {"cpu": 2**9})
    with pytest.warns(UserWarning, match="out of memory with 16 rows: going on with fewer"):
        actual = explain(cnn, pictures(10), n_samples=100)
    assert_near(actual.coefficients, expected.coefficients)


def test_an_error_of_the_model_itself_is_not_tried_again(pictures):
    calls = []

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            calls.append(len(x))
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        explain(Broken(), pictures())
    assert calls == [16]


def test_a_double_model_is_explained_in_double(pictures):
    """Differences of 1e-6 beside 1000 survive in float64, but not in float32."""
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        linear[2].weight.mul_(1e-6)
        linear[2].bias.fill_(1000)
    explanations = explain(linear, pictures().double(), activation=None, fill=0.0)
    assert explanations.predictions.dtype == torch.float64
    with torch.no_grad():
        linear[2].weight.mul_(1e6)
        linear[2].bias.fill_(0)
    expected = explain(linear, pictures().double(), activation=None, fill=0.0)
    assert_near(explanations.coefficients * 1e6, expected.coefficients)


def test_new_weights_are_seen_inside_the_callers_autocast(cnn, pictures):
    """A training step under autocast leaves the old weights in its cache."""
    explainer = Explainer(cnn, 80, segments="grid", precision="bfloat16")
    images = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        cnn(images)
        with torch.no_grad():
            cnn[-1].weight.neg_()
        inside = explainer.explain(images)
    torch.testing.assert_close(inside.predictions, explainer.explain(images).predictions)


@pytest.mark.parametrize("sampler", ["blocks", "antithetic", "bernoulli", "lime"])
def test_masks_are_the_same_inside_the_callers_autocast(sampler, cnn, pictures):
    settings = {"n_samples": 257, "sampler": sampler, "estimator": "wls", "segments": Grid(4, 5)}
    expected = explain(cnn, pictures(), **settings)
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(cnn, pictures(), **settings)
    assert torch.equal(found.coefficients, expected.coefficients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_softmax_inside_is_noticed_in_every_dtype(dtype, pictures):
    def model(x):
        return (9 * x.mean((2, 3))).softmax(1).to(dtype)

    with pytest.warns(UserWarning, match="pass activation=None"):
        explain(model, pictures())


class Wrapped(nn.Module):
    """A user's module around another."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.dropout = inner, nn.Dropout(0.9)

    def forward(self, x):
        return self.dropout(self.inner(x))


def exported(model, b, **settings):
    return torch.export.export(model, (torch.rand(b, 3, 24, 20),), **settings).module()


def frozen(model):
    return torch.jit.freeze(torch.jit.script(model))


def saved(model):
    file = io.BytesIO()
    torch.jit.save(frozen(model), file)
    file.seek(0)
    return torch.jit.load(file)


FIXED = {
    "exported": lambda model: exported(model, 2, dynamic_shapes=({0: torch.export.Dim("b")},)),
    "exported for three rows": lambda model: exported(model, 3),
    "frozen": frozen,
    "saved": saved,
    "optimized": lambda model: torch.jit.optimize_for_inference(torch.jit.script(model)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # deprecated, and in use
@pytest.mark.parametrize("around", [lambda model: model, Wrapped], ids=["itself", "in a module"])
@pytest.mark.parametrize("kind", FIXED)
def test_a_model_that_cannot_be_switched_is_explained(kind, around, pictures):
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    expected, model = explain(cnn, pictures()), around(FIXED[kind](cnn))
    modes = {part: part.training for part in model.modules() if hasattr(part, "training")}
    actual = explain(model, pictures())
    assert_near(actual.coefficients, expected.coefficients, 1e-3)
    assert all(part.training is training for part, training in modes.items())


class Mixed(nn.Module):
    """Weights of two dtypes; the first layer has the second one."""

    def __init__(self, cnn, first, tower):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=first))
        self.tower = cnn.to(tower)

    def forward(self, x):
        return self.tower(x).to(self.scale.dtype) * self.scale


@pytest.mark.parametrize(
    ("first", "tower"),
    [(torch.float64, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)],
)
def test_of_weights_of_several_dtypes_the_input_has_that_of_the_first_layer(first, tower, cnn, pictures):
    expected = explain(cnn.to(tower), pictures())
    actual = explain(Mixed(cnn, first, tower), pictures())
    assert_near(actual.coefficients, expected.coefficients, 0.2 if first.itemsize + tower.itemsize < 8 else 1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # deprecated, and in use
def test_a_frozen_model_is_given_its_dtype_though_it_shows_no_weights(cnn, pictures):
    expected = explain(cnn.to(torch.float64), pictures())
    assert torch.equal(explain(frozen(cnn), pictures()).labels, expected.labels)


CHANCE = {
    "dropout": nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(1440, 5)),
    "batch statistics": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
}


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("kind", CHANCE)
def test_train_mode_that_a_function_hides_is_told_once(kind, n, pictures):
    model = copy.deepcopy(CHANCE[kind])
    explainer = Explainer(lambda x: model(x), n_samples=20, segments=Grid(3, 3), batch_size=16)
    with pytest.warns(UserWarning, match=r"different outputs for the same input: .*Call model.eval\(\)") as said:
        explainer.explain(pictures(n))
    explainer.explain(pictures(n))
    assert len(said) == 1
    assert explainer.predictor.forwards == 2 * n * 20
    explain(model, pictures())  # a module is switched
    model.eval()
    explain(lambda x: model(x), pictures())


def test_one_row_at_a_time_shows_dropout(pictures):
    model = CHANCE["dropout"]
    with pytest.warns(UserWarning, match="different outputs for the same input"):
        explain(lambda x: model(x), pictures(), batch_size=1)


@pytest.mark.parametrize("b", [1, 3])
def test_dropout_that_was_exported_is_told(b, pictures):
    model = exported(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1440, 5)), b)
    with pytest.warns(UserWarning, match="different outputs for the same input"):
        explain(model, pictures())


def test_an_activation_that_returns_nothing_is_refused(cnn, pictures):
    with pytest.raises(GpulimeError, match=r"the activation must return a \(b, classes\) tensor; got NoneType$"):
        explain(cnn, pictures(), activation=lambda outputs: None)


def test_a_model_that_asks_for_gradients_has_none_here(cnn, pictures):
    def greedy(x):
        torch.set_grad_enabled(True)
        return cnn(x)

    explanations = explain(greedy, pictures())
    assert not explanations.predictions.requires_grad
    assert torch.is_grad_enabled()
    assert_near(explanations.coefficients, explain(cnn, pictures()).coefficients)


@pytest.mark.parametrize("huge", [1e39, -1e300, float("inf")])
def test_outputs_beyond_what_is_kept_count_as_infinite(huge, pictures):
    with pytest.warns(UserWarning, match=r"image 0: the model's output was NaN or infinite for 20 of 20 samples"):
        explanations = explain(lambda x: x.mean((2, 3)).double() + huge, pictures(1), activation=None)
    assert explanations.non_finite.tolist() == [20]
    assert explanations.coefficients.isnan().all()


def test_two_threads_leave_a_training_model_as_it_was(cnn):
    """The first thread to end must not restore training mode while the second runs: BatchNorm would learn."""
    model, inside, done = cnn.train(), threading.Barrier(2), threading.Event()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def first():
        with Predictor(model, None, "float32", None).inference(torch.device("cpu")):
            inside.wait(20)
        done.set()

    def second():
        predictor = Predictor(model, None, "float32", None)
        with predictor.inference(torch.device("cpu")):
            inside.wait(20)
            assert done.wait(20)
            predictor(torch.rand(4, 3, 16, 16))

    with ThreadPoolExecutor(2) as pool:
        for work in [pool.submit(first), pool.submit(second)]:
            work.result()
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_with_lazy_layers_is_refused_until_it_has_weights():
    model, images = nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), torch.rand(1, 3, 4, 4)
    explainer = Explainer(model, n_samples=8, segments=Grid(2, 2))
    with pytest.raises(GpulimeError, match="lazy layers without weights: call it once"):
        explainer.explain(images)
    model(images)
    assert explainer.explain(images).coefficients.isfinite().all()


@pytest.mark.parametrize("normalized", [True, False])
def test_finding_the_dtype_of_the_rows_writes_into_no_image(normalized):
    """A module without weights is called to find its dtype, and may write into its input."""

    class Writes(nn.Module):
        def forward(self, rows):
            means = rows.mean((2, 3))
            rows.zero_()
            return means

    images = 0.1 + 0.8 * torch.rand(2, 3, 12, 12)
    before = images.clone()
    how = {"mean": 0, "std": 1, "normalized": normalized, "activation": None, "segments": Grid(2, 2), "n_samples": 12}
    explained = Explainer(Writes(), **how).explain(images, labels=0)
    assert torch.equal(images, before)
    torch.testing.assert_close(explained.predictions[:, 0], before.mean((2, 3))[:, 0])


def test_another_number_of_classes_in_a_later_batch_is_named(pictures):
    def model(rows):
        return rows.mean((2, 3))[:, : 3 if len(rows) == 16 else 2]

    with pytest.raises(GpulimeError, match=r"must return \(b, 3\) for each batch, as at first; got \(4, 2\)") as raised:
        Explainer(model, 20, Grid(3, 3), batch_size=16, activation=None).explain(pictures(1))
    assert raised.value.stage == "model"
