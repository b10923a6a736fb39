"""``python -m benchmarks.gpu --minutes 8 --save``: the measurements that need a GPU, the most telling first.

It ends by itself when the minutes are over, or a step loses the GPU; each row is kept as it comes. ``--resume`` goes on with
the steps that are not done by the rows of this GPU in results/gpu/, also on a new machine. ``--only`` runs the named steps.

Needs torch, numpy and CuPy, and installs nothing. A step with other requirements (pytest, compute-sanitizer, torchvision,
scikit-image, lime, captum) is left out with a note if they are missing. The error of coefficients needs scikit-learn.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_engine, gpu_kernels, table
from benchmarks.gpu_rows import Bench, Row
from benchmarks.rows import HERE, file_of, on_device, parser, read, save, write
from gpulime import device as devices
from gpulime import doctor
from gpulime.runs.progress.exits import DeviceLostError

TESTS_S, SANITIZER_S, COMMAND_S = 200, 90, 460
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors")
# Waits, answers, kernels, drawing and compiling: what a GPU has never shown yet.
TELLING = [
    f"tests/{name}.py"
    for name in ("engine/test_waits", "test_explainer", "ops/test_masked_images_kernel", "ops/test_bernoulli")
]
TELLING += ["tests/engine/test_compiled.py"]
PHOTOGRAPHS = ("skimage", "PIL", "sklearn")  # what benchmarks of photographs need
STEP = "step"  # the entry of the rows that name finished steps, with the reason if one failed

Step = Callable[[Bench], Iterator[Row]]


class LateError(BaseException):
    """The minutes are over. No Exception, since code that falls back after any Exception, such as compiling, would go on."""


def machine(bench: Bench) -> Iterator[Row]:
    """Versions, and the path that runs."""
    facts = doctor.describe()
    print("\n".join(f"{name:12} {fact}" for name, fact in facts.items()), flush=True)
    yield Row("machine", str(facts["path"]), **bench.place)


def pytest(bench: Bench, what: Sequence[str], marker: str, seconds: int = TESTS_S) -> Iterator[Row]:
    """The tests that need a GPU, of folders and files."""
    _needs("pytest")
    several = ["-n", "12", "-p", "no:benchmark"] if importlib.util.find_spec("xdist") else []
    error = run([*PYTEST, *several, *what, "-m", marker], seconds, sign=" passed")  # tests that are all skipped prove nothing
    yield bench.verdict("tests", f"pytest {' '.join(what)} -m '{marker}'", error)


def gpulime_bench(bench: Bench) -> Iterator[Row]:
    """``gpulime bench`` on random images."""
    _needs("torchvision", "jsonargparse", "pyarrow", "skimage")
    settings = ["--model.factory", "torchvision.models.resnet50", "--data.crop", "224", "--images", "random", "--seconds", "4"]
    if bench.tiny:
        settings += ["--model.factory", "torchvision.models.resnet18", "--data.crop", "32", "--lime.n_samples", "20"]
        settings += ["--seconds", "0.1", "--lime.segments", "grid"]
    yield bench.verdict("bench", "gpulime bench", run([sys.executable, "-m", "gpulime", "bench", *settings], TESTS_S))


def sanitizer(bench: Bench, tool: str) -> Iterator[Row]:
    """The checks on small and awkward shapes under compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise ModuleNotFoundError("compute-sanitizer is not installed")
    checks = [sys.executable, "-m", "benchmarks.gpu", "--only", "checks", "--tiny"]
    error = run([program, "--tool", tool, "--error-exitcode", "9", *checks], SANITIZER_S)
    if "not supported" in error:
        raise ModuleNotFoundError(f"compute-sanitizer {tool} does not work here")
    yield bench.verdict("sanitizer", f"compute-sanitizer {tool}", error)


def command(bench: Bench, name: str, needs: Sequence[str] = ()) -> Iterator[Row]:
    """Another command of benchmarks/, which keeps its own rows, on the GPU."""
    _needs(*needs)
    options = ["--save"] * bench.saves + ["--tiny", "--repeats", "1"] * bench.tiny
    argv = [sys.executable, "-m", f"benchmarks.{name}", "--device", bench.device.type, *options]
    yield bench.verdict(name, f"benchmarks.{name}", run(argv, COMMAND_S))


STEPS: dict[str, Step] = {
    "machine": machine,
    "checks": gpu_kernels.checks,
    "telling_tests": partial(pytest, what=TELLING, marker="gpu and not long"),
    "profile": gpu_engine.profile,
    "efficiency_resnet_50": partial(gpu_engine.efficiency, subject=gpu_engine.RESNET50),
    "fewer": gpu_engine.fewer,
    "extrapolation": gpu_engine.extrapolation,
    "masked_images": gpu_kernels.masked_images,
    "bernoulli": gpu_kernels.bernoulli,
    "slic": gpu_kernels.slic,
    "quickshift": gpu_kernels.quickshift,
    "share_of_model": gpu_engine.share_of_model,
    "efficiency_28x28_cnn": partial(gpu_engine.efficiency, subject=gpu_engine.CNN28),
    "compiled_28x28_cnn": partial(gpu_engine.compiled, name="28x28 CNN"),
    "compiled_resnet_50": partial(gpu_engine.compiled, name="ResNet-50"),
    "tests": partial(pytest, what=["tests"], marker="gpu", seconds=COMMAND_S),
    "efficiency_vit_b16": partial(gpu_engine.efficiency, subject=gpu_engine.VIT),
    "compiled_vit_b16": partial(gpu_engine.compiled, name="ViT-B/16"),
    "bench": gpulime_bench,
    "memcheck": partial(sanitizer, tool="memcheck"),
    "racecheck": partial(sanitizer, tool="racecheck"),
    "ablation": partial(command, name="ablation", needs=PHOTOGRAPHS),
    "peers": partial(command, name="peers", needs=(*PHOTOGRAPHS, "lime")),
    "growth": partial(command, name="growth"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of docs/gpu.md, with ``--save`` all of it; return 1 if a check fails or a bound is missed."""
    made = parser("gpu", __doc__, STEPS)
    made.add_argument("--minutes", type=float, default=float("inf"), help="end after these; by default run all steps")
    made.add_argument("--resume", action="store_true", help="leave out the steps that the kept rows of this GPU call done")
    options = on_device(made, argv, default="cuda")
    bench = Bench(torch.device(options.device), options.tiny, options.save)
    path = file_of(bench.place["device"], Row.FOLDER, options.tiny)
    done = _done(path, options)
    steps = [name for name in options.only or STEPS if name not in done]
    found: list[Row] = []
    try:
        with _limited(60 * options.minutes):
            while steps:
                for row in _rows(steps[0], bench):
                    found.append(row)
                    if row.entry != STEP or row.reason:
                        print(row, flush=True)
                    if options.save:
                        save([row], options.tiny)
                steps.pop(0)
    except LateError:
        print(f"\nthe {options.minutes:g} minutes are over; left for --resume: {', '.join(steps)}")
    except DeviceLostError as lost:
        print(f"\n{lost}; left for --resume: {', '.join(steps[1:])}")
    print(f"\n{table.of_gpu(read(path, Row) if options.save else found)}")
    return int(any(row.ok == "no" for row in found))


def _done(path: Path, options: Any) -> set[str]:
    """Steps that are done by the kept rows; without ``--resume`` these are forgotten."""
    rows = read(path, Row)
    if options.resume:
        done = {row.side for row in rows if row.entry == STEP}
        return done | ({"telling_tests"} if "tests" in done else set())  # they are a part of all tests
    if options.save and rows and not options.only:
        write(path, [row for row in rows if row.entry != STEP], Row)
    return set()


def _rows(name: str, bench: Bench) -> Iterator[Row]:
    """Rows of a step; at its end one that calls it done, also if it failed, so that the next steps still run.

    A step that lacks a package is not done: another machine may have it.

    Raises
    ------
    DeviceLostError
        If the step has made the GPU unusable for this process, in which the next ones would fail, too.
    """
    try:
        yield from STEPS[name](bench)
    except ModuleNotFoundError as missing:
        print(f"{name}: left out, {missing}", flush=True)
    except Exception as error:
        traceback.print_exc()
        yield bench.verdict(STEP, name, f"{type(error).__name__}: {error}".splitlines()[0])
        if devices.lost(error, bench.device):
            raise DeviceLostError(f"{name} has lost the device") from error
    else:
        yield Row(STEP, name, **bench.place)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `LateError` inside after that many seconds."""

    def end(*_: object) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, end)
    # Again each second, since Python drops an exception that is raised while an object is freed.
    signal.setitimer(signal.ITIMER_REAL, *((0,) if seconds == float("inf") else (seconds, 1)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} is not installed")


def run(argv: Sequence[str], seconds: int, sign: str = "") -> str:
    """Run a command and print its last lines; return its error, empty if there is none and they hold ``sign``."""
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        argv, cwd=HERE.parent, stdout=pipe, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    )
    try:
        printed, _ = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)  # and its children
        printed, _ = running.communicate()
        printed += f"not done after {seconds} s"
    except BaseException:  # the minutes are over, or an interrupt
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        raise
    last = printed.splitlines()[-30:]
    print("\n".join(last), flush=True)
    good = not running.returncode and sign in "\n".join(last)
    return "" if good else f"exit code {running.returncode}: {' | '.join(last[-3:])}"


if __name__ == "__main__":
    sys.exit(main())
