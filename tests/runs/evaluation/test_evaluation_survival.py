"""Survival of an evaluation: kill -9 at any moment, signals, a full disk, a lost device, little memory, two at once."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace

import pandas
import pytest
import torch
from evaluated import Tiny
from processes import Other

from gpulime.cli import main
from gpulime.evaluate.methods import METHODS
from gpulime.runs.evaluation import calls, rows
from gpulime.runs.evaluation.rows import EVALUATION
from gpulime.runs.evaluation.settings import Settings
from gpulime.runs.progress import exits
from gpulime.runs.store import shards, store
from gpulime.runs.store.shards import opened
from gpulime.runs.store.store import Store

# No method with gradients: in a fork, autograd fails once its parent has used it.
SETTINGS = Settings(methods=("occlusion",), measurements=("curves",))
PARTS = 6 * 4  # entries of an evaluation: images by methods


def slow(patch, flush_rows=4):
    """Make an evaluation slow enough to be killed, and flush it often."""
    made, forward = Store.__init__, Tiny.forward
    patch.setattr(Store, "__init__", lambda self, *given, **more: made(self, *given, **{**more, "flush_rows": flush_rows}))
    patch.setattr(Tiny, "forward", lambda self, x: time.sleep(0.002) or forward(self, x))


def work(pipe, run):
    """Evaluate, after a word that it begins."""
    with pytest.MonkeyPatch.context() as patch:
        slow(patch)
        pipe.send("begins")
        calls.evaluate(run, SETTINGS)


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.long)])
def test_kill_9_leaves_no_bad_shard_and_no_duplicate(run, kills):
    random.seed(0)
    for _ in range(kills):
        other = Other(work, run)
        other.hear()
        time.sleep(random.uniform(0.02, 0.3))
        other.process.kill()
        other.end()
        for path in shards.shards(run, EVALUATION):
            with opened(path, of=EVALUATION) as shard:
                shard.read()
    calls.evaluate(run, SETTINGS)
    table = shards.rows(run, rows.schema().names, EVALUATION)  # before any rule of readers
    found = pandas.read_parquet(run / "evaluation")
    assert len(table) == len(found) == PARTS * 5
    assert not found[list(rows.KEY)].duplicated().any()


def signalled(pipe, run):
    """Evaluate by the command, and tell its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        slow(patch)
        pipe.send("begins")
        pipe.send(main.main(["evaluate", str(run), "--with", "occlusion", "--metrics", "curves"]))


OTHERS = [pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGINT, signal.SIGUSR1)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *OTHERS])
def test_a_signal_ends_it_with_its_rows(run, number):
    other = Other(signalled, run)
    other.hear()
    while not shards.shards(run, EVALUATION):
        time.sleep(0.005)
    os.kill(other.process.pid, number)
    assert other.end() == [exits.DRAINED]
    left = PARTS * 5 - len(rows.read(run))
    assert 0 < left < PARTS * 5
    calls.evaluate(run, SETTINGS)
    assert len(shards.rows(run, ["image_id"], EVALUATION)) == PARTS * 5


def long(model, images, labels):
    """A method that takes minutes."""
    for _ in range(100_000):
        model(images)
    raise AssertionError("it was not stopped")


def test_a_signal_stops_a_long_method(run, monkeypatch):
    monkeypatch.setitem(METHODS, "occlusion", long)
    other = Other(signalled, run)
    other.hear()
    first = 4 * 3 * 5  # rows of the first images that are read together, before those of the method
    while len(shards.rows(run, ["image_id"], EVALUATION)) < first:
        time.sleep(0.01)
    os.kill(other.process.pid, signal.SIGTERM)
    assert other.end() == [exits.DRAINED]
    assert len(rows.read(run)) == first


def test_a_full_disk_keeps_written_rows(run, monkeypatch, capsys):
    slow(monkeypatch)
    publish, calls_ = store.publish, []

    def full(*given):
        calls_.append(given)
        if len(calls_) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return publish(*given)

    monkeypatch.setattr("gpulime.runs.store.store.publish", full)
    assert main.main(["evaluate", str(run), "--metrics", "curves"]) == exits.NOT_WRITABLE
    assert "No space left on device" in capsys.readouterr().err
    assert len(shards.shards(run, EVALUATION)) == 2
    assert os.listdir(run / "_staging") == []
    monkeypatch.setattr("gpulime.runs.store.store.publish", publish)
    assert main.main(["evaluate", str(run), "--metrics", "curves"]) == exits.OK
    assert len(shards.rows(run, ["image_id"], EVALUATION)) == 6 * 3 * 5


def test_a_model_that_fails_for_all_images_ends_it(run, monkeypatch, capsys):
    def fail(self, x):
        raise RuntimeError("no luck")

    monkeypatch.setattr(Tiny, "forward", fail)
    about = json.loads((run / "run.json").read_text())
    about["config"]["max_failures_in_a_row"] = 3
    (run / "run.json").write_text(json.dumps(about))
    assert main.main(["evaluate", str(run), "--metrics", "curves"]) == exits.FAILURES_IN_A_ROW
    assert "3 images in a row failed" in capsys.readouterr().err
    assert set(rows.read(run, ["error_type"])["error_type"].to_pylist()) == {"model"}


def test_a_lost_device_ends_it_and_a_new_process_goes_on(run, monkeypatch, capsys):
    slow(monkeypatch)
    forward, calls_ = Tiny.forward, []

    def lost(self, x):
        calls_.append(len(x))
        if len(calls_) > 5:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return forward(self, x)

    monkeypatch.setattr(Tiny, "forward", lost)
    assert main.main(["evaluate", str(run), "--metrics", "curves"]) == exits.DEVICE_LOST
    assert "the device is lost: CUDA error" in capsys.readouterr().err
    before = len(shards.rows(run, ["image_id"], EVALUATION))
    assert 0 < before < 6 * 3 * 5
    monkeypatch.setattr(Tiny, "forward", forward)
    assert main.main(["evaluate", str(run), "--metrics", "curves"]) == exits.OK
    table = shards.rows(run, ["error_type"], EVALUATION)
    assert len(table) == table["error_type"].null_count == 6 * 3 * 5


def test_out_of_memory_halves_batches_and_isolates_methods(run, tmp_path, monkeypatch, capsys):
    whole, forward = shutil.copytree(run, tmp_path / "whole"), Tiny.forward
    call = ("--with", "gradient", "--metrics", "curves")
    assert main.main(["evaluate", str(whole), *call]) == exits.OK

    def narrow(self, x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, x)

    monkeypatch.setattr(Tiny, "forward", narrow)
    with pytest.warns(UserWarning, match="out of memory with .* rows: going on with fewer"):
        assert main.main(["evaluate", str(run), *call]) == exits.OK
    values = [pandas.read_parquet(one / "evaluation").set_index(list(rows.KEY)).value.sort_index() for one in (run, whole)]
    pandas.testing.assert_series_equal(*values, rtol=1e-5)


def test_two_at_once_measure_all_and_readers_take_each_row_once(run):
    others = [Other(work, run) for _ in range(2)]
    for other in others:
        other.hear()
    for other in others:
        other.end()
        assert other.process.exitcode == 0
    found = rows.read(run).to_pandas()
    assert len(found) == PARTS * 5
    assert not found[list(rows.KEY)].duplicated().any()
    assert found.error_type.isna().all()


def test_small_shards_are_merged_and_status_counts_the_images(run, monkeypatch, capsys):
    slow(monkeypatch)
    assert main.main(["status", str(run)]) == exits.OK
    assert "evaluation" not in capsys.readouterr().out
    calls.evaluate(run, replace(SETTINGS, methods=()), limit=5)
    before, many = rows.read(run).to_pandas(), len(shards.shards(run, EVALUATION))
    assert many > 1
    capsys.readouterr()
    assert main.main(["compact", str(run)]) == exits.OK
    assert f"of the evaluation: {many} shards are now 1, of {5 * 3 * 5} rows" in capsys.readouterr().out
    pandas.testing.assert_frame_equal(rows.read(run).to_pandas(), before)
    calls.evaluate(run, replace(SETTINGS, methods=()), limit=5)
    assert len(shards.shards(run, EVALUATION)) == 1  # nothing was left to measure
    assert main.main(["status", str(run)]) == exits.OK
    assert "  evaluation: rows of 5 images" in capsys.readouterr().out


def hanging(pipe, run):
    """Evaluate by the command with a model that hangs after five batches, and tell when it does."""
    forward, calls_ = Tiny.forward, []

    def hang(self, x):
        calls_.append(len(x))
        if len(calls_) > 5:
            pipe.send("hangs")
            time.sleep(600)
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        slow(patch)
        patch.setattr(Tiny, "forward", hang)
        main.main(["evaluate", str(run), "--metrics", "curves"])


def test_a_second_signal_ends_it_at_once_with_its_written_rows(run):
    other = Other(hanging, run)
    assert other.hear() == "hangs"
    os.kill(other.process.pid, signal.SIGTERM)
    time.sleep(0.1)
    assert other.process.is_alive()  # the batch might still end
    os.kill(other.process.pid, signal.SIGTERM)
    assert other.end() == []
    assert other.process.exitcode == -signal.SIGTERM
    assert 0 < len(rows.read(run)) < 6 * 3 * 5
