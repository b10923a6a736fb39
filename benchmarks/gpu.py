"""``python -m benchmarks.gpu``: measurements that need a GPU, in stages of less than 8 minutes, kept in results/gpu/.

Needs torch, numpy and CuPy. A step with other requirements (pytest, compute-sanitizer, torchvision, scikit-image, lime, captum)
is skipped with a note if they are missing. The error of coefficients needs scikit-learn.
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

import torch

from benchmarks import gpu_engine, gpu_kernels
from benchmarks.gpu_rows import Bench, Row
from benchmarks.rows import HERE, on_device, parser, save

TESTS_S, SANITIZER_S, COMMAND_S, STAGE_S = 200, 90, 460, 475
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")

Step = Callable[[Bench], Iterator[Row]]


def pytest(bench: Bench, entry: str, what: str, *options: str, seconds: int = TESTS_S) -> Iterator[Row]:
    """The tests that need a GPU, of a folder or a file."""
    _needs("pytest")
    yield bench.verdict(entry, f"pytest {what}", run([*PYTEST, what, "-m", *options], seconds))


def gpulime_bench(bench: Bench) -> Iterator[Row]:
    """``gpulime bench`` on random images."""
    _needs("torchvision", "jsonargparse", "pyarrow", "skimage")
    settings = ["--model.factory", "torchvision.models.resnet50", "--data.crop", "224", "--images", "random", "--seconds", "4"]
    yield bench.verdict("bench", "gpulime bench", run([sys.executable, "-m", "gpulime", "bench", *settings], TESTS_S))


def sanitizer(bench: Bench, tool: str) -> Iterator[Row]:
    """The checks on small and awkward shapes under compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise ModuleNotFoundError("compute-sanitizer is not installed")
    checks = [sys.executable, "-m", "benchmarks.gpu", "--stage", "checks", "--tiny"]
    error = run([program, "--tool", tool, "--error-exitcode", "9", *checks], SANITIZER_S)
    if "not supported" in error:
        raise ModuleNotFoundError(f"compute-sanitizer {tool} does not work here")
    yield bench.verdict("sanitizer", f"compute-sanitizer {tool}", error)


def command(bench: Bench, name: str) -> Iterator[Row]:
    """Another command of benchmarks/, which keeps its own rows, on the GPU."""
    options = ["--save"] * bench.saves + ["--tiny"] * bench.tiny
    argv = [sys.executable, "-m", f"benchmarks.{name}", "--device", bench.device.type, *options]
    yield bench.verdict(name, f"benchmarks.{name}", run(argv, COMMAND_S))


STAGES: dict[str, tuple[Step, ...]] = {
    "checks": (gpu_kernels.checks,),
    "kernels": (
        gpu_kernels.checks,
        gpu_kernels.masked_images,
        gpu_kernels.bernoulli,
        gpu_kernels.slic,
        gpu_kernels.quickshift,
        gpu_engine.share_of_model,
        lambda bench: pytest(bench, "tests", "tests/ops", "gpu and not long"),
        partial(sanitizer, tool="memcheck"),
        partial(sanitizer, tool="racecheck"),
    ),
    # A file that lacks a package fails; the other files run.
    "tests": (lambda bench: pytest(bench, "tests", "tests", "gpu", "--continue-on-collection-errors", seconds=COMMAND_S),),
    "efficiency": tuple(partial(gpu_engine.efficiency, subject=subject) for subject in (gpu_engine.RESNET50, gpu_engine.CNN28)),
    "transformer": (partial(gpu_engine.efficiency, subject=gpu_engine.VIT),),
    "extrapolation": (gpu_engine.extrapolation,),
    "peers": (partial(command, name="peers"),),
    "ablation": (partial(command, name="ablation"),),
    "growth": (partial(command, name="growth"),),
    "compiled": (gpu_engine.compiled,),
    "bench": (lambda bench: pytest(bench, "bench", "tests/test_bench.py", "gpu and not long"), gpulime_bench),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a check fails or a bound is missed."""
    made = parser("gpu", __doc__)
    made.add_argument("--stage", choices=STAGES, required=True, help="checks are the first step of kernels")
    options = on_device(made, argv, default="cuda")
    bench, rows = Bench(torch.device(options.device), options.tiny, options.save), []
    with _limited(STAGE_S) as late:
        for step in STAGES[options.stage]:
            for row in _rows(step, bench, late):
                rows.append(row)
                print(row, flush=True)
                if options.save:
                    save([row], options.tiny)
    return int(bool(late) or any(row.ok == "no" for row in rows))


def _rows(step: Step, bench: Bench, late: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a step, and one more if it fails, so that the next steps still run."""
    name = getattr(getattr(step, "func", step), "__name__", "step")
    try:
        if late:
            raise ModuleNotFoundError(late[0])
        yield from step(bench)
    except ModuleNotFoundError as missing:
        print(f"{name}: left out, {missing}", flush=True)
    except Exception as error:
        traceback.print_exc()
        yield bench.verdict(name, "step", f"{type(error).__name__}: {error}".splitlines()[0])


@contextmanager
def _limited(seconds: float) -> Iterator[list[str]]:
    """Raise `TimeoutError` inside after that many seconds, and note it in the list that is given."""
    late: list[str] = []

    def end(*_: object) -> None:
        late.append(f"the stage is not done after {seconds:g} s")
        raise TimeoutError(late[0])

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield late
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} is not installed")


def run(argv: Sequence[str], seconds: int) -> str:
    """Run a command and print its last lines; return its error, empty if there is none."""
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
    except BaseException:  # the stage's end, or an interrupt
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        raise
    last = printed.splitlines()[-30:]
    print("\n".join(last), flush=True)
    return f"exit code {running.returncode}: {' | '.join(last[-3:])}" if running.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
