"""``python -m benchmarks.gpu``, tried out on a CPU: problems are tiny, kernels run under the host shim."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks/ is part of the checkout, not of the package

from benchmarks import gpu, gpu_engine, gpu_field, gpu_kernels, gpu_rows
from benchmarks.gpu_rows import Bench, Row, results
from benchmarks.rows import read
from gpulime import segments
from gpulime.ops import masked_images as masking
from gpulime.ops.quickshift import quickshift

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def kept(host, monkeypatch, tmp_path):
    """Where --save keeps rows: not in the repository; and rows are masked by the kernel."""
    monkeypatch.setattr(gpu_rows, "RESULTS", tmp_path)
    monkeypatch.setattr(masking, "masked_images", masking.by_kernel)
    monkeypatch.setattr(gpu, "_run", lambda command, seconds: "")
    return results("none")


def run(stage):
    return gpu.main(["--stage", stage, "--device", "cpu", "--tiny", "--save"])


def test_checks_compare_every_kernel(kept):
    assert run("checks") == 0
    assert [(row.entry, row.ok, row.ms) for row in read(kept, Row)] == [
        (name, "yes", "") for name in ("bernoulli", "masked_images", "quickshift", "slic")
    ]


def test_a_wrong_kernel_fails_and_gets_no_time(kept, monkeypatch):
    monkeypatch.setattr(masking, "masked_images", lambda images, fills, *others: masking.by_kernel(fills, images, *others))
    monkeypatch.setitem(gpu.STAGES, "kernels", (gpu_kernels.checks, gpu_kernels.masked_images))
    assert run("kernels") == 1
    rows = [row for row in read(kept, Row) if row.entry == "masked_images"]
    assert [row.ok for row in rows] == ["no", "no"]
    assert not any(row.ms for row in rows)


def test_a_segmenter_with_other_ids_gets_no_time(kept, monkeypatch):
    monkeypatch.setitem(segments.OPS, segments.Quickshift, lambda images, **options: quickshift(images, **options) + 1)
    monkeypatch.setitem(gpu.STAGES, "kernels", (gpu_kernels.quickshift,))
    assert run("kernels") == 1
    (row,) = [row for row in read(kept, Row) if row.side == "kernel"]
    assert (row.ok, row.ms, row.error) == ("no", "", "0.00000 of the ids at 13x15")


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


def test_the_command_is_run(kept, monkeypatch):
    commands = []
    monkeypatch.setattr(gpu, "_run", lambda command, seconds: commands.append(command) or "")
    assert run("bench") == 0
    assert [row.side for row in read(kept, Row)] == ["gpulime bench", "pytest tests/test_bench.py"]
    assert all(Path(word).exists() for word in commands[0] if word.startswith("tests/"))


def test_the_engine_is_timed_beside_the_bare_model(kept):
    assert run("efficiency") == 0
    rows = {(row.entry, row.side): row for row in read(kept, Row)}
    share = rows["efficiency", "28x28 CNN, explained"]
    (bare,) = [row for (_, side), row in rows.items() if side.startswith("28x28 CNN, bare forwards, b = ")]
    assert float(share.ratio) == pytest.approx(float(share.rate) / float(bare.rate), rel=1e-2)
    assert (share.bound, share.ok) == ("at least 0.8 of the bare model's forwards/s", "")  # of tiny ones nothing is asked


def test_a_night_is_told_by_a_while_of_the_queue(kept):
    assert run("extrapolation") == 0
    whole, minutes = read(kept, Row)
    assert float(minutes.ratio) == pytest.approx(gpu_field.NIGHT / float(whole.rate) / 60, rel=1e-2)
    assert float(whole.ratio) > 0
    assert (whole.unit, minutes.bound) == ("images", "at most 60")


@pytest.mark.parametrize("name", ["peers", "ablation", "growth"])
def test_an_instrument_is_a_stage_of_its_own(name, kept, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "_run", lambda command, seconds: asked.append((command[1:], seconds)) or "exit code 1: a reason")
    assert run(name) == 1
    assert asked == [(["-m", f"benchmarks.{name}", "--device", "cpu", "--save", "--tiny"], gpu.INSTRUMENT_S)]
    (row,) = read(kept, Row)
    assert (row.entry, row.ok, row.error) == (name, "no", "exit code 1: a reason")


def test_compiled_models_are_timed_beside_the_same_without(kept, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    assert run("compiled") == 0
    rows = {row.side: row for row in read(kept, Row)}
    assert set(rows) == {
        f"{name}, {way}" for name in gpu_engine.NAMES for way in ("as it is", "compile=True", "compile='reduce-overhead'")
    }
    assert rows["28x28 CNN, as it is"].ratio == "1"
    assert all(float(row.rate) > 0 for row in rows.values())


def test_a_compiled_model_with_other_answers_gets_no_time(kept, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **settings: lambda rows: model(rows).flip(1) * 2)
    assert run("compiled") == 1
    wrong = [row for row in read(kept, Row) if row.ok == "no"]
    assert len(wrong) == 6
    assert all(row.error.startswith("probabilities differ by ") and not row.ms for row in wrong)


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
    for error in ("wrong", ""):
        gpu_rows.save([bench.verdict("a", "b", error), bench.verdict("a", "c", error)])
    assert [(row.side, row.ok) for row in read(kept, Row)] == [("b", "yes"), ("c", "yes")]
