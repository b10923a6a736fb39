"""`gpulime bench`: its numbers add up, and slow models, images and segmenters are found."""

import contextlib
import json
import math
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gpulime.bench import measure as measuring
from gpulime.bench import result, variants
from gpulime.bench.clock import TURNS, Quantiles, in_turns
from gpulime.bench.measure import difference, measure
from gpulime.bench.result import FAILED, FASTER, NOT_TRIED, NOTHING, SLOWER, UNCLEAR
from gpulime.bench.side import Side
from gpulime.bench.stages import STAGES, Piece, size_of
from gpulime.bench.subject import RandomReader, Subject, of_config
from gpulime.cli import main
from gpulime.config import Config, DataConfig, LimeConfig, ModelConfig
from gpulime.engine import ownership
from gpulime.engine.engine import FLIGHT_ROWS
from gpulime.engine.quality import QUALITIES
from gpulime.errors import GpulimeError
from gpulime.explainer import Explainer
from gpulime.runs.isolation import AHEAD, Recorder
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.sources import Item
from gpulime.segments import Grid

pytestmark = pytest.mark.timed
SIDE = 16


class Sleepy(nn.Module):
    """Three classes from the means of the channels, after some sleep for each call and each row."""

    def __init__(self, a_call=0.0, a_row=0.0):
        super().__init__()
        self.a_call, self.a_row = a_call, a_row
        self.weight = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)) * 5)

    def forward(self, x):
        if self.a_call or self.a_row:
            time.sleep(self.a_call + self.a_row * len(x))
        return x.mean((2, 3)) @ self.weight


class SleepyGrid:
    """A segmenter that takes its time."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, picture):
        time.sleep(self.seconds)
        return np.arange(SIDE * SIDE).reshape(SIDE, SIDE) // 32


class SleepyReader(RandomReader):
    def __call__(self, item):
        time.sleep(0.05)
        return super().__call__(item)


class HalfBroken(RandomReader):
    def __call__(self, item):
        return Read(item, error="no image", kind="decode") if int(item.path) % 2 else super().__call__(item)


class Broken(RandomReader):
    def __call__(self, item):
        return Read(item, error="no image", kind="decode")


def subject(model=None, segments=None, reader=RandomReader, device="cpu", images=8, workers=0, **lime):
    settings = {
        "n_samples": 24,
        "segments": segments or Grid(3, 3),
        "precision": "float32",
        "batch_size": 8,
        "fill": 0.0,
        **lime,
    }
    model = (Sleepy() if model is None else model).eval().to(device)
    about = {"model": "a model", "images": f"{images} images"}
    items = [Item(str(i), str(i).encode()) for i in range(images)]
    settings |= {"device": torch.device(device), **lime}
    return Subject(model, items, reader((3, SIDE, SIDE)), settings, DataConfig(workers=workers), images, about)


def outcome(found, kind):
    return next(one for one in found.outcomes if one.kind == kind)


def test_the_numbers_add_up_and_are_saved(tmp_path):
    found = measure(subject(Sleepy(a_row=0.0005)), 0.3, ("batch_size",))
    assert sum(found.stages.values()) == pytest.approx(found.an_image)
    assert all(found.stages[stage] >= 0 for stage in STAGES)
    assert set(found.stages) == set(STAGES)
    low, median, high = found.images_per_s
    assert low <= median <= high
    assert low * 0.8 <= 1 / found.an_image <= high * 1.25
    assert found.forwards_per_s.median == pytest.approx(24 * median)
    assert found.whole_seconds == pytest.approx([8 / high, 8 / median, 8 / low], rel=0.05)
    run, bare = (found.pieces[name] for name in (measuring.PRESENT, measuring.BARE))
    assert len(run) == len(bare) == TURNS
    ratios = [its.an_image / ours.an_image for ours, its in zip(run, bare, strict=True)]
    assert found.efficiency == pytest.approx(Quantiles.of(ratios))
    assert all(piece.an_image == pytest.approx(piece.seconds / piece.images, rel=0.1) for piece in run)
    assert all(piece.an_image == pytest.approx(24 * piece.seconds / piece.forwards) for piece in bare)
    assert all(piece.forwards % 8 == 0 for piece in run), "a run's batches are full"
    assert found.memory is None or found.memory > 10**7

    found.write(tmp_path / "found.json")
    kept = json.loads((tmp_path / "found.json").read_text())
    assert set(kept) == {field.name for field in result.dataclasses.fields(result.Result)}
    for rate in ("images_per_s", "forwards_per_s", "bare_forwards_per_s", "efficiency", "whole_seconds"):
        assert set(kept[rate]) == {"low", "median", "high"}
    assert sum(kept["stages"].values()) == pytest.approx(kept["an_image"])
    assert kept["batch_rates"].keys() == {str(b) for b in found.batch_rates}
    assert [one["name"] for one in kept["outcomes"]] == [one.name for one in found.outcomes]


def test_a_model_that_takes_all_the_time_has_an_efficiency_near_1_and_the_best_batch_size_is_said():
    found = measure(subject(Sleepy(a_row=0.003)), 0.2, ("batch_size",))
    assert 0.6 < found.efficiency.median < 1.3
    assert found.stages["model"] / found.an_image > 0.6
    assert outcome(found, "batch_size").verdict != FASTER
    assert found.settings["rows"] in found.batch_rates
    assert len(found.batch_rates) >= 2


def test_a_model_that_takes_none_has_a_low_one():
    assert measure(subject(), 0.1, ()).efficiency.median < 0.8


@pytest.mark.long
def test_a_slow_segmenter_is_seen_and_workers_are_tried(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    found = measure(subject(segments=SleepyGrid(0.03)), 1.0, ("workers",))
    assert found.stages["segment"] / found.an_image > 0.5
    assert found.stages["segment"] >= 0.03
    workers = outcome(found, "workers")
    assert workers.name == "3 workers"
    assert workers.verdict == FASTER
    assert 1.3 < workers.gain.median < 4
    assert workers.action == "--data.workers 3"
    assert workers.action in str(found)


@pytest.mark.long
@pytest.mark.timed
def test_a_slow_disk_is_seen():
    found = measure(subject(reader=SleepyReader), 0.2, ())
    assert found.stages["load"] >= 0.05
    assert found.stages["load"] / found.an_image > 0.5
    assert found.stages["segment"] < 0.02


def test_workers_where_they_bring_nothing():
    found = measure(subject(Sleepy(a_row=0.002)), 0.2, ("workers",))
    workers = outcome(found, "workers")
    assert workers.verdict == NOTHING
    assert workers.reason.startswith("reading takes "), "a grid is made where the model is, and reading is all that is left"


@pytest.mark.long
def test_workers_that_need_more_time_than_there_is_are_not_tried():
    found = measure(subject(Sleepy(a_row=0.002), SleepyGrid(0.04), images=4), 0.2, ("workers",))
    workers = outcome(found, "workers")
    assert workers.verdict == NOT_TRIED
    seconds = int(workers.reason.split("--seconds ")[1].split()[0])
    assert seconds == math.ceil(found.an_image * TURNS)


@pytest.mark.long
@pytest.mark.timed
def test_a_run_with_workers():
    """With reading that takes twice the time of the rest, one worker halves nothing: it hides the rest behind the reading."""
    found = measure(subject(Sleepy(a_row=0.0005), SleepyGrid(0.02), workers=1), 1.0, ())
    assert 0.018 < found.an_image < 0.032
    assert found.settings["workers"] == 1
    assert ", 1 worker\n" in str(found)


@pytest.mark.long
@pytest.mark.timed
def test_where_an_image_takes_longer_than_a_piece_its_workers_keep_up():
    found = measure(subject(Sleepy(a_row=0.002), SleepyGrid(0.03), workers=1, n_samples=96), 0.15, ())
    assert found.settings["piece"]["samples"] < 96
    assert found.an_image == pytest.approx(0.192, rel=0.3)
    assert any("these times exclude reading" in note for note in found.notes)


@pytest.mark.long
@pytest.mark.timed
def test_a_piece_of_an_image_is_counted_up():
    found = measure(subject(Sleepy(a_row=0.003), SleepyGrid(0.04), n_samples=96), 0.15, ())
    assert found.settings["piece"] == {"images": 1, "samples": 32}
    assert found.an_image == pytest.approx(0.04 + 96 * 0.003, rel=0.3)
    assert found.stages["segment"] == pytest.approx(0.04, rel=0.3), "once an image"
    assert any("32 of the 96 samples" in note for note in found.notes)


@pytest.mark.long
@pytest.mark.timed
def test_bigger_batches_are_found_where_a_call_costs():
    found = measure(subject(Sleepy(a_call=0.02, a_row=0.0005), n_samples=64, batch_size=4), 0.5, ("batch_size",))
    assert found.best_batch >= 16
    bigger = outcome(found, "batch_size")
    assert bigger.verdict == FASTER
    assert bigger.gain.median > 2
    assert bigger.action == f"--lime.batch_size {found.best_batch}"
    assert bigger.error is None


@pytest.mark.long
def test_auto_is_settled_before_anything_counts():
    found = measure(subject(Sleepy(a_call=0.01, a_row=0.0005), batch_size="auto", n_samples=64), 0.3, ())
    assert found.settings["rows"] > 10
    assert "found by 'auto'" in str(found)


@pytest.mark.long
@pytest.mark.timed
def test_the_first_calls_do_not_count():
    class Warming(Sleepy):
        calls = 0

        def forward(self, x):
            Warming.calls += 1
            time.sleep(0.1 if Warming.calls <= 3 else 0.001)
            return super().forward(x)

    found = measure(subject(Warming()), 0.2, ())
    assert found.an_image < 0.05
    assert found.bare_forwards_per_s.median > 100


class Halves(Sleepy):
    """A model that is fast in bfloat16 and slow otherwise."""

    def forward(self, x):
        time.sleep(0.001 if torch.is_autocast_enabled("cpu") else 0.004)
        return super().forward(x)


def test_a_precision_that_pays_comes_with_its_error():
    found = measure(subject(Halves()), 0.2, ("precision",))
    half = outcome(found, "precision")
    assert (half.name, half.verdict) == ("bfloat16", FASTER)
    assert half.gain.median > 1.5
    assert 1e-4 < half.error < 0.3
    assert 0 < half.top5 <= 1
    lines = str(found).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  bfloat16"))
    assert lines[at].split()[1:3] == ["x", f"{half.gain.median:.2f}"]
    assert lines[at + 1].strip() == "--lime.precision bfloat16"
    assert lines[at + 2].strip().startswith("coefficients differ by up to")


class Strict(Sleepy):
    """A model that takes float32 only."""

    def forward(self, x):
        return torch.from_numpy(x.numpy()).mean((2, 3)) @ self.weight


class Overflows(Sleepy):
    def forward(self, x):
        outputs = super().forward(x)
        return outputs / 0 if x.dtype == torch.bfloat16 else outputs


@pytest.mark.parametrize(("model", "reason"), [(Strict, "BFloat16"), (Overflows, "NaN or infinite")])
def test_a_model_that_fails_in_a_precision_gives_a_reason(model, reason):
    found = measure(subject(model()), 0.1, ("precision",))
    half = outcome(found, "precision")
    assert (half.verdict, half.gain) == (FAILED, None)
    assert reason in half.reason
    assert "Failed" in str(found)


@torch.library.custom_op("bench_tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


def test_a_model_that_cannot_be_compiled_gives_a_reason():
    class Opaque(Sleepy):
        def forward(self, x):
            return opaque(x).mean((2, 3)) @ self.weight

    found = measure(subject(Opaque()), 0.1, ("compile",))
    compiling = outcome(found, "compile")
    assert compiling.verdict == FAILED
    assert "fake" in compiling.reason
    assert "\n" not in compiling.reason


@pytest.mark.long
def test_a_model_that_can_be_compiled_is(cnn, inductor):
    found = measure(subject(cnn), 0.3, ("compile",))
    compiling = outcome(found, "compile")
    assert compiling.verdict in (FASTER, NOTHING, SLOWER, UNCLEAR)
    assert compiling.error < 1e-3
    assert compiling.once > 0
    assert "at the start of a process" in str(found)


class Crowded(Sleepy):
    """A model slowed down by every thread of PyTorch; it fails with as few as ``least``."""

    def __init__(self, least=0):
        super().__init__()
        self.least = least

    def forward(self, x):
        time.sleep(0.003 * torch.get_num_threads())
        if torch.get_num_threads() == self.least:
            raise RuntimeError("too few threads")
        return super().forward(x)


@pytest.fixture
def threads():
    """Sets PyTorch's threads, which are put back."""
    before, change = torch.get_num_threads(), torch.set_num_threads
    yield change
    change(before)


@pytest.mark.long
def test_half_the_threads_are_tried_with_their_error_and_put_back(threads):
    threads(4)
    found = measure(subject(Crowded()), 0.5, ("threads",))
    fewer = outcome(found, "threads")
    assert (fewer.name, fewer.verdict) == ("2 threads", FASTER)
    assert 1.4 < fewer.gain.median < 2.6
    assert fewer.action == "OMP_NUM_THREADS=2 before the command"
    assert fewer.error < 1e-4
    assert fewer.top5 == 1
    assert fewer.action in str(found)
    assert found.machine["threads"] == torch.get_num_threads() == 4


def test_threads_are_put_back_where_a_model_fails_with_fewer(threads):
    threads(3)
    fewer = outcome(measure(subject(Crowded(least=1)), 0.1, ("threads",)), "threads")
    assert (fewer.name, fewer.verdict) == ("1 thread", FAILED)
    assert "too few threads" in fewer.reason
    assert torch.get_num_threads() == 3


def test_threads_that_cannot_be_changed_are_said(threads, monkeypatch):
    threads(1)
    assert variants.fewer_threads(torch.device("cpu")) == "PyTorch has one thread"
    assert variants.fewer_threads(torch.device("cuda")) == "the model works on a GPU"
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    with pytest.raises(GpulimeError, match="PyTorch does not change its threads: 1, and not 2"), variants.threads(2):
        pass


@pytest.mark.parametrize(("ahead", "order"), [(0, ["solve", "row"]), (1, ["solve", "solve", "row"])])
def test_results_are_fetched_as_in_a_run(ahead, order, monkeypatch):
    """While an image's are on their way to the CPU the next one is explained, where a run does so too."""
    events = []

    def noted(owner, name, event):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: events.append(event) or real(*given))

    monkeypatch.setitem(AHEAD, "cpu", ahead)
    monkeypatch.setitem(FLIGHT_ROWS, "cpu", 24)
    side = Side(subject(Sleepy(a_row=0.001)), {}, 0.2)
    noted(Explainer, "solve", "solve")
    noted(Recorder, "row", "row")
    assert side.run().images == side.images
    assert events[: len(order)] == order
    assert events.count("row") == side.images >= 3


def test_memory_formats(cnn):
    [last] = variants.memory_formats(cnn)
    assert last.kind == "channels_last"
    assert variants.memory_formats(cnn.to(memory_format=torch.channels_last)) == "the weights are in channels_last already"
    assert variants.memory_formats(Sleepy()) == "the model has no convolutions of images"
    assert "function" in variants.memory_formats(lambda rows: rows)


def test_channels_last_changes_a_copy(cnn):
    found = measure(subject(cnn), 0.1, ("channels_last",))
    assert outcome(found, "channels_last").error < 1e-4
    assert not cnn[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.long
@pytest.mark.timed
def test_the_bare_model_is_taken_at_its_best(monkeypatch):
    class Picky(Sleepy):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            time.sleep(0.002 if x.is_contiguous(memory_format=torch.channels_last) else 0.01)
            return super().forward(x)

    found = measure(subject(Picky()), 0.2, ())
    assert "channels_last" in found.bare
    assert found.bare_forwards_per_s.median > 1000


@pytest.mark.long
def test_what_brings_something_is_tried_together(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    slow = subject(Sleepy(a_call=0.01, a_row=0.0005), SleepyGrid(0.02), n_samples=16, batch_size=4)
    found = measure(slow, 1.0, ("batch_size", "workers"))
    alone = [outcome(found, kind) for kind in ("batch_size", "workers")]
    assert [one.verdict for one in alone] == [FASTER, FASTER]
    both = outcome(found, "together")
    assert both.gain.median > max(one.gain.median for one in alone)
    assert both.error is not None
    assert both.action == "; ".join(one.action for one in alone)


def test_images_that_cannot_be_read_are_left_out_and_said_to_be():
    found = measure(subject(reader=HalfBroken), 0.1, ())
    assert any("could not be read" in note and "'1': no image" in note for note in found.notes)
    with pytest.raises(GpulimeError, match="none of 8 images could be read; the last, '7': no image"):
        measure(subject(reader=Broken), 0.1, ())


def test_a_function_can_be_measured():
    model = Sleepy().eval()
    plain = Subject(
        lambda rows: model(rows),
        [Item("0", b"0")],
        RandomReader((3, SIDE, SIDE)),
        {"n_samples": 60, "segments": "grid", "precision": "float32", "batch_size": "auto", "device": torch.device("cpu")},
        about={"model": "f", "images": "1"},
    )
    found = measure(plain, 0.1, ("channels_last",))
    assert outcome(found, "channels_last").reason == "the model is a function, so its weights are unknown"
    assert found.whole_seconds is None
    assert "1,000 images" in str(found)


@pytest.fixture
def benchmark():
    """Sets torch.backends.cudnn.benchmark, which is put back."""
    before = torch.backends.cudnn.benchmark
    yield lambda wanted: setattr(torch.backends.cudnn, "benchmark", wanted)
    torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("before", [False, True])
def test_cudnn_tries_its_convolutions_inside_the_context_alone(before, benchmark):
    benchmark(before)
    for wanted in (False, True):
        with contextlib.suppress(ZeroDivisionError), variants.benchmarking(wanted):
            assert torch.backends.cudnn.benchmark == (wanted or before)
            raise ZeroDivisionError
        assert torch.backends.cudnn.benchmark == before


def test_a_side_lets_cudnn_try_its_convolutions(benchmark):
    benchmark(False)

    class Seeing(Sleepy):
        def forward(self, x):
            seen.append(torch.backends.cudnn.benchmark)
            return super().forward(x)

    for changes, expected in (({}, False), ({"cudnn_benchmark": True}, True)):
        seen = []
        side = Side(subject(Seeing()), changes, 0.05)
        side.run()
        side.explain(side.some(1), 24)
        assert set(seen) == {expected}
        assert not torch.backends.cudnn.benchmark


def test_variants_of_a_gpu(cnn, benchmark):
    benchmark(False)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    there, here = (variants.offers(subject(cnn), device, 8, 8) for device in (cuda, cpu))
    assert [(one.action, one.changes) for one in there["compile"]] == [
        ("--lime.compile true", {"compile": True, "batch_size": 8}),
        ("--lime.compile reduce-overhead", {"compile": "reduce-overhead", "batch_size": 8}),
    ]
    assert here["compile"] == there["compile"][:1]
    [trying] = there["cudnn_benchmark"]
    assert trying.action == "torch.backends.cudnn.benchmark = True in the function that makes your model"
    assert here["cudnn_benchmark"] == "the model works on a CPU"
    assert set(there) == set(here) == set(variants.KINDS) - {"workers"}
    assert variants.cudnn_benchmark(Sleepy(), cuda) == "the model has no convolutions of images"
    assert variants.cudnn_benchmark(lambda rows: rows, cuda) == [trying], "a function may have some"
    benchmark(True)
    assert variants.cudnn_benchmark(cnn, cuda) == "torch.backends.cudnn.benchmark is on already"


def test_on_each_device(device, cnn):
    found = measure(subject(cnn, device=device), 0.1, ("precision", "channels_last", "cudnn_benchmark"))
    assert sum(found.stages.values()) == pytest.approx(found.an_image)
    assert all(seconds >= 0 for seconds in found.stages.values())
    assert found.machine["kind"] == device.type
    assert (measuring.APART in found.pieces) == (device.type == "cuda")
    if device.type == "cuda":
        assert 0 < found.memory < 2**30
        assert {one.name for one in found.outcomes if one.kind == "precision"} == {"bfloat16", "float16"}
        assert outcome(found, "cudnn_benchmark").gain is not None
        assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("s", [20, 100, 300, 1000])
@pytest.mark.parametrize("b", [1, 7, 10, 64, 256])
@pytest.mark.parametrize("seen", [3, 100, 999, 5000])
def test_a_piece_has_whole_images_or_full_batches_of_one(s, b, seen):
    images, samples = size_of(s, b, seen, least=10)
    if seen >= s:
        assert samples == s
        assert 0.5 * seen <= images * s <= 3 * seen
        full = [n for n in range(round(seen / s), 2 * round(seen / s) + 1) if n * s % b == 0]
        assert images * s % b == 0 or not full
    else:
        assert images == 1
        assert min(s, 10) <= samples <= s
        assert samples == s or (samples % b == 0 and samples < max(seen, 4 * b) + b + 10)


def test_an_image_of_a_piece():
    stages = {"load": 1.0, "segment": 2.0, "prepare": 0.5, "rest": 0.5, "masking": 0.5, "model": 5.0, "fit": 0.5}

    def an_image(s, **apart):
        piece = Piece.of(s, images=2, forwards=100, seconds=10.0, stages=stages, **apart)
        assert sum(piece.stages.values()) == pytest.approx((1 + 3) / 2 + s * 6 / 100)
        return piece.an_image

    assert an_image(50) == pytest.approx(5.0), "as it was"
    assert an_image(500) == pytest.approx((1 + 3) / 2 + 500 * 6 / 100)
    assert an_image(500, apart=False) == pytest.approx(50.0)


def test_turns_hit_all_sides_alike():
    seen, device = [], torch.device("cpu")

    def side(name):
        def call():
            seen.append(name)
            if name == "c" and len(seen) > 3:
                raise RuntimeError("worn\nout")
            return 1

        return call

    results, failed = in_turns({name: side(name) for name in "abc"}, "a", device, turns=3)
    assert "".join(seen)[:6] == "abccba"
    assert results == {"a": [1, 1, 1], "b": [1, 1, 1]}
    assert failed == {"c": "RuntimeError: worn out"}
    with pytest.raises(RuntimeError, match="worn"):
        in_turns({"a": side("a"), "c": side("c")}, "ac", device)


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ((1.1, 1.2, 1.3), FASTER),
        ((0.99, 1.2, 1.3), UNCLEAR),
        ((1.001, 1.02, 1.05), NOTHING),
        ((0.9, 1.0, 1.1), NOTHING),
        ((0.6, 0.7, 0.8), SLOWER),
        ((0.6, 0.9, 1.2), UNCLEAR),
        ((0.9, 0.96, 1.04), NOTHING),
    ],
)
def test_verdicts(gain, verdict):
    assert measuring.judged(Quantiles(*gain), noise=1.01) == verdict


def test_a_gain_within_the_noise_is_not_believed():
    assert measuring.judged(Quantiles(1.1, 1.2, 1.3), noise=1.25) == UNCLEAR
    assert measuring.judged(Quantiles(0.6, 0.7, 0.8), noise=1.5) == NOTHING
    times = (1.0, 2.0, 2.0, 1.0, 1.0, 0.25)
    assert measuring.noise_of([Piece(1, 10, seconds, seconds, {}) for seconds in times]) == 2


def test_quantiles():
    assert Quantiles.of([3.0]) == (3, 3, 3)
    assert Quantiles.of([5, 1, 2, 3, 4, 0]) == pytest.approx((1, 2.5, 4))


def test_difference(cnn, pictures):
    explainer = Explainer(cnn, n_samples=40, segments=Grid(3, 3))
    ours, theirs = explainer.explain(pictures()), explainer.explain(pictures())
    assert difference(ours, theirs) == (0.0, 1.0)
    most = theirs.coefficients[2, 0].abs().max()
    ours.coefficients[2, 0, int(theirs.coefficients[2, 0].abs().argmin())] += most / 2
    error, top5 = difference(ours, theirs)
    assert error == pytest.approx(0.5)
    assert top5 == pytest.approx(1 - 1 / 5 / 4)
    ours.coefficients[0, 0, 0] = torch.nan
    with pytest.raises(GpulimeError, match="NaN or infinite"):
        difference(ours, theirs)


def test_the_best_batch_is_the_smallest_of_those_that_are_as_fast(monkeypatch):
    rates = {5: 80.0, 10: 99.0, 20: 100.0, 40: 101.0}
    for found, best in ((rates, 10), ({}, 8)):
        monkeypatch.setattr(Side, "by_rows", lambda side, images, found=found: found)
        assert measure(subject(), 0.1, ()).best_batch == best


def tiny():
    return Sleepy()


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bench_tests_models", sys.modules[__name__])
    (tmp_path / "run.yaml").write_text(
        "model: {factory: bench_tests_models.tiny}\ndata: {crop: 16}\n"
        "lime: {quality: lime, n_samples: 60, segments: grid}\nout: runs/mine\n"
    )
    monkeypatch.chdir(tmp_path)
    return ["bench", "--config", "run.yaml", "--seconds", "0.1", "--variants", "batch_size"]


def test_the_command_on_files(arguments, photographs, tmp_path, capsys):
    assert main.main([*arguments, "--data.source", "photographs", "--out", "found.json"]) == 0
    output = capsys.readouterr()
    assert "3 of photographs" in output.out
    assert "the whole set" in output.out
    assert output.out.rstrip().endswith("saved: found.json")
    assert "about" in output.err
    assert json.loads((tmp_path / "found.json").read_text())["whole_images"] == 3
    assert {path.name for path in tmp_path.iterdir()} == {"photographs", "run.yaml", "found.json"}


@pytest.mark.long
def test_the_command_on_random_images(arguments, tmp_path, capsys):
    assert main.main([*arguments, "--images", "random", "--data.source", "nowhere"]) == 0
    output = capsys.readouterr().out
    assert "random pixels, 3 x 16 x 16" in output
    assert "1,000 images" in output
    assert {path.name for path in tmp_path.iterdir()} == {"run.yaml"}, "nothing is written"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "precison"], "--variants must be one of 'precision', 'channels_last'"),
        (["--seconds", "0"], "seconds must be above 0; got 0"),
        (["--images", "noise"], "--images must be 'random'"),
        (["--data.source", "nowhere"], "data.source 'nowhere': there is no such folder or file (--images random measures"),
        (["--out", "no/such/folder/x.json"], "--out must be a file in a folder that is there"),
        (["--second", "1"], "unknown option '--second' (did you mean '--seconds'?)"),
    ],
)
def test_a_mistake_is_one_line(arguments, more, message, capsys):
    assert main.main([*arguments, *more]) == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith(f"gpulime: {message}")
    assert not shown.out


def test_only_the_model_of_a_configuration_is_owned():
    found = of_config(Config(ModelConfig(factory="torch.nn.Identity"), DataConfig(crop=16)), "random")
    assert ownership.is_owned(found.model)
    assert not ownership.is_owned(subject().model)


@pytest.mark.parametrize(
    ("lime", "samples"),
    [
        ({}, QUALITIES["fast"].n_samples),
        ({"quality": "lime"}, 1000),
        ({"n_samples": 129}, 129),
        ({"n_samples": "auto", "tolerance": 0.1}, 257),
    ],
)
def test_samples_are_a_preset_s_or_what_auto_expects(lime, samples):
    config = Config(ModelConfig(factory="torch.nn.Identity"), DataConfig(crop=16), LimeConfig(**lime))
    assert of_config(config, "random").n_samples == samples


def test_a_preset_is_measured():
    """Pieces of a part of an image, too: the design and the Gaussian process take any number of samples."""
    found = measure(subject(Sleepy(a_row=0.001), n_samples=257, quality="fast"), 0.3, ())
    assert found.forwards_per_s.median == pytest.approx(257 * found.images_per_s.median)
    assert found.settings["n_samples"] == 257
    assert found.stages["fit"] > 0


def test_a_configuration_s_labels_are_as_many_as_a_run_s():
    config = Config(ModelConfig(factory="torch.nn.Identity"), DataConfig(crop=16), LimeConfig(top_labels=3))
    for labels, count in (("top", 3), ("target", 1), ("top+target", 4), ([7, 2], 2), (7, 1)):
        lime = LimeConfig(top_labels=3, labels=labels)
        assert of_config(Config(config.model, config.data, lime), "random").lime["top_labels"] == count
