"""Rows of a batch: the fastest size, found once and remembered for the next process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gpulime.engine.batch_size
from gpulime import Explainer, cache
from gpulime.engine.batch_size import BatchSize
from gpulime.segments import Grid

KIND = (3, 224, 224), torch.float32, torch.device("cpu")
PLENTY = 2**20


def layers(width=4, dtype=torch.float32):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 2)).to(dtype)


def as_they_lie(memory_format):
    return layers().to(memory_format=memory_format)


def used(batch_size, seconds, batches=60, kind=KIND, most=PLENTY):
    """The sizes that are passed while a batch of b rows takes ``seconds(b)``."""
    sizes, clock = [], SimpleNamespace(now=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpulime.engine.batch_size.time", SimpleNamespace(perf_counter=lambda: clock.now))
        patch.setattr("gpulime.device.synchronize", lambda device: None)
        for _ in range(batches):
            b = batch_size.get(kind, most)
            with batch_size.timed(b, kind):
                clock.now += seconds(b)
            sizes.append(b)
    return sizes


def used_as(batch_size, b, seconds):
    """Use a batch of b rows instead of the size to try."""
    clock = SimpleNamespace(now=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpulime.engine.batch_size.time", SimpleNamespace(perf_counter=lambda: clock.now))
        with batch_size.timed(b, KIND):
            clock.now += seconds(b)
    return [b]


def best_at(b):
    """Seconds of a batch of which b rows are the fastest."""
    return lambda rows: 5 + rows + max(0, rows - b) ** 2


# The search


@pytest.mark.parametrize(
    ("device", "seconds", "best"),
    [
        ("cpu", lambda b: 1 + 0.1 * b, 320),  # ever better, up to 2**28 bytes of rows
        ("cpu", lambda b: b + 0.1 * max(0, b - 20) ** 2, 10),
        ("cpu", best_at(20), 20),
        ("cpu", lambda b: b * 0.99 ** b.bit_length(), 10),  # a hundredth is no gain
        ("cuda", lambda b: 1 + 0.1 * b, 256),
        ("cuda", lambda b: b * (2 if b == 64 else 1) / min(b, 128), 128),  # one bad size does not end the search
    ],
)
def test_auto_finds_the_fastest_size(device, seconds, best):
    kind = KIND[0], KIND[1], torch.device(device)
    sizes, start = used(BatchSize("auto"), seconds, kind=kind), 10 if device == "cpu" else 32
    assert sizes[:6] == [start] * 3 + [2 * start] * 3
    assert sizes[-20:] == [best] * 20


def test_where_memory_runs_out_the_search_ends():
    batch_size = BatchSize("auto", layers())
    assert used(batch_size, lambda b: 1 + 0.1 * b, 9) == [10] * 3 + [20] * 3 + [40] * 3
    assert not batch_size.is_found(KIND)
    assert batch_size.get(KIND, 70) == 40  # 80 were too many, and 40 are the best yet
    assert batch_size.is_found(KIND)
    assert batch_size.get(KIND, 30) == 30
    assert cache.entries() == {}  # there may be more memory another time


def test_a_fixed_size_is_found_at_once():
    batch_size = BatchSize(7)
    assert batch_size.is_found(KIND)
    assert [batch_size.get(KIND, most) for most in (PLENTY, 7, 3)] == [7, 7, 3]


def test_auto_passes_the_same_rows(cnn, calls, pictures):
    def explain(batch_size):
        return Explainer(cnn, 60, Grid(3, 3), batch_size=batch_size).explain(pictures(5)).coefficients

    expected = explain(16)
    calls.clear()
    actual = explain("auto")
    assert sum(len(rows) for rows in calls) == 300
    assert float((actual - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


# Remembered sizes


def test_the_next_search_is_none():
    assert used(BatchSize("auto", layers()), best_at(40))[-1] == 40
    assert used(BatchSize("auto", layers()), best_at(10), 3) == [40] * 3


def test_new_weights_are_the_same_model():
    model = layers()
    used(BatchSize("auto", model), best_at(40))
    with torch.no_grad():
        model[0].weight.neg_()
    assert BatchSize("auto", model.train()).get(KIND, PLENTY) == 40


OTHERS = {
    "width": (layers(5), KIND),
    "dtype of weights": (layers(dtype=torch.bfloat16), KIND),
    "class": (nn.ModuleList(layers()), KIND),
    "layers": (nn.Sequential(*layers(), nn.Softmax(1)), KIND),
    "shape": (layers(), ((3, 224, 223), *KIND[1:])),
    "precision": (layers(), (KIND[0], torch.bfloat16, KIND[2])),
    "memory format": (as_they_lie(torch.channels_last), KIND),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_model_or_kind_of_rows_is_searched_anew(what):
    used(BatchSize("auto", layers()), best_at(40))
    model, kind = OTHERS[what]
    assert BatchSize("auto", model).get(kind, PLENTY) == 10


@pytest.mark.parametrize("compile", [True, "max-autotune"])
def test_a_way_of_compiling_is_searched_for_itself(compile):
    """Sizes are tried with the model as it is, but the size found for one mode is not used for another."""
    used(BatchSize("auto", layers()), best_at(40))
    compiled = BatchSize("auto", layers(), compile)
    assert compiled.get(KIND, PLENTY) == 10
    used(compiled, best_at(20))
    found = {setting: BatchSize("auto", layers(), setting).get(KIND, PLENTY) for setting in (False, True, "max-autotune")}
    assert found == {False: 40, True: 10, "max-autotune": 10} | {compile: 20}
    assert len(cache.entries()) == 2


def test_an_explainer_s_sizes_are_of_its_way_of_compiling(cnn):
    for compile in (False, True, "reduce-overhead"):
        assert Explainer(cnn, compile=compile).batch_size.compile == compile


def test_what_is_kept_says_how_it_was_found():
    used(BatchSize("auto", as_they_lie(torch.channels_last), "max-autotune"), best_at(20))
    used(BatchSize("auto", as_they_lie(torch.contiguous_format), True), best_at(20))
    used(BatchSize("auto", layers()), best_at(20))
    first, second, third = cache.entries()
    assert ", 3x224x224 float32, weights in channels_last, compiled, max-autotune, " in first
    assert ", 3x224x224 float32, compiled, " in second
    assert "channels_last" not in second
    assert "compiled" not in third


@pytest.mark.parametrize("what", ["device", "torch"])
def test_another_machine_is_searched_anew(what, monkeypatch):
    used(BatchSize("auto", layers()), best_at(40))
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "99.0")
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert BatchSize("auto", layers()).get(KIND, PLENTY) == 10


def test_what_has_no_structure_is_not_remembered(cnn, pictures):
    used(BatchSize("auto"), best_at(40))
    assert cache.entries() == {}
    explainer = Explainer(lambda rows: cnn(rows), n_samples=20, segments=Grid(3, 3))
    assert explainer.batch_size.model is None


def test_an_explainer_remembers_for_the_next(cnn, pictures, monkeypatch):
    monkeypatch.setattr(gpulime.engine.batch_size._Trial, "BYTES", 4 * 3 * 24 * 20 * 100)  # sizes that 800 rows fill

    def explainer():
        return Explainer(cnn, n_samples=200, segments=Grid(3, 3))

    first, kind = explainer(), ((3, 24, 20), torch.float32, torch.device("cpu"))
    while not first.batch_size.is_found(kind):
        first.explain(pictures())
    second = explainer()
    second.explain(pictures(1))
    assert second.batch_size.is_found(kind)
    assert [second.batch_size.get(kind, PLENTY)] == [*cache.entries().values()] == [first.batch_size.get(kind, PLENTY)]


def test_a_search_that_its_rows_do_not_fill_ends_and_is_not_remembered():
    """Else a model that shall be compiled never would be where a few images are explained at a time."""
    batch_size, sizes = BatchSize("auto", layers()), []
    for _ in range(30):  # explanations of 50 rows: the fastest they can be is 40 at a time
        left = 50
        while left:
            b = min(left, batch_size.get(KIND, PLENTY))
            sizes += used_as(batch_size, b, lambda b: 1 + 0.1 * b)
            left -= b
    assert batch_size.is_found(KIND)
    assert batch_size.get(KIND, PLENTY) == 40
    assert 0 < sizes.count(50) <= BatchSize.MISSED
    assert cache.entries() == {}


def test_a_batch_now_and_then_that_is_too_small_ends_no_search():
    batch_size = BatchSize("auto", layers())
    for number in range(100):
        b = batch_size.get(KIND, PLENTY)
        used_as(batch_size, b // 2 if number % 5 else b, lambda b: 1 + 0.1 * b)
    assert batch_size.get(KIND, PLENTY) == 320


def test_a_training_loop_asks_once_and_keeps_once(monkeypatch, cnn, pictures):
    asked = []
    named = gpulime.engine.batch_size._named
    monkeypatch.setattr(gpulime.engine.batch_size, "_named", lambda *given: asked.append(given) or named(*given))
    explainer = Explainer(cnn, n_samples=20, segments=Grid(3, 3))
    for _ in range(20):
        explainer.explain(pictures(1))
    assert 1 <= len(asked) <= 2  # the search may not be over


@pytest.mark.parametrize("b", [10**6, 0, -3, 2.5, True, "40", None])
def test_a_size_that_makes_no_sense_is_not_taken(b):
    used(BatchSize("auto", layers()), best_at(40))
    (name,) = cache.entries()
    cache.path().write_text(f'{{"{name}": {b!r}}}'.replace("'", '"').replace("True", "true").replace("None", "null"))
    assert BatchSize("auto", layers()).get(KIND, PLENTY) == 10


# The file


@pytest.mark.parametrize("text", ["", "{", '{"x": 4', "[1]", "7", "null", "\ufffd", '{"x": 4}\x00'])
def test_a_broken_file_is_ignored_and_replaced(text):
    cache.keep("other", 7)
    cache.path().write_text(text)
    assert cache.entries() == {}
    cache.keep("x", 40)
    assert cache.entries() == {"x": 40}


def test_bytes_that_are_no_text_are_ignored():
    cache.keep("other", 7)
    cache.path().write_bytes(b"\xff\xfe\x00")
    assert cache.entries() == {}


def test_the_newest_are_kept(monkeypatch):
    monkeypatch.setattr(cache, "MOST", 3)
    for name, b in [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("d", 5)]:
        cache.keep(name, b)
    assert list(cache.entries().items()) == [("c", 3), ("a", 4), ("d", 5)]


def test_off_keeps_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("GPULIME_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    used(BatchSize("auto", layers()), best_at(40))
    assert cache.path() is None
    assert cache.entries() == {}
    assert cache.clear() == 0
    assert not list(tmp_path.iterdir())


def test_it_lies_where_such_files_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("GPULIME_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.path() == tmp_path / ".cache" / "gpulime" / "batch_sizes.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.path() == tmp_path / "xdg" / "gpulime" / "batch_sizes.json"
    monkeypatch.setenv("GPULIME_CACHE", str(tmp_path / "own"))
    assert cache.path() == tmp_path / "own" / "batch_sizes.json"


def test_a_folder_that_cannot_be_written_costs_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GPULIME_CACHE", str(tmp_path / "file"))
    assert used(BatchSize("auto", layers()), best_at(40))[-1] == 40
    assert cache.entries() == {}
    assert cache.clear() == 0


def test_nothing_is_left_beside_it(monkeypatch):
    def refuse(source, target):
        raise OSError("the disk is full")

    cache.keep("a", 1)
    monkeypatch.setattr(os, "replace", refuse)
    cache.keep("b", 2)
    assert [file.name for file in cache.path().parent.iterdir()] == ["batch_sizes.json"]
    assert cache.entries() == {"a": 1}


WRITER = """
import sys
from gpulime import cache
for i in range(100):
    cache.keep(f"{sys.argv[1]} {i}", i + 1)
    assert cache.entries(), "a part of the file was seen"
"""


def test_processes_that_write_at_once_never_see_a_part():
    root = Path(gpulime.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    both = [subprocess.Popen([sys.executable, "-c", WRITER, name], env=environment) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(cache.entries()) >= 100  # entries of one may be lost to the other; all are whole


def test_doctor_shows_and_forgets_what_is_kept(capsys, monkeypatch):
    from gpulime.cli import main

    cache.keep("ResNet 0123, 3x224x224 float32, AVX2 with 2 threads", 40)
    assert main.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"cache        {cache.path()}\n" in said
    assert "          40 rows: ResNet 0123, 3x224x224 float32, AVX2 with 2 threads\n" in said
    assert main.main(["doctor", "--clear-cache"]) == 0
    assert capsys.readouterr().out == f"1 batch size forgotten: {cache.path()}\n"
    assert not cache.path().exists()
    monkeypatch.setenv("GPULIME_CACHE", "off")
    assert main.main(["doctor"]) == 0
    assert "cache        none\n" in capsys.readouterr().out
    assert main.main(["doctor", "--clear-cache"]) == 0
    assert capsys.readouterr().out == "0 batch sizes forgotten: GPULIME_CACHE is off\n"
