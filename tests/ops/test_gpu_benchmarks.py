"""``python -m benchmarks.gpu``, tried out on a CPU: problems are tiny, kernels run under the host shim."""

from __future__ import annotations

import functools
import itertools
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks/ is part of the checkout, not of the package

from benchmarks import ablation, gpu, gpu_engine, gpu_error, gpu_field, gpu_kernels, gpu_page, gpu_rows, growth
from benchmarks.gpu_rows import Bench, Row
from benchmarks.peers import __main__ as peers
from benchmarks.rows import read, results_file
from gpulime import segments
from gpulime.cli import main
from gpulime.images.segments import OPS
from gpulime.ops import masked_images as masking
from gpulime.ops.quickshift import quickshift

CPU = torch.device("cpu")
TESTS = Path(__file__).parents[1]
RUN = gpu._run  # the real one


@pytest.fixture(autouse=True)
def kept(host, monkeypatch, tmp_path):
    """Where --save keeps rows: not in the repository; and rows are masked by the kernel."""
    monkeypatch.setattr("benchmarks.rows.RESULTS", tmp_path)
    monkeypatch.setattr(masking, "masked_images", masking.by_kernel)
    monkeypatch.setattr(gpu, "_run", lambda command, seconds: "")
    return results_file("none", "gpu", tiny=True)


def run(stage):
    return gpu.main(["--stage", stage, "--device", "cpu", "--tiny", "--save"])


@pytest.mark.long
def test_checks_compare_every_kernel(kept):
    assert run("checks") == 0
    assert [(row.entry, row.ok, row.ms) for row in read(kept, Row)] == [
        (name, "yes", "") for name in ("bernoulli", "masked_images", "quickshift", "slic")
    ]


@pytest.mark.long
def test_a_wrong_kernel_fails_and_gets_no_time(kept, monkeypatch):
    monkeypatch.setattr(masking, "masked_images", lambda images, fills, *others: masking.by_kernel(fills, images, *others))
    monkeypatch.setitem(gpu.STAGES, "kernels", (gpu_kernels.checks, gpu_kernels.masked_images))
    assert run("kernels") == 1
    rows = [row for row in read(kept, Row) if row.entry == "masked_images"]
    assert [row.ok for row in rows] == ["no", "no"]
    assert not any(row.ms for row in rows)


def test_a_segmenter_with_other_ids_gets_no_time(kept, monkeypatch):
    monkeypatch.setitem(OPS, segments.Quickshift, lambda images, **options: quickshift(images, **options) + 1)
    monkeypatch.setitem(gpu.STAGES, "kernels", (gpu_kernels.quickshift,))
    assert run("kernels") == 1
    (row,) = [row for row in read(kept, Row) if row.side == "kernel"]
    assert (row.ok, row.ms, row.reason) == ("no", "", "0.00000 of the ids at 13x15")


@pytest.mark.long
def test_kernels_are_timed_beside_their_bounds(kept, monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda program: program)
    run("kernels")
    rows = {(row.entry, row.side): row for row in read(kept, Row)}
    assert {("sanitizer", f"compute-sanitizer {tool}") for tool in ("memcheck", "racecheck")} < set(rows)
    assert rows["tests", "pytest tests/ops"].ok == "yes"
    kernel, fill = rows["masked_images", "kernel"], rows["masked_images", "fill of as much memory"]
    assert float(kernel.ratio) == pytest.approx(float(fill.ms) / float(kernel.ms), rel=1e-2)
    assert float(kernel.gb_s) == pytest.approx(int(kernel.bytes) / float(kernel.ms) / 1e6, rel=1e-2)
    for entry in ("slic", "quickshift"):
        assert float(rows[entry, "kernel"].rate) == pytest.approx(2000 / float(rows[entry, "kernel"].ms), rel=1e-2)
        assert rows[entry, "scikit-image, one core"].rate
        assert float(rows[entry, "kernel"].at_most) > 0
    assert all(row.device == "none" and row.date and row.torch for row in rows.values())
    assert all(row.error == row.error_limit == "0" for row in rows.values() if row.ms and row.side == "kernel")
    shares = [row for row in rows.values() if row.entry == "share_of_model"]
    assert len(shares) == 2
    assert all(row.ms and 0 < float(row.error) <= float(row.error_limit) for row in shares)


def test_the_command_is_run(kept, monkeypatch):
    commands = []
    monkeypatch.setattr(gpu, "_run", lambda command, seconds: commands.append(command) or "")
    assert run("bench") == 0
    assert [row.side for row in read(kept, Row)] == ["gpulime bench", "pytest tests/test_bench.py"]
    assert all(Path(word).exists() for word in commands[0] if word.startswith("tests/"))


def test_the_engine_is_timed_beside_the_bare_model(kept):
    assert run("efficiency") == 0
    assert not results_file("none", "gpu").exists()  # a trial's rows are not among the others
    rows = {(row.entry, row.side): row for row in read(kept, Row)}
    share = rows["efficiency", "28x28 CNN, explained"]
    (bare,) = [row for (_, side), row in rows.items() if side.startswith("28x28 CNN, bare forwards, b = ")]
    assert float(share.ratio) == pytest.approx(float(share.rate) / float(bare.rate), rel=1e-2)
    assert 0 < float(share.error) <= float(share.error_limit) < 1
    assert not bare.error
    assert (share.bound, share.ok) == ("at least 0.8 of the bare model's forwards/s", "")  # of tiny ones nothing is asked


def test_a_night_is_told_by_a_while_of_the_queue(kept):
    assert run("extrapolation") == 0
    whole, minutes = read(kept, Row)
    assert float(minutes.ratio) == pytest.approx(gpu_field.NIGHT / float(whole.rate) / 60, rel=1e-2)
    assert float(whole.ratio) > 0
    assert (whole.unit, minutes.bound) == ("images", "at most 60")
    assert 0 < float(whole.error) <= float(whole.error_limit)


@pytest.mark.parametrize("stage", ["efficiency", "transformer", "extrapolation", "kernels"])
def test_an_engine_with_other_coefficients_gets_no_time(stage, kept, monkeypatch):
    defined = gpu_error.defined
    monkeypatch.setattr(gpu_error, "defined", lambda *arguments: -defined(*arguments))
    monkeypatch.setitem(gpu.STAGES, "kernels", (gpu_engine.share_of_model,))
    assert run(stage) == 1
    rows = [row for row in read(kept, Row) if "bare forwards" not in row.side]
    assert rows
    for row in rows:
        assert (row.ok, row.ms, row.rate, row.ratio) == ("no", "", "", "")
        assert float(row.error) == pytest.approx(2, abs=0.9)
        assert row.reason.startswith(f"its coefficients are wrong by {row.error}, and may be by ")


def test_an_error_that_is_no_number_is_too_large():
    assert gpu_error.Error(0.1, 0.2).small
    assert not gpu_error.Error(0.3, 0.2).small
    assert not gpu_error.Error(float("nan"), 0.2).small


@pytest.mark.parametrize(("device", "ahead"), [("cpu", 0), ("cuda", 1)])
def test_the_queue_is_fetched_as_a_run_fetches_it(device, ahead, monkeypatch):
    asked = []

    def fetched(explained, ahead):
        asked.append(ahead)
        return iter(explained)

    monkeypatch.setattr(gpu_field, "fetched", fetched)
    explainer = SimpleNamespace(device=torch.device(device), stream=lambda batches: itertools.repeat([1, 2, 3]))
    assert gpu_field.steady(explainer, torch.zeros(1), 0.0, 0.01) > 0
    assert asked == [ahead]


@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("name", ["peers", "ablation", "growth"])
def test_an_instrument_is_a_stage_of_its_own(name, save, kept, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "_run", lambda command, seconds: asked.append((command[1:], seconds)) or "exit code 1: a reason")
    options = ["--save"] * save
    assert gpu.main(["--stage", name, "--device", "cpu", "--tiny", *options]) == 1
    assert asked == [(["-m", f"benchmarks.{name}", "--device", "cpu", *options, "--tiny"], gpu.INSTRUMENT_S)]
    rows = [(row.entry, row.ok, row.reason) for row in read(kept, Row)]
    assert rows == [(name, "no", "exit code 1: a reason")] * save


class Parsed(Exception):
    """What a parser has made of a command."""


def stop(parser, argv):
    raise Parsed(parser.parse_args(argv))


@pytest.fixture
def asked(monkeypatch):
    """A step -> the commands that it would run."""

    def commands(step, *arguments):
        seen = []
        monkeypatch.setattr(gpu, "_run", lambda command, seconds: seen.append(list(command)) or "")
        monkeypatch.setattr(gpu.shutil, "which", lambda program: program)
        list(step(Bench(CPU, tiny=True, keeps=True), *arguments))
        return seen

    return commands


@pytest.mark.parametrize("module", [peers, ablation, growth], ids=["peers", "ablation", "growth"])
def test_an_instrument_takes_its_arguments(module, asked, monkeypatch):
    (command,) = asked(gpu.instrument, module.__name__.removeprefix("benchmarks.").removesuffix(".__main__"))
    assert command[:3] == [sys.executable, "-m", module.__name__.removesuffix(".__main__")]
    monkeypatch.setattr(module, "parsed", stop)
    with pytest.raises(Parsed) as seen:
        module.main(command[3:])
    (options,) = seen.value.args
    assert (options.device, options.tiny, options.save) == ("cpu", True, True)


def test_the_sanitized_checks_take_their_arguments(asked, monkeypatch):
    (command,) = asked(gpu.sanitizer, "memcheck")
    monkeypatch.setattr(gpu, "parsed", stop)
    with pytest.raises(Parsed) as seen:
        gpu.main(command[command.index("benchmarks.gpu") + 1 :])
    (options,) = seen.value.args
    assert (options.stage, options.device, options.tiny, options.save) == ("checks", "cuda", True, False)


def test_gpulime_bench_takes_its_settings(asked, monkeypatch):
    _, command = asked(gpu.bench_command)
    assert command[:3] == [sys.executable, "-m", "gpulime"]
    seen = []
    monkeypatch.setattr("gpulime.bench.command.run", lambda config, **call: seen.append((config, call)))
    assert main.main(command[3:]) == 0
    ((config, call),) = seen
    assert (config.model.factory, config.data.crop) == ("torchvision.models.resnet50", 224)
    assert (call["images"], call["seconds"], call["out"]) == ("random", 4, None)


def collected(command):
    done = subprocess.run([*command, "--collect-only"], cwd=TESTS.parent, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in (0, 5), done.stdout  # 5: none, where those that need a GPU are made of the fixture `device` alone
    return {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}


def marked(folder):
    files = (path for path in folder.rglob("test_*.py") if path != Path(__file__))
    return {
        path.relative_to(TESTS.parent).as_posix() for path in files if "@pytest.mark.gpu" in path.read_text(encoding="utf-8")
    }


@pytest.mark.long
@pytest.mark.parametrize(("step", "folder"), [(gpu.ops_tests, TESTS / "ops"), (gpu.tests, TESTS), (gpu.bench_command, None)])
def test_pytest_finds_those_that_need_a_gpu(step, folder, asked):
    files = collected(asked(step)[0])
    assert files >= (marked(folder) if folder else set())
    assert len(files) >= (4 if folder else 0)


def test_the_stage_tests_runs_all_that_need_a_gpu(kept, monkeypatch):
    commands = []
    monkeypatch.setattr(gpu, "_run", lambda command, seconds: commands.append((list(command), seconds)) or "")
    assert run("tests") == 0
    ((command, seconds),) = commands
    assert command[:3] == [sys.executable, "-m", "pytest"]
    assert command[command.index("-m", 3) :][:2] == ["-m", "gpu"]
    assert "tests" in command
    assert seconds < 480
    assert [(row.entry, row.side, row.ok) for row in read(kept, Row)] == [("tests", "pytest tests", "yes")]


def test_what_needs_a_gpu_is_marked_so():
    """A condition of its own would keep it from the stage ``tests``."""
    condition = "skipif(not torch." + "cuda.is_available()"
    assert [path.name for path in TESTS.rglob("*.py") if condition in path.read_text(encoding="utf-8")] == []


@pytest.mark.gpu
def test_what_is_marked_runs_where_there_is_one_alone():
    assert torch.cuda.is_available()


def test_the_page_shows_what_has_a_time_or_a_bound():
    place = {"device": "a GPU", "torch": "2", "python": "3", "commit": "abc", "date": "today"}
    engine = Row("efficiency", "explained", "8", "7", "9", "100", "forwards", **place)
    text = gpu_page.table(
        [
            Row("checks", "fine", ok="yes", **place),
            gpu_rows.kept(gpu_error.Error(0.031, 0.2).beside(engine), 0.98, "at least 0.97", True),
            gpu_rows.kept(Row("extrapolation", "minutes", **place), 61, "at most 60", False),
            Row("slic", "kernel", ok="no", reason="exit code 1: this | that", **place),
        ]
    )
    assert text.splitlines()[2:] == [
        "| efficiency: explained | 8 (7 to 9) | 100 forwards/s | 0.98 | at least 0.97 | 0.031 | ok |",
        "| extrapolation: minutes |  |  | 61 | at most 60 |  | **FAILED** |",
        r"| slic: kernel | none: exit code 1: this \| that |  |  |  |  | **FAILED** |",
    ]
    assert gpu_page.table([Row("checks", "fine", ok="yes", **place)]) == ""


def test_rows_are_kept_as_they_come(kept, monkeypatch):
    def stopped(bench):
        yield bench.verdict("a", "b", "")
        raise KeyboardInterrupt

    monkeypatch.setitem(gpu.STAGES, "checks", (stopped,))
    with pytest.raises(KeyboardInterrupt):
        run("checks")
    assert [(row.entry, row.side) for row in read(kept, Row)] == [("a", "b")]


def test_a_stage_ends_before_8_minutes_with_what_it_has(kept, monkeypatch, capsys):
    """Also where a command is under way, which ends too."""
    begun = []

    def first(bench):
        yield bench.verdict("a", "b", "")
        popen = gpu.subprocess.Popen
        monkeypatch.setattr(gpu.subprocess, "Popen", lambda *args, **how: begun.append(popen(*args, **how)) or begun[-1])
        yield bench.verdict("c", "d", RUN([sys.executable, "-c", "import time; time.sleep(60)"], 60))

    def second(bench):
        yield bench.verdict("e", "f", "")

    assert gpu.STAGE_S < 480
    monkeypatch.setattr(gpu, "STAGE_S", 1.5)
    monkeypatch.setitem(gpu.STAGES, "checks", (first, second))
    assert run("checks") == 1
    late = "the stage is not done after 1.5 s"
    found = [(row.entry, row.side, row.ok, row.reason) for row in read(kept, Row)]
    assert found == [("a", "b", "yes", ""), ("first", "step", "no", f"TimeoutError: {late}")]
    assert f"second: left out, {late}" in capsys.readouterr().out
    assert [process.returncode for process in begun] == [-signal.SIGKILL]
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.long
def test_compiled_models_are_timed_beside_the_same_without(kept, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    assert run("compiled") == 0
    rows = {row.side: row for row in read(kept, Row)}
    assert set(rows) == {
        f"{name}, {way}" for name in gpu_engine.NAMES for way in ("as it is", "compile=True", "compile='reduce-overhead'")
    }
    assert rows["28x28 CNN, as it is"].ratio == "1"
    assert all(float(row.rate) > 0 for row in rows.values())


@pytest.mark.long
def test_a_compiled_model_with_other_answers_gets_no_time(kept, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **settings: lambda rows: model(rows).flip(1) * 2)
    assert run("compiled") == 1
    wrong = [row for row in read(kept, Row) if row.ok == "no"]
    assert len(wrong) == 6
    assert all(row.reason.startswith("probabilities differ by ") and not row.ms for row in wrong)


def test_what_is_not_installed_is_left_out_and_said(kept, monkeypatch, capsys):
    monkeypatch.setattr(gpu.shutil, "which", lambda program: None)
    monkeypatch.setitem(gpu.STAGES, "kernels", gpu.STAGES["kernels"][-1:])
    run("kernels")
    assert "sanitizer: left out, compute-sanitizer is not installed" in capsys.readouterr().out
    assert "sanitizer" not in {row.entry for row in read(kept, Row)}


def test_torch_numpy_and_cupy_are_all_it_needs():
    """Whatever else a step wants may be missing: the steps behind it run, and it is said."""
    missing = "skimage sklearn scipy PIL torchvision pyarrow matplotlib lime captum ray yaml pytest jinja2"
    program = f"import sys; sys.modules.update(dict.fromkeys('{missing}'.split())); from benchmarks import gpu; "
    program += "sys.exit(gpu.main(['--stage', 'checks', '--device', 'cpu', '--tiny']))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, encoding="utf-8", check=False)
    assert done.stdout == "kernels, CuPy: FAILED kernels cannot run here: gpulime doctor says why\n", done.stderr


def test_a_machine_without_a_gpu_is_told(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--stage", "kernels"])
    assert stopped.value.code == 2
    assert "PyTorch sees no GPU" in capsys.readouterr().err


def test_a_later_row_takes_the_place_of_an_earlier(kept):
    bench = Bench(CPU)
    for reason in ("wrong", ""):
        gpu_rows.save([bench.verdict("a", "b", reason), bench.verdict("a", "c", reason)], tiny=True)
    assert [(row.side, row.ok) for row in read(kept, Row)] == [("b", "yes"), ("c", "yes")]
