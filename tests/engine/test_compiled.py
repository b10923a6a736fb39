"""Compiled models: same outputs, nothing compiled twice, current weights, and a fallback if compiling fails."""

from __future__ import annotations

import copy
import functools
import logging
import os
import pickle
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path

import pytest
import torch
import torch._inductor  # patched here
from torch import nn
from torch._dynamo.utils import counters

import gpulime
from gpulime import Explainer
from gpulime.engine import ownership
from gpulime.engine.compiled import Compiled
from gpulime.engine.freezing import Freezing
from gpulime.engine.model import Predictor
from gpulime.errors import GpulimeError
from gpulime.images.batch import Batch
from gpulime.segments import Grid

CPU = torch.device("cpu")


@pytest.fixture
def quick(monkeypatch):
    """Replace torch.compile's slow compiler; everything else runs, and frozen weights are copies."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: copy.deepcopy(graph))


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()


def graphs():
    """The number of compilations since the test began."""
    return counters["stats"]["unique_graphs"]


def explainer(model, **settings):
    return Explainer(model, **{"n_samples": 20, "segments": Grid(3, 3), "batch_size": 16, "compile": True} | settings)


def assert_near(actual, expected, tolerance=3e-5):
    assert expected.abs().max() > 0
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def sizes_seen(model):
    """Numbers of rows in the calls of ``model``, traced or uncompiled."""
    seen, forward = [], model.forward

    def seeing(rows):
        seen.append(len(rows))
        return forward(rows)

    model.forward = seeing
    return seen


@pytest.mark.long
@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
@pytest.mark.filterwarnings("ignore")  # of PyTorch's compiler
def test_a_compiled_model_gives_the_same_answers(mode, cnn, pictures, device, inductor):
    """By PyTorch's own compiler, with the rounding of fused layers."""
    counters.clear()  # drop the fixture's own trial
    model, tolerance = cnn.to(device), 1e-5 if device.type == "cpu" else 1e-3  # convolutions in TF32
    compiled = explainer(model, compile=mode)
    for frozen_ones in (True, False):
        expected = explainer(model, compile=False).explain(pictures(5))
        for _ in range(2):  # the first rows find out the memory format
            actual = compiled.explain(pictures(5))
            assert torch.equal(actual.labels, expected.labels)
            assert_near(actual.predictions, expected.predictions, tolerance)
            assert_near(actual.coefficients, expected.coefficients, tolerance)
        assert frozen(compiled) == (frozen_ones and device.type == "cpu")
        model[1].running_mean.data.add_(0.05)
    assert graphs() == (2 if device.type == "cpu" else 1)
    assert compiled.predictor.not_compiled is None


@pytest.mark.gpu  # CUDA graphs
@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore")
def test_cuda_graphs_give_the_same_answers(precision, owned, cnn, pictures):
    model, tolerance = cnn.cuda(), 1e-3 if precision == "float32" else 0.1
    if owned:
        ownership.own(model, torch.device("cuda"))
    settings = {"precision": precision, "activation": None}  # the outputs themselves, in the graph's own memory
    compiled, version = explainer(model, **settings, compile="reduce-overhead"), model[-1].weight._version
    for _ in range(2):
        expected = explainer(model, **settings, compile=False).explain(pictures(5))
        for _ in range(3):  # warmed up, recorded, replayed
            assert_near(compiled.explain(pictures(5)).coefficients, expected.coefficients, tolerance)
        assert frozen(compiled) == (owned and model[-1].weight._version == version)
        with torch.no_grad():
            model[-1].weight.neg_()
    assert graphs() == (2 if owned else 1)
    assert compiled.predictor.not_compiled is None


@pytest.mark.parametrize("n", [1, 4, 5])
def test_nothing_is_compiled_twice(n, quick, cnn, pictures):
    """5 * 20 rows are six batches of 16 and a padded one of 4; one image has a batch of 16 and one of 4."""
    compiled = explainer(cnn)
    expected = explainer(cnn, compile=False).explain(pictures(n))
    for _ in range(3):
        assert_near(compiled.explain(pictures(n)).coefficients, expected.coefficients)
    assert graphs() == 1
    explainer(cnn).explain(pictures(n))  # in a training loop that makes an explainer at each epoch
    assert graphs() == 1


def test_batches_are_filled_up(quick, cnn, pictures, counted):
    seen = sizes_seen(cnn)
    compiled = explainer(cnn)
    assert len(compiled.explain(pictures(1))) == 1  # 20 rows
    assert seen == [16, 16]  # the first as it is, the other while it is traced
    assert compiled.predictor.forwards == 20


def test_rows_that_fill_up_change_nothing(quick, cnn):
    rows = torch.rand(5, 3, 24, 20)
    compiled, eager = Predictor(cnn, None, "float32", None, True), Predictor(cnn, None, "float32", None)
    for last in (False, True):
        some = rows.contiguous(memory_format=torch.channels_last) if last else rows
        with compiled.inference(CPU):
            compiled(some, 8)
            for count in range(1, 6):
                outputs = compiled(some[:count], 8)
                assert outputs.shape == (count, 7)
                assert_near(outputs, eager(some)[:count].detach())
    assert graphs() == 2  # one for each memory format


def turned(layer):
    return {name: tensor.flip(0) for name, tensor in layer.state_dict().items()}


CHANGES = {
    "in place": lambda model: model[-1].weight.data.neg_(),
    "other memory": lambda model: setattr(model[-1].weight, "data", torch.randn(7, 54)),
    "another parameter": lambda model: setattr(model[-1], "weight", nn.Parameter(torch.randn(7, 54))),
    "loaded": lambda model: model[-1].load_state_dict(turned(model[-1])),
    "loaded by name": lambda model: model[-1].load_state_dict(turned(model[-1]), assign=True),
    "BatchNorm's": lambda model: model[1].running_mean.add_(0.05),
    "another buffer": lambda model: setattr(model[1], "running_mean", model[1].running_mean + 0.05),
}


@pytest.mark.parametrize("compiling", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("change", CHANGES)
def test_new_weights_are_seen(change, compiling, quick, cnn, pictures):
    compiled = explainer(cnn, compile=compiling)
    compiled.explain(pictures())
    before = compiled.explain(pictures()).predictions
    with torch.no_grad():
        CHANGES[change](cnn)
    actual, expected = compiled.explain(pictures()), explainer(cnn, compile=False).explain(pictures())
    assert not torch.equal(actual.predictions, before)
    assert_near(actual.predictions, expected.predictions)
    assert_near(actual.coefficients, expected.coefficients)
    assert graphs() == (2 if compiling else 0)  # with its weights as constants, then as arguments


def test_a_step_of_training_between_is_as_without(quick, cnn, pictures):
    def trained(compiling):
        torch.manual_seed(1)
        model = copy.deepcopy(cnn).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        compiled = explainer(model, compile=compiling, activation=None)
        for _ in range(3):
            compiled.explain(pictures())
            assert model.training
            optimizer.zero_grad()
            model(pictures()).square().mean().backward()
            optimizer.step()
        return compiled.explain(pictures()).coefficients, [*model.parameters()]

    (actual, weights), (expected, expected_weights) = trained(True), trained(False)
    assert_near(actual, expected)
    assert all(torch.equal(left, right) for left, right in zip(weights, expected_weights, strict=True))
    assert graphs() == 2


def frozen(explained):
    """True if an explainer's model is compiled with its weights as constants."""
    return explained.predictor._compiled._frozen is not None


def test_weights_that_change_with_every_explanation_are_compiled_twice(quick, cnn, pictures):
    """With one explainer, and with a new one at each epoch."""
    stays, frozen_ones = explainer(cnn), []
    for _ in range(3):
        for compiled in (stays, explainer(cnn)):
            expected = explainer(cnn, compile=False).explain(pictures())
            assert_near(compiled.explain(pictures()).coefficients, expected.coefficients)
            frozen_ones.append(frozen(compiled))
        cnn[0].weight.data.mul_(1.1)
    assert frozen_ones == [True, True, False, False, False, False]
    assert graphs() == 2


class Around(nn.Module):
    """Calls a model that is not a registered submodule."""

    def __init__(self, inner):
        super().__init__()
        self.hidden, self.scale = [inner], [torch.ones(1)]

    def forward(self, rows):
        return self.hidden[0](rows) * self.scale[0]


def test_weights_that_no_module_registers_stay_arguments(quick, cnn, pictures):
    compiled = explainer(model := Around(cnn))
    compiled.explain(pictures())
    for change in (cnn[0].weight.data.neg_, lambda: model.scale[0].fill_(2.0)):
        change()
        expected = explainer(lambda rows: cnn(rows) * model.scale[0], compile=False).explain(pictures())
        assert_near(compiled.explain(pictures()).coefficients, expected.coefficients)
    assert frozen(compiled)
    assert graphs() == 1


class Stubborn(nn.BatchNorm2d):
    """Stays in training mode."""

    def train(self, mode=True):
        return self


def written(model):
    """Changes its own weights in its forward."""
    forward = model.forward

    def counting(rows):
        model.calls.add_(1)
        return forward(rows)

    model.register_buffer("calls", torch.zeros(1))
    model.forward = counting
    return model


def stubborn(model):
    model[1] = Stubborn(6, track_running_stats=False)
    return model


def masked(model):
    model.register_buffer("mask", torch.eye(3).to_sparse())
    return model


@pytest.mark.parametrize("make", [written, stubborn, masked, lambda model: lambda rows: model(rows)])
def test_models_whose_weights_are_not_frozen(make, quick, cnn, pictures):
    compiled = explainer(model := make(cnn), batch_size=80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the batch's statistics make outputs noisy
        for _ in range(3):
            actual = compiled.explain(pictures())
        expected = explainer(model, compile=False, batch_size=80).explain(pictures())
    assert_near(actual.coefficients, expected.coefficients)
    assert not frozen(compiled)


def test_without_freezing_a_model_is_compiled_all_the_same(quick, monkeypatch, cnn, pictures):
    def refuse(*_, **__):
        raise RuntimeError("freezing is not known")

    monkeypatch.setattr(torch._inductor, "compile", refuse)
    compiled = explainer(cnn)
    expected = explainer(cnn, compile=False).explain(pictures())
    assert_near(compiled.explain(pictures()).coefficients, expected.coefficients)
    assert compiled.predictor.not_compiled is None
    assert not frozen(compiled)


CALLABLES = {
    "function": (lambda model: lambda rows: model(rows), 1),
    "method": (lambda model: model.forward, 1),
    "partial": (functools.partial, 1),
    "compiled by its owner": (lambda model: torch.compile(model), 2),  # the first rows are passed to it as it is
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_what_is_no_module_is_compiled_too(kind, quick, cnn, pictures):
    expected = explainer(cnn, compile=False).explain(pictures())
    make, expected_graphs = CALLABLES[kind]
    compiled = explainer(make(cnn))
    for _ in range(2):
        assert_near(compiled.explain(pictures()).coefficients, expected.coefficients)
    assert graphs() == expected_graphs


@pytest.mark.parametrize("where", ["torch.compile", "the compiler"])
def test_a_model_that_cannot_be_compiled_is_called_as_it_is_after_one_warning(where, monkeypatch, cnn, pictures):
    def backend(graph, inputs):
        raise RuntimeError("no compiler\nis found here")

    def refuse(*args, **settings):
        raise RuntimeError("no compiler\nis found here")

    fails = functools.partial(torch.compile, backend=backend) if where == "the compiler" else refuse
    monkeypatch.setattr(torch, "compile", fails)
    monkeypatch.setattr(torch._inductor, "compile", refuse)
    expected = explainer(cnn, compile=False).explain(pictures())
    compiled = explainer(cnn)
    with pytest.warns(UserWarning, match=r"cannot be compiled and runs uncompiled: .*no compiler is found here") as said:
        first = compiled.explain(pictures())
    assert len(said) == 1
    for one in (first, compiled.explain(pictures())):
        assert_near(one.coefficients, expected.coefficients)


class Inside(nn.Module):
    """A class with its own forward, since PyTorch limits shapes per code object."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, rows):
        return self.inner(rows)


def test_beyond_pytorch_s_limit_of_shapes_the_model_is_called_as_it_is_after_one_warning(quick, cnn, pictures):
    limit = next(name for name in ("recompile_limit", "cache_size_limit") if hasattr(torch._dynamo.config, name))
    compiled, plain = explainer(Inside(cnn)), explainer(cnn, compile=False)
    images = [pictures(h=h, w=w) for h, w in [(24, 20), (20, 24), (22, 22), (26, 20), (24, 20)]]
    with torch._dynamo.config.patch({limit: 2}), pytest.warns(UserWarning, match="compiled for no more shapes") as said:
        actual = [compiled.explain(some).coefficients for some in images]
    for some, found in zip(images, actual, strict=True):
        assert_near(found, plain.explain(some).coefficients)
    assert [f"torch._dynamo.config.{limit} is 2: bring the inputs to fewer sizes" in str(one.message) for one in said] == [True]
    assert graphs() == 2
    assert compiled.predictor.not_compiled is None
    assert pickle.loads(pickle.dumps(compiled)).predictor._compiled.limit is None  # another process begins anew


def test_what_pytorch_s_log_says_elsewhere_is_no_limit_of_the_model(monkeypatch, cnn, pictures):
    """Messages from another thread, or about another function, do not count."""
    log = logging.getLogger("torch._dynamo.convert_frame")
    hit = "torch._dynamo hit config.%s (%s)\n   function: %s", "recompile_limit", 8, "'forward'"

    def compiling(model, **settings):
        def call(rows):
            other = threading.Thread(target=log.warning, args=hit)
            other.start()
            other.join()
            log.warning("something else")
            return model(rows)

        return call

    monkeypatch.setattr(torch, "compile", compiling)
    before = list(log.filters)
    compiled = explainer(cnn)
    compiled.explain(pictures())
    assert compiled.predictor._compiled.limit is None
    assert log.filters == before


WITHOUT = """
import torch
from gpulime import Explainer
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 4), torch.nn.Tanh())
explainer = Explainer(model, 60, "grid", compile=True, batch_size=16)
print(explainer.explain(torch.rand(2, 3, 10, 10)))
"""


@pytest.mark.long
def test_without_a_compiler_of_c_the_reason_is_named(tmp_path):
    environment = {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    environment = {**os.environ, **environment, "PYTHONPATH": str(Path(gpulime.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Explanations(2 images")
    assert done.stderr.count("UserWarning: the model cannot be compiled and runs uncompiled: ") == 1
    assert "/nowhere/g++" in done.stderr


def test_an_error_of_the_model_is_its_own(quick, cnn, pictures):
    class Broken(nn.Module):
        def forward(self, rows):
            raise ValueError("the model's own")

    with warnings.catch_warnings(), pytest.raises(ValueError, match="the model's own"):
        explainer(Broken()).explain(pictures())


def test_a_model_out_of_memory_is_compiled_for_fewer_rows(monkeypatch, cnn, pictures, counted):
    expected = explainer(cnn, compile=False).explain(pictures())

    def starving(model, **settings):
        def call(rows):
            if len(rows) > 5:
                raise torch.OutOfMemoryError("no memory")
            return model(rows)

        return call

    monkeypatch.setattr(torch, "compile", starving)
    seen = sizes_seen(cnn)
    with pytest.warns(UserWarning, match="out of memory with 16 rows: going on with fewer"):
        actual = explainer(cnn).explain(pictures())
    assert_near(actual.coefficients, expected.coefficients)
    assert seen[0] == 16  # the first as it is
    assert set(seen[1:]) == {4}  # all others of the queue are of one size


def test_a_compiled_model_may_give_the_same_memory_again(monkeypatch, cnn, pictures):
    """As CUDA graphs do; memory runs out, so rows are passed in parts."""
    expected = explainer(cnn, compile=False, activation=None).explain(pictures())
    memory = torch.empty(5, 7)

    def graph(model, **settings):
        return lambda rows: memory[: len(rows)].copy_(model(rows))

    monkeypatch.setattr(torch, "compile", graph)
    compiled = explainer(cnn, activation=None)
    with compiled.predictor.inference(CPU):
        rows = torch.rand(12, 3, 24, 20)
        compiled.predictor(rows)
        compiled.predictor.most = 5
        assert_near(compiled.predictor(rows, 16), cnn(rows))
    assert_near(compiled.explain(pictures()).coefficients, expected.coefficients)


@pytest.mark.parametrize("setting", ["fast", 1, None])
def test_settings_that_make_no_sense_are_named(setting, cnn):
    listed = "compile must be one of 'True', 'False', 'auto', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs'"
    with pytest.raises(GpulimeError, match=f"{listed}; got {setting!r}"):
        Explainer(cnn, compile=setting)


@pytest.mark.parametrize("mode", [True, "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
def test_modes_are_torchs_own(mode, monkeypatch, cnn, pictures):
    given = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: given.append(settings) or model)
    explainer(cnn, compile=mode).explain(pictures())
    how = (
        {"backend": Freezing(weakref.ref(cnn), mode == "reduce-overhead")}
        if mode in (True, "reduce-overhead")
        else {"mode": mode}
    )
    assert given == [{"dynamic": False, **how}]


@pytest.mark.parametrize(
    ("seconds", "rows", "left", "said"),
    [
        (5.0, 100, 7999, None),  # 399.95 s are left
        (5.0, 100, 8000, "compiling the model: about 7 min of forwards are left"),
        (3.9, 100, 10**6, None),  # too early to tell
        (5.0, 100, -20, None),  # rows that nobody announced
    ],
)
def test_auto_compiles_for_ten_times_as_much_work(seconds, rows, left, said, cnn):
    compiled = Compiled(cnn, "auto")
    assert compiled.weigh(seconds, rows, left) == said
    assert compiled.due == (said is not None)
    assert compiled.weigh(seconds, rows, left) is None or said is None  # it is said once


@pytest.mark.parametrize("bind", [False, True])
@pytest.mark.parametrize("owned", [False, True])
def test_auto_takes_cuda_graphs_if_launches_bind(owned, bind, monkeypatch, cnn):
    """On a GPU, where the weights are constants only if nobody else can change them."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: given.append(settings) or model)
    if owned:
        ownership.own(cnn, CPU)
    compiled = Compiled(cnn, "auto")
    said = compiled.weigh(5.0, 100, 8000, bind)
    assert ("with CUDA graphs, since its launches take longer than its work" in said) == bind
    compiled.prepare(torch.device("cuda"))
    compiled(torch.rand(2, 3, 24, 20), 2)
    unfrozen = {"mode": "reduce-overhead" if bind else None}
    assert given == [{"dynamic": False, **({"backend": Freezing(weakref.ref(cnn), bind)} if owned else unfrozen)}]


@pytest.mark.parametrize("graphs", [False, True])
def test_options_of_a_frozen_graph_are_pytorch_s_own(graphs, monkeypatch, cnn):
    given = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs, options: given.append(options) or graph)
    with torch.no_grad():
        torch.compile(cnn, backend=Freezing(weakref.ref(cnn), graphs), dynamic=False)(torch.rand(2, 3, 24, 20))
    assert given == [{"freezing": True} | ({"triton.cudagraphs": True} if graphs else {})]
    assert set(given[0]) <= set(torch._inductor.list_options())


@pytest.fixture
def little_work(monkeypatch):
    """Make compiling so cheap that it is worth it for a few images."""
    monkeypatch.setattr("gpulime.engine.compiled.SECONDS", 1e-6)
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 20, "cuda": 20})


def test_auto_compiles_for_the_images_that_are_left(little_work, quick, cnn, pictures, caplog):
    auto, expected = explainer(cnn, compile="auto"), explainer(cnn, compile=False).explain(pictures(5))
    with caplog.at_level("INFO", "gpulime"):
        for _ in range(2):
            assert_near(auto.explain(pictures(5)).coefficients, expected.coefficients)
    assert graphs() == 1
    assert len([record for record in caplog.records if record.name == "gpulime"]) == 1


@pytest.mark.gpu
def test_auto_takes_cuda_graphs_for_a_small_model(little_work, monkeypatch, cnn, pictures, caplog):
    """A batch of it is over as soon as it is launched."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: given.append(settings) or model)
    auto = explainer(cnn.cuda(), compile="auto")
    with caplog.at_level("INFO", "gpulime"):
        for _ in range(3):
            auto.explain(pictures(5)).cpu()
    assert given == [{"dynamic": False, "mode": "reduce-overhead"}]
    assert "compiling the model with CUDA graphs" in caplog.text


def test_auto_does_not_compile_for_a_few_images(quick, cnn, pictures):
    auto = explainer(cnn, compile="auto")
    auto.explain(pictures(5))
    for _ in auto.stream(Batch(pictures()) for _ in range(3)):
        pass
    assert graphs() == 0
    assert auto.predictor.compile_seconds is None


def test_auto_compiles_for_a_batch_of_a_stream(little_work, quick, cnn, pictures):
    auto = explainer(cnn, compile="auto")
    for _ in auto.stream(Batch(pictures(5)) for _ in range(2)):
        pass
    assert graphs() == 1


def test_auto_compiles_for_outputs_of_given_masks(little_work, quick, cnn, pictures):
    auto = explainer(cnn, compile="auto")
    auto.outputs(pictures(5), torch.ones(5, 20, 9, dtype=torch.bool), labels=0, segments=None)
    assert graphs() == 1


def test_a_run_says_that_it_compiles(little_work, quick, cnn, pictures, tmp_path, capsys):
    settings = {"n_samples": 20, "segments": Grid(3, 3), "batch_size": 16, "report": False}
    gpulime.runs.explain(cnn, list(pictures(6)), tmp_path / "run", **settings, compile="auto")
    assert graphs() == 1
    assert capsys.readouterr().err.count("compiling the model: about 0 min of forwards are left") == 1


def test_sizes_that_are_only_tried_are_not_compiled(monkeypatch, cnn, pictures):
    compiled_for = []

    def compiling(model, **settings):
        return lambda rows: compiled_for.append(len(rows)) or model(rows)

    monkeypatch.setattr(torch, "compile", compiling)
    auto, kind = explainer(cnn, batch_size="auto", n_samples=200), ((3, 24, 20), torch.float32, CPU)
    auto.explain(pictures())
    while not auto.batch_size.is_found(kind):
        assert not compiled_for
        auto.explain(pictures())
    auto.explain(pictures())
    assert set(compiled_for) == {auto.batch_size.get(kind, 2**20)}


def test_an_explainer_goes_to_another_process(quick, cnn, pictures):
    compiled = explainer(cnn)
    compiled.explain(pictures())
    expected = compiled.explain(pictures())
    again = pickle.loads(pickle.dumps(compiled))
    assert torch.equal(again.explain(pictures()).coefficients, expected.coefficients)


def test_a_run_goes_on_with_its_model_compiled(quick, cnn, pictures, tmp_path):
    """Rows differ only by rounding, as between devices and batch sizes."""
    dataset, settings = list(pictures(6)), {"n_samples": 20, "segments": Grid(3, 3), "batch_size": 16, "report": False}
    gpulime.runs.explain(cnn, dataset[:3], tmp_path / "run", **settings)
    assert graphs() == 0
    gpulime.runs.explain(cnn, dataset, tmp_path / "run", **settings, compile=True)
    assert graphs() == 1
    whole = gpulime.runs.explain(cnn, dataset, tmp_path / "whole", **settings)
    assert whole.ok == 6
    actual, expected = (gpulime.runs.open_run(tmp_path / name) for name in ("run", "whole"))
    for name in expected:
        assert actual[name].top_labels == expected[name].top_labels
        label = expected[name].top_labels[0]
        both = [[weight for _, weight in sorted(run[name].local_exp[label])] for run in (actual, expected)]
        assert_near(*map(torch.tensor, both))
    with pytest.raises(GpulimeError, match="holds results of other settings"):
        gpulime.runs.explain(cnn, dataset, tmp_path / "run", **settings, precision="bfloat16")
