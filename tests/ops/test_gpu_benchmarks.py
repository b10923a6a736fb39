"""``python -m benchmarks.gpu``, tried on a CPU: problems are tiny, kernels run under the host shim."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.profiler_util import Interval

from benchmarks import gpu, gpu_engine, rows, table
from benchmarks.gpu_rows import Bench, Row
from gpulime import Explainer, segments
from gpulime.images.segments import OPS
from gpulime.ops import masked_images as masking
from gpulime.ops.quickshift import quickshift

CPU = torch.device("cpu")
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def kept(host, monkeypatch, tmp_path):
    """Keep rows outside the repository and mask with the kernel; return the function that reads the rows."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr("gpulime.images.masked_images.composer", masking.launcher)
    monkeypatch.setattr(masking, "masked_images", masking.by_kernel)
    found = lambda: rows.read(tmp_path / "tiny" / "gpu" / "none.csv", Row)  # noqa: E731
    return lambda: {(row.entry, row.side): row for row in found() if row.entry != gpu.STEP or row.reason}


def run(*names, options=()):
    return gpu.main(["--device", "cpu", "--tiny", "--save", *options, *(["--only", *names] if names else [])])


@pytest.mark.long
def test_kernels_are_compared_and_timed(kept):
    """The exit code does not count: under the shim no bound holds."""
    run("checks", "masked_images", "bernoulli", "slic", "quickshift", "share_of_model")
    found = kept()
    for name in ("bernoulli", "masked_images", "quickshift", "slic"):
        assert found[name, "kernel beside its reference"].ok == "yes"
        assert (found[name, "kernel"].error, found[name, "kernel"].error_limit) == ("0", "0")
    kernel, fill = found["masked_images", "kernel"], found["masked_images", "fill of as much memory"]
    assert float(kernel.ratio) == pytest.approx(float(fill.ms) / float(kernel.ms), rel=1e-2)
    assert float(kernel.gb_s) == pytest.approx(int(kernel.bytes) / float(kernel.ms) / 1e6, rel=1e-2)
    for entry in ("slic", "quickshift"):
        assert float(found[entry, "kernel"].rate) == pytest.approx(2000 / float(found[entry, "kernel"].ms), rel=1e-2)
        assert found[entry, "scikit-image, one core"].rate
        assert float(found[entry, "kernel"].at_most) > 0
    assert all(row.device == "none" and row.date and row.torch for row in found.values())
    shares = [row for (entry, _), row in found.items() if entry == "share_of_model"]
    assert len(shares) == 2
    assert all(row.ms and 0 < float(row.error) <= float(row.error_limit) for row in shares)


@pytest.mark.long
def test_a_wrong_kernel_fails_and_gets_no_time(kept, monkeypatch):
    monkeypatch.setattr(masking, "masked_images", lambda images, fills, *others: masking.by_kernel(fills, images, *others))
    assert run("checks", "masked_images") == 1
    wrong = [row for (entry, _), row in kept().items() if entry == "masked_images"]
    assert [(row.ok, row.ms) for row in wrong] == [("no", "")] * 2


def test_a_segmenter_with_other_ids_gets_no_time(kept, monkeypatch):
    monkeypatch.setitem(OPS, segments.Quickshift, lambda images, **options: quickshift(images, **options) + 1)
    assert run("quickshift") == 1
    row = kept()["quickshift", "kernel"]
    assert (row.ok, row.ms, row.reason) == ("no", "", "0.00000 of the ids at 9x11")


def test_the_engine_is_timed_beside_the_bare_model(kept):
    assert run("efficiency_vit_b16") == 0
    share = kept()["efficiency", "ViT-B/16, explained"]
    (bare,) = [row for (_, side), row in kept().items() if ", bare forwards, b = " in side]
    assert float(share.ratio) == pytest.approx(float(share.rate) / float(bare.rate), rel=1e-2)
    assert 0 < float(share.error) <= float(share.error_limit) < 1
    assert not bare.error
    assert (share.bound, share.ok) == ("at least 0.98 of the bare model's forwards/s", "")  # nothing is required of a trial


@pytest.mark.long
def test_a_night_is_extrapolated_from_a_while_of_the_queue(kept):
    assert run("extrapolation") == 0
    whole, minutes = kept().values()
    assert float(minutes.ratio) == pytest.approx(gpu_engine.NIGHT / float(whole.rate) / 60, rel=1e-2)
    assert float(whole.ratio) > 0
    assert (whole.unit, minutes.bound) == ("images", "at most 60")
    assert 0 < float(whole.error) <= float(whole.error_limit)


def test_an_engine_with_other_coefficients_gets_no_time(kept, monkeypatch):
    error = Bench.error
    monkeypatch.setattr(Bench, "error", lambda self, *given: (float("nan"), error(self, *given)[1]))
    assert run("efficiency_vit_b16", "extrapolation") == 1
    wrong = [row for (_, side), row in kept().items() if "bare forwards" not in side]
    assert len(wrong) == 2
    for row in wrong:
        assert (row.ok, row.ms, row.rate, row.ratio) == ("no", "", "", "")
        assert row.reason.startswith("its coefficients are wrong by nan, and may be by ")


@pytest.mark.long
def test_compiled_models_are_timed_beside_the_same_without_and_wrong_ones_are_not(kept, monkeypatch):
    wrong = "reduce-overhead"

    def compiled(model, backend=None, **how):
        return (lambda rows: model(rows).flip(1) * 2) if backend is not None and backend.graphs else model

    monkeypatch.setattr(torch, "compile", compiled)
    assert run("compiled_resnet_50") == 1
    plain, same, other = (kept()["compiled", f"ResNet-50, {way}"] for way in ("as it is", "compile=True", f"compile={wrong!r}"))
    assert (plain.ratio, same.error, bool(float(same.rate))) == ("1", "0", True)
    assert (other.ok, other.ms) == ("no", "")
    assert other.reason.startswith("probabilities differ by ")


@pytest.fixture
def commands(monkeypatch):
    """The commands of steps, which are not run."""
    seen = []
    monkeypatch.setattr(gpu, "run", lambda argv, *how, **more: seen.append(list(argv)) or "exit code 1: a reason")
    monkeypatch.setattr(gpu.shutil, "which", lambda program: program)
    return seen


def test_steps_that_are_commands_keep_their_verdicts(commands, kept):
    assert run("peers", "ablation", "growth", "tests", "bench") == 1
    assert set(kept()) >= {("peers", "benchmarks.peers"), ("tests", "pytest tests -m 'gpu'"), ("bench", "gpulime bench")}
    assert {(row.ok, row.reason) for row in kept().values()} == {("no", "exit code 1: a reason")}
    assert {command[command.index("-m") + 1].partition(".")[0] for command in commands} == {"benchmarks", "pytest", "gpulime"}


@pytest.mark.long
def test_commands_of_steps_are_understood(commands):
    """Each is run as far as its help, pytest as far as the collection: all files with tests for a GPU are found."""
    bench = Bench(CPU, tiny=True, saves=True)
    marked = {path.name for path in TESTS.rglob("test_*.py") if "@pytest.mark.gpu" in path.read_text(encoding="utf-8")}
    for name in ("tests", "telling_tests", "growth", "racecheck"):
        list(gpu.STEPS[name](bench))
    for command in commands:
        last = "--collect-only" if "pytest" in command else "--help"
        done = subprocess.run(
            [*command[command.index(sys.executable) :], last], cwd=TESTS.parent, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if "tests" in command:
            assert {Path(line.partition("::")[0]).name for line in done.stdout.splitlines() if "::" in line} >= marked


def test_tests_that_need_a_gpu_are_marked():
    """With a condition of its own a test would be missing in the step ``tests``."""
    condition = "skipif(not torch." + "cuda.is_available()"
    assert [path.name for path in TESTS.rglob("*.py") if condition in path.read_text(encoding="utf-8")] == []


@pytest.mark.gpu
def test_a_test_with_the_marker_runs_only_with_a_gpu():
    assert torch.cuda.is_available()


def test_it_prints_the_table_of_the_page(kept, tmp_path, monkeypatch, capsys):
    """With all kept rows, also those of an earlier call."""
    timed = lambda name: lambda bench: iter([bench.row(name, "kernel", (0.002, 0.003), 10, "rows")])  # noqa: E731
    monkeypatch.setattr(gpu, "STEPS", {"a": timed("first"), "b": timed("second")})
    run("a")
    run(options=["--resume"])
    printed = capsys.readouterr().out
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "tiny")
    page = table.PAGES[table.ROOT / "docs" / "gpu.md"]["gpu"]()
    shown = page[page.index("|") :]
    assert printed.endswith(f"\n\n{shown}\n")
    assert [line.split(":")[0] for line in shown.splitlines()[2:]] == ["| first", "| second"]


def test_commands_of_the_page_end_before_the_device_s_minutes_do():
    """A command may take ten minutes, all of them fifteen; a machine takes one to start, and Python some seconds."""
    page = (TESTS.parent / "docs" / "gpu.md").read_text(encoding="utf-8")
    minutes = [int(found) for found in re.findall(r"python -m benchmarks\.gpu --minutes (\d+)", page)]
    assert max(minutes) < 10
    assert len(minutes) == 2
    assert sum(minutes) + len(minutes) <= 15


def test_the_table_shows_rows_with_a_time_or_a_bound():
    text = table.of_gpu(
        [
            Row("checks", "fine", ok="yes"),
            Row("efficiency", "explained", "8", "7", "9", "100", "forwards")
            .erring(0.031, 0.2)
            .kept(0.98, "at least 0.97", True),
            Row("extrapolation", "minutes").kept(61, "at most 60", False),
            Row("slic", "kernel", ok="no", reason="exit code 1: this | that"),
        ]
    )
    assert text.splitlines()[2:] == [
        "| efficiency: explained | 8 (7 to 9) | 100 forwards/s | 0.98 | at least 0.97 | 0.031 | ok |",
        "| extrapolation: minutes |  |  | 61 | at most 60 |  | **FAILED** |",
        r"| slic: kernel | none: exit code 1: this \| that |  |  |  |  | **FAILED** |",
    ]


def test_it_ends_in_time_with_its_rows_ends_its_commands_and_goes_on(kept, monkeypatch, capsys):
    begun, runs = [], []
    popen = subprocess.Popen
    monkeypatch.setattr(gpu.subprocess, "Popen", lambda *args, **how: begun.append(popen(*args, **how)) or begun[-1])

    def first(bench):
        yield bench.verdict("a", "b")

    def second(bench):
        runs.append("second")
        if len(runs) == 1:
            yield bench.verdict("c", "d", gpu.run([sys.executable, "-c", "import time; time.sleep(60)"], 60))
        yield bench.verdict("c", "e")

    monkeypatch.setattr(gpu, "STEPS", {"first": first, "second": second, "third": first})
    assert run(options=["--minutes", "0.02"]) == 0
    assert "the 0.02 minutes are over; left for --resume: second, third" in capsys.readouterr().out
    assert set(kept()) == {("a", "b")}
    assert begun[-1].returncode == -signal.SIGKILL
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert run(options=["--resume"]) == 0
    assert set(kept()) == {("a", "b"), ("c", "e")}
    assert run(options=["--resume"]) == 0
    assert runs == ["second", "second"]
    assert run() == 0  # from the beginning
    assert runs == ["second"] * 3


KILLED = """
import os, signal, sys
from benchmarks import gpu, rows

def step(bench):
    for name in "abc":
        yield bench.verdict("kept", name)
    rows.asdict = lambda row: os.kill(os.getpid(), signal.SIGKILL)
    yield bench.verdict("kept", "d")

rows.RESULTS = rows.Path(sys.argv[1])
gpu.STEPS = {"step": step}
gpu.main(["--device", "cpu", "--tiny", "--save"])
"""


def test_rows_are_kept_if_it_is_killed_even_while_it_writes_one(kept, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=TESTS.parent, check=False)
    assert done.returncode == -signal.SIGKILL
    assert set(kept()) == {("kept", name) for name in "abc"}


def failing(model, **how):
    raise RuntimeError("Failed to find C compiler")


def test_where_nothing_can_be_compiled_nothing_is_called_compiled(kept, monkeypatch, capsys):
    """A machine without a C compiler: each try would take a while."""
    monkeypatch.setattr(torch, "compile", failing)
    assert run("compiled_28x28_cnn") == 0
    assert "compiled_28x28_cnn: left out, torch.compile fails: RuntimeError: Failed to find C" in capsys.readouterr().out
    assert kept() == {}
    assert gpu_engine.Made(Bench(CPU), replace(gpu_engine.CNN28, batches=(20,), n=2)).compile is False


def test_a_model_that_cannot_be_compiled_gets_no_time(kept, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **how: failing(model) if isinstance(model, torch.nn.Module) else model)
    with pytest.warns(UserWarning, match="cannot be compiled"):
        assert run("compiled_28x28_cnn") == 1
    plain, *compiled = kept().values()
    assert plain.side == "28x28 CNN, as it is"
    assert [(row.ok, row.ms, row.reason) for row in compiled] == [("no", "", "RuntimeError: Failed to find C compiler")] * 2


def test_it_ends_in_time_while_a_model_is_compiled(kept, monkeypatch, capsys):
    def compiling(bench):
        explainer = Explainer(lambda rows: rows.mean((2, 3)), 10, segments.Grid(2, 2), compile=True)
        explainer.explain(torch.rand(1, 3, 8, 8))
        yield bench.verdict("a", "b")

    monkeypatch.setattr(torch, "compile", lambda model, **how: lambda rows: time.sleep(60))
    monkeypatch.setattr(gpu, "STEPS", {"compiling": compiling})
    assert run(options=["--minutes", "0.02"]) == 0
    assert "left for --resume: compiling" in capsys.readouterr().out
    assert kept() == {}


def test_a_step_that_fails_is_a_row_and_the_next_ones_run(kept, monkeypatch):
    def fails(bench):
        raise RuntimeError("no")

    monkeypatch.setattr(gpu, "STEPS", {"fails": fails, "next": lambda bench: iter([bench.verdict("a", "b")])})
    assert run() == 1
    assert {key: row.reason for key, row in kept().items()} == {("step", "fails"): "RuntimeError: no", ("a", "b"): ""}
    monkeypatch.setitem(gpu.STEPS, "fails", lambda bench: iter([]))
    assert run("fails") == 0
    assert set(kept()) == {("a", "b")}


def test_a_step_that_loses_the_device_leaves_the_next_ones_for_another_process(kept, monkeypatch, capsys):
    """All of them would fail in this one, and count as done."""

    def loses(bench):
        yield bench.verdict("a", "b")
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu, "STEPS", {"loses": loses, "next": lambda bench: iter([bench.verdict("c", "d")])})
    assert run() == 1
    assert "loses has lost the device; left for --resume: next\n" in capsys.readouterr().out
    assert set(kept()) == {("a", "b"), ("step", "loses")}
    assert run(options=["--resume"]) == 0
    assert set(kept()) == {("a", "b"), ("c", "d"), ("step", "loses")}


def test_a_later_call_tries_what_was_left_out_but_no_part_of_the_tests(kept, monkeypatch):
    tried = []

    def lacks(bench):
        tried.append("lacks")
        raise ModuleNotFoundError("no such package")

    def telling(bench):
        tried.append("telling_tests")
        yield bench.verdict("a", "b")

    monkeypatch.setattr(gpu, "STEPS", {"tests": lambda bench: iter([]), "lacks": lacks})
    assert run() == 0
    monkeypatch.setattr(gpu, "STEPS", {"telling_tests": telling, **gpu.STEPS})
    assert run(options=["--resume"]) == 0
    assert tried == ["lacks", "lacks"]


def test_what_a_profiler_has_seen():
    def event(name, start, end, device):
        return SimpleNamespace(name=name, device_type=device, time_range=Interval(start, end))

    gpu_, cpu = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
    events = [
        event("cudaStreamSynchronize", 0, 9, cpu),
        event("aten::add", 0, 1, cpu),
        event("slic_connect", 6, 10, gpu_),
        event("gemm", 0, 4, gpu_),
    ]
    idle, waits, connecting = gpu_engine.seen(Bench(CPU), events, 4)
    assert (idle.ratio, idle.ok, waits.ratio, connecting.ratio) == ("0.2", "no", "0.25", "0.4")
    with pytest.raises(ModuleNotFoundError, match="sees no kernels here"):
        list(gpu_engine.seen(Bench(CPU), events[:2], 4))


def test_tests_that_are_all_skipped_prove_nothing(kept, monkeypatch):
    monkeypatch.setattr(gpu, "PYTEST", (sys.executable, "-c", "print('3 skipped in 0.1s')"))
    assert run("tests") == 1
    assert [row.reason for row in kept().values()] == ["exit code 0: 3 skipped in 0.1s"]


def test_the_idle_share_counts_gaps_once():
    assert gpu_engine.idle_share([(0.0, 2.0), (1.0, 3.0), (1.0, 2.0), (5.0, 10.0)]) == 0.2


def test_a_missing_program_is_left_out_and_said(kept, monkeypatch, capsys):
    monkeypatch.setattr(gpu.shutil, "which", lambda program: None)
    assert run("racecheck") == 0
    assert "racecheck: left out, compute-sanitizer is not installed" in capsys.readouterr().out
    assert kept() == {}


@pytest.mark.long
def test_torch_numpy_and_cupy_are_enough():
    """Without other packages and without programs, such as git."""
    missing = "skimage sklearn scipy PIL torchvision pyarrow matplotlib lime captum ray yaml pytest jinja2"
    program = f"import sys; sys.modules.update(dict.fromkeys('{missing}'.split())); from benchmarks import gpu; "
    program += "sys.exit(gpu.main(['--only', 'checks', '--device', 'cpu', '--tiny']))"
    root = Path(__file__).parents[2]
    how = {"cwd": root, "capture_output": True, "encoding": "utf-8", "check": False}
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PATH": ""}, **how)
    assert done.stdout.startswith("kernels, CuPy: FAILED kernels cannot run here: gpulime doctor says why\n"), done.stderr


def test_a_machine_without_a_gpu_is_told(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit) as stopped:
        gpu.main([])
    assert stopped.value.code == 2
    assert "PyTorch sees no GPU" in capsys.readouterr().err
