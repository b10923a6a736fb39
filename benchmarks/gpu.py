"""``python -m benchmarks.gpu``: what only a GPU shows, by stages of less than 8 minutes; rows go to results/gpu/<device>.csv.

Needs torch, numpy and CuPy. What else a step needs (pytest, compute-sanitizer, torchvision, scikit-image, lime, captum) may be
missing: the step then says so and is left out. An error is told beside the definition, which takes scikit-learn.
"""

from __future__ import annotations

import argparse
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

import torch

from benchmarks import gpu_engine, gpu_field, gpu_kernels
from benchmarks.command import parsed
from benchmarks.gpu_rows import Bench, Row, save

ROOT = Path(__file__).parents[1]
TESTS_S, SANITIZER_S, INSTRUMENT_S, STAGE_S = 200, 90, 460, 475
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")

Step = Callable[[Bench], Iterator[Row]]


def ops_tests(bench: Bench) -> Iterator[Row]:
    """The tests of the ops that need a GPU, but for long ones."""
    _needs("pytest")
    yield bench.verdict("tests", "pytest tests/ops", _run([*PYTEST, "tests/ops", "-m", "gpu and not long"], TESTS_S))


def tests(bench: Bench) -> Iterator[Row]:
    """Every test that needs a GPU; where a file lacks a package, the others' run, and it is a failure."""
    _needs("pytest")
    command = [*PYTEST, "tests", "-m", "gpu", "--continue-on-collection-errors"]
    yield bench.verdict("tests", "pytest tests", _run(command, INSTRUMENT_S))


def bench_command(bench: Bench) -> Iterator[Row]:
    """``gpulime bench``: its tests that need a GPU, and the command itself, on random images."""
    _needs("pytest", "torchvision", "jsonargparse", "pyarrow", "skimage")
    command = [*PYTEST, "tests/test_bench.py", "-m", "gpu and not long"]
    yield bench.verdict("bench", "pytest tests/test_bench.py", _run(command, TESTS_S))
    settings = ["--model.factory", "torchvision.models.resnet50", "--data.crop", "224", "--images", "random", "--seconds", "4"]
    yield bench.verdict("bench", "gpulime bench", _run([sys.executable, "-m", "gpulime", "bench", *settings], TESTS_S))


def sanitizer(bench: Bench, tool: str) -> Iterator[Row]:
    """The checks on small and awkward shapes under compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise ModuleNotFoundError("compute-sanitizer is not installed")
    checks = [sys.executable, "-m", "benchmarks.gpu", "--stage", "checks", "--tiny"]
    error = _run([program, "--tool", tool, "--error-exitcode", "9", *checks], SANITIZER_S)
    if "not supported" in error:
        raise ModuleNotFoundError(f"compute-sanitizer {tool} does not work here")
    yield bench.verdict("sanitizer", f"compute-sanitizer {tool}", error)


def instrument(bench: Bench, name: str) -> Iterator[Row]:
    """One that keeps its own rows, with the GPU as its device."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--device", bench.device.type]
    options = ["--save"] * bench.keeps + ["--tiny"] * bench.tiny
    yield bench.verdict(name, f"benchmarks.{name}", _run([*command, *options], INSTRUMENT_S))


STAGES: dict[str, tuple[Step, ...]] = {
    "checks": (gpu_kernels.checks,),
    "kernels": (
        gpu_kernels.checks,
        gpu_kernels.only_on_a_gpu,
        gpu_kernels.masked_images,
        gpu_kernels.bernoulli,
        gpu_kernels.slic,
        gpu_kernels.quickshift,
        gpu_engine.share_of_model,
        ops_tests,
        partial(sanitizer, tool="memcheck"),
        partial(sanitizer, tool="racecheck"),
    ),
    "tests": (tests,),
    "efficiency": tuple(partial(gpu_field.efficiency, subject=subject) for subject in (gpu_field.RESNET50, gpu_field.CNN28)),
    "transformer": (partial(gpu_field.efficiency, subject=gpu_field.VIT),),
    "extrapolation": (gpu_field.extrapolation,),
    "peers": (partial(instrument, name="peers"),),
    "ablation": (partial(instrument, name="ablation"),),
    "growth": (partial(instrument, name="growth"),),
    "compiled": (gpu_engine.compiled,),
    "bench": (bench_command,),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code is 1 where a check fails or a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--stage", choices=STAGES, required=True, help="checks are the first step of kernels")
    parser.add_argument("--device", default="cuda", help="cpu, with --tiny, tries the command itself out")
    parser.add_argument("--tiny", action="store_true", help="few and small problems: times say nothing, and lie apart")
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/gpu/<device>.csv")
    options = parsed(parser, argv)

    bench = Bench(torch.device(options.device), options.tiny, options.save)
    rows: list[Row] = []
    with _limited(STAGE_S) as late:
        for step in STAGES[options.stage]:
            if late:
                print(f"{_name(step)}: left out, {late[0]}", flush=True)
                continue
            for row in _rows(step, bench):
                rows.append(row)
                print(row, flush=True)
                if options.save:
                    save([row], options.tiny)
    return int(bool(late) or any(row.ok == "no" for row in rows))


def _rows(step: Step, bench: Bench) -> Iterator[Row]:
    """Those of a step, and one more where it fails: the steps behind it are worth their time all the same."""
    try:
        yield from step(bench)
    except ModuleNotFoundError as missing:
        print(f"{_name(step)}: left out, {missing}", flush=True)
    except Exception as error:
        traceback.print_exc()
        yield bench.verdict(_name(step), "step", f"{type(error).__name__}: {error}".splitlines()[0])


def _name(step: Step) -> str:
    return getattr(getattr(step, "func", step), "__name__", "step")


@contextmanager
def _limited(seconds: float) -> Iterator[list[str]]:
    """After so long what is under way raises `TimeoutError`; gives a list where that is noted."""
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


def _run(command: Sequence[str], seconds: int) -> str:
    """What went wrong with a command, empty where nothing did; its last lines are printed."""
    pipe = subprocess.PIPE
    running = subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    )
    try:
        printed, _ = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)  # those that it has started too
        printed, _ = running.communicate()
        printed += f"not done after {seconds} s"
    except BaseException:  # the stage's own end, or the user's
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        raise
    last = printed.splitlines()[-30:]
    print("\n".join(last), flush=True)
    return f"exit code {running.returncode}: {' | '.join(last[-3:])}" if running.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
