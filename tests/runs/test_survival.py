"""Survival of a run: kill -9 at any moment, a full disk, a corrupt shard."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Other
from rows import explained

import gpulime
from gpulime import config as configs
from gpulime.cli import main
from gpulime.runs.progress import exits
from gpulime.runs.store import shards, store, verify
from gpulime.runs.store.shards import opened

FLUSH_ROWS = 5
IDS_PER_KILL = 40  # about as many as one process writes before it is killed


def write(pipe, run, ids):
    """Write the rows that are missing, and tell the id of each."""
    done = store.done(run)
    pipe.send("started")
    with store.Store(run, flush_rows=FLUSH_ROWS) as rows:
        for i in range(ids):
            if str(i) not in done:
                pipe.send(i)  # first, since a row may be on disk at once
                rows.append(explained(str(i)))
                time.sleep(0.001)


def kill_and_go_on(run, ids, kills, how):
    """Run again and again, killed at random moments; the ids that each process handed to the store, the last one's whole."""
    random.seed(0)
    handed = []
    for _ in range(kills):
        other = Other(write, run, ids, how=how)
        assert other.hear() == "started"
        time.sleep(random.uniform(0, 0.05))
        other.process.kill()
        handed.append(other.end())
        assert other.process.exitcode in (-signal.SIGKILL, 0)
        for path in store.shards(run):
            with opened(path) as shard:
                shard.read()
    other = Other(write, run, ids, how=how)
    assert other.hear() == "started"
    handed.append(other.end())
    assert other.process.exitcode == 0
    return handed


@pytest.mark.parametrize(
    ("kills", "how"), [(2, "fork"), *(pytest.param(*more, marks=pytest.mark.long) for more in ((50, "fork"), (2, "spawn")))]
)
def test_kill_9_costs_one_flush_interval_at_most(tmp_path, kills, how):
    ids = kills * IDS_PER_KILL
    handed = kill_and_go_on(tmp_path, ids, kills, how)
    kept = shards.rows(tmp_path, ["image_id"])["image_id"].to_pylist()
    assert sorted(kept) == sorted(map(str, range(ids)))  # each once, before any rule of readers
    lost = sum(map(len, handed)) - ids
    assert 0 <= lost <= kills * FLUSH_ROWS
    assert lost or kills == 2  # two kills may both strike just after a flush
    assert len(handed[-1]) > 0  # all others were killed in their work


SMALL = {"n_samples": 20, "segments": gpulime.segments.Grid(3, 3), "report": False, "model_id": "corner"}


def model(x):
    return x[:, :, :6, :6].mean((2, 3))


def images(n):
    return [torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(n)]


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_what_a_corrupt_shard_held_is_explained_again(tmp_path, damage, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(configs, "StoreConfig", partial(configs.StoreConfig, flush_rows=2))
    gpulime.runs.explain(model, images(6), out, **SMALL)
    _, second, _ = store.shards(out)
    before = {row["image_id"]: row["coef"] for row in store.read(out).to_pylist()}
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 16
    second.write_bytes(content[:-40] if damage == "truncated" else content)
    assert [error.path for error in verify.verify(out).corrupt] == [second]
    with pytest.warns(UserWarning, match=rf"{second.name} is corrupt: .*gpulime verify"):
        outcome = gpulime.runs.explain(model, images(6), out, **SMALL)
    assert (outcome.ok, outcome.failed, outcome.forwards) == (6, 0, 2 * 20)
    second.unlink()  # as verify says
    after = {row["image_id"]: row["coef"] for row in store.read(out).to_pylist()}
    assert after.keys() == before.keys()
    for image_id, coefficients in after.items():
        np.testing.assert_allclose(coefficients, before[image_id], atol=1e-6)
    assert verify.verify(out).exit_code == exits.OK


def fill(pipe, run, segmenter, limit):
    """Write two shards, the second a large one, and tell the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        with store.Store(run, flush_rows=2) as rows:
            for name in "abcd":
                rows.append(explained(name, segmenter=segmenter if name in "cd" else "grid"))
    except OSError as error:
        pipe.send(str(error))


def test_a_quota_leaves_no_part_of_a_shard_and_a_rerun_goes_on(tmp_path):
    """RLIMIT_FSIZE is what a quota is to a process: the write stops in the middle of the file."""
    with store.Store(tmp_path / "probe") as rows:
        rows.append(explained("a"))
    limit = 2 * store.shards(tmp_path / "probe")[0].stat().st_size
    run, large = tmp_path / "run", os.urandom(limit).hex()
    [error] = Other(fill, run, large, limit).end()
    assert f"File too large: '{run / 'results' / 'part-0-'}" in error
    assert set(store.done(run)) == {"a", "b"}
    assert os.listdir(run / "_staging") == []
    again = Other(fill, run, large, resource.RLIM_INFINITY)
    assert again.end() == []
    assert again.process.exitcode == 0
    assert set(store.done(run)) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("out", ["hdfs:x", "~/x", Path("~/x")], ids=str)
def test_a_run_is_written_and_read_at_the_same_place(out, tmp_path, monkeypatch, capsys):
    """pyarrow would take the first for an address; the others name the home directory, though no shell has read them."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    place = tmp_path / out if str(out).startswith("hdfs") else tmp_path / "home" / "x"
    assert gpulime.runs.explain(model, images(3), out, **{**SMALL, "report": True}).ok == 3
    assert gpulime.runs.explain(model, images(4), out, **SMALL).ok == 4
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "hdfs:x"}
    assert len(gpulime.runs.open_run(out)) == len(store.read(place)) == 4
    gpulime.runs.explain(model, images(4), tmp_path / "other", **SMALL)
    other = str(tmp_path / "other")
    for command in (["verify", out], ["compact", out], ["verify", out], ["status", out], ["diff", out, other]):
        assert main.main([str(one) for one in command]) == 0, capsys.readouterr().err
    assert main.main(["export", str(out), "--to", f"{out}-exported"]) == 0
    assert place.with_name("x-exported" if place.name == "x" else "hdfs:x-exported").is_dir()


def test_a_home_that_is_not_there_is_named():
    with pytest.raises(gpulime.GpulimeError, match="'~nobody-at-all/x' names no home directory"):
        gpulime.runs.open_run("~nobody-at-all/x")


@pytest.mark.parametrize("out", ["s3://bucket/run", Path("s3://bucket/run")], ids=["text", "path"])
def test_an_object_store_is_refused_before_any_work(out):
    def unused(x):
        raise AssertionError("the model was called")

    with pytest.raises(gpulime.GpulimeError, match=r"out must be a directory, not an address of s3; got 's3:/.*copy results/"):
        gpulime.runs.explain(unused, images(1), out, **SMALL)
