"""Signals: finished rows are kept, and the same command resumes the run."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gpulime.runs.progress.signals import Stop, Stopped, heard
from gpulime.runs.store import store

SLOW = '''
import time, torch
from torch import nn

class Slow(nn.Module):
    """Takes 20 ms a batch, so that there is time to stop it."""
    def forward(self, x):
        time.sleep(0.02)
        return x.mean((2, 3))

def make():
    return Slow()
'''


SLOW_START = """
import time

def make():
    print("now", flush=True)
    time.sleep(600)
"""
SLOW_REPORT = (
    SLOW.replace("0.02", "0")
    + """
from gpulime.views.report import page

def write(*_):
    print("now", flush=True)
    time.sleep(600)

page.write = write
"""
)
HANGING_WORKER = (
    SLOW.replace("0.02", "0")
    + """
from gpulime.runs.reading import read
decode = read.decode

def decoded(path, **settings):
    time.sleep(600 if path.endswith(b"05.png") else 0)
    return decode(path, **settings)

read.decode = decoded
"""
)


def command(folder):
    return [sys.executable, "-m", "gpulime", "explain", "--config", str(folder / "run.yaml")]


def path_with(folder):
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures and a run of about five seconds over them."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{i:02}.png")
    (tmp_path / "slow_model.py").write_text(SLOW)
    settings = {
        "model": {"factory": "slow_model.make"},
        "data": {"source": "pictures", "crop": 32, "batch_size": 2, "workers": 2},
        "lime": {
            "quality": "lime",
            "n_samples": 100,
            "segments": {"grid": {"rows": 4, "columns": 4}},
            "top_labels": 1,
            "batch_size": 5,
        },
        "out": "out",
        "report": False,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def start(folder):
    """The run as a process that leads a group of its own."""
    return subprocess.Popen(
        command(folder),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path_with(folder)},
    )


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_to_the_group_keeps_what_is_finished_and_a_rerun_goes_on(number, folder):
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()  # the first image's lines
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert f"stopped by {number.name}" in errors
    assert "Traceback" not in errors
    kept = store.read(folder / "out")["image_id"].to_pylist()
    assert 0 < len(kept) < 12
    again = subprocess.run(
        command(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path_with(folder)},
    )
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} of 12 images are done already" in again.stderr
    rows = store.read(folder / "out")["image_id"].to_pylist()
    assert sorted(rows) == [f"{i:02}.png" for i in range(12)]


@pytest.mark.long
def test_a_second_signal_ends_a_run_that_hangs_at_once(folder):
    (folder / "slow_model.py").write_text(SLOW.replace("time.sleep(0.02)", "time.sleep(0.02 if x.mean() > 0 else 600)"))
    Image.new("RGB", (32, 32)).save(folder / "pictures" / "05.png")  # black: there the model hangs
    process = start(folder)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("03.png"):
            break
    time.sleep(1)  # to where it hangs
    os.killpg(process.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.long
@pytest.mark.parametrize(
    ("moment", "number"), [("while the model is loaded", signal.SIGINT), ("while a report is written", signal.SIGUSR1)]
)
def test_a_signal_before_or_after_the_images_ends_with_the_same_code(moment, number, folder):
    (folder / "slow_model.py").write_text(SLOW_START if "loaded" in moment else SLOW_REPORT)
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump({**settings, "report": True}))
    process = start(folder)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "now\n":
            break
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert errors.splitlines()[-1] == f"gpulime: stopped by {number.name}; repeat the call to resume"
    assert "Traceback" not in errors
    assert len(store.read(folder / "out")) == (0 if "loaded" in moment else 12)
    assert not (folder / "out" / "report.html").exists()


@pytest.mark.long
def test_a_signal_is_heard_while_a_worker_is_waited_for(folder):
    """Long before the timeout of a hanging worker."""
    (folder / "slow_model.py").write_text(HANGING_WORKER)
    process = start(folder)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("03.png"):
            break
    time.sleep(1)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 143, errors
    assert "stopped by SIGTERM; finished rows are kept" in errors
    assert sorted(store.read(folder / "out")["image_id"].to_pylist()) == [f"{i:02}.png" for i in range(4)]


def test_the_first_signal_is_remembered_and_the_next_has_its_usual_effect():
    before = signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        with pytest.raises(Stopped, match="SIGINT"):
            stop.check()
        assert signal.getsignal(signal.SIGINT) is before
    assert isinstance(Stopped(), KeyboardInterrupt)


def test_outside_a_stop_a_signal_ends_what_is_going_on_and_inside_it_the_next_is_the_systems():
    before = signal.getsignal(signal.SIGINT)
    with heard():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "it ends what hangs"
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert stop.signal == signal.SIGINT
            assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(Stopped, match="stopped by SIGUSR1; repeat the call to resume"):
            signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture
def hangup():
    """Let SIGHUP end this process, even if these tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_hangup_stops_too_and_a_second_one_ends_nothing(hangup):
    with Stop() as stop:
        for _ in range(2):  # one from the shell, one from the terminal
            signal.raise_signal(signal.SIGHUP)
        with pytest.raises(Stopped, match="stopped by SIGHUP; finished rows are kept"):
            stop.check()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_under_nohup_a_hangup_stays_ignored(hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Stop() as stop:
        signal.raise_signal(signal.SIGHUP)
        stop.check()


ORPHAN = """
import multiprocessing, os, sys, time
from gpulime.runs.progress import signals

def work():
    signals.leave_to_parent()
    os.write(1, b"working\\n")  # one write, so that the lines of two processes do not mix
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    multiprocessing.Process(target=work).start()
    os.write(1, b"started\\n")
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("fork", "working"),
        pytest.param("forkserver", "working", marks=pytest.mark.long),
        pytest.param("spawn", "started", marks=pytest.mark.long),  # its worker is not there yet
    ],
)
def test_a_worker_ends_with_its_parent_whatever_it_is_at(method, said, tmp_path):
    """All processes hold the pipe, which closes after the last of them has ended."""
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    process = subprocess.Popen([sys.executable, str(script), method], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline() != f"{said}\n":
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)


def test_handlers_of_the_callers_own_stay(monkeypatch):
    called = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: called.append(number))
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
            stop.check()
        assert called == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_rows_that_wait_long_are_written_between_images(tmp_path):
    row = {"image_id": "a", "path": b"", "status": "error", "error_type": "decode", "error": "is empty", "attempt": 1}
    row |= {"written_at": datetime.now(UTC), "n_samples": 10, "seed": 0, "config_hash": "0f" * 8}
    path = Path(tmp_path)
    with store.Store(path, flush_rows=100, flush_seconds=0.05) as rows:
        rows.append(row)
        rows.flush_if_due()
        assert len(store.read(path)) == 0
        time.sleep(0.06)
        rows.flush_if_due()
        assert len(store.read(path)) == 1
        rows.flush_if_due()
