"""Partition of images: every image has one owner among any processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from rows import beat_of

from gpulime.cli import main
from gpulime.errors import GpulimeError
from gpulime.runs.progress.heartbeat import Heartbeat
from gpulime.runs.progress.partition import Share
from gpulime.runs.store import store

IDS = [f"n{i % 7:08}/{i}.jpg" for i in range(2000)]
MODEL = """
import time
from torch import nn

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.01)
        return x.mean((2, 3))

def make():
    return Slow()
"""


def ranks(world, shard=None):
    environments = ({"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)} for rank in range(world))
    return [Share.of(shard, environment) for environment in environments]


@pytest.mark.parametrize(
    "shares",
    [
        [Share.of(None, {})],
        [Share.of(f"{i}/8", {}) for i in range(1, 9)],
        ranks(4),
        ranks(2, "1/3") + ranks(4, "2/3") + ranks(3, "3/3"),
    ],
    ids=["one", "8 shards", "4 ranks", "3 shards of 2, 4 and 3 ranks"],
)
def test_every_image_has_one_owner_and_none_has_much_more_than_its_part(shares):
    owners = [[share for share in shares if share.owns(name)] for name in IDS]
    assert all(len(found) == 1 for found in owners)
    counts = Counter(found[0] for found in owners)
    for share in shares:
        peers = sum(other.shard == share.shard for other in shares)
        assert counts[share] == pytest.approx(len(IDS) / share.shards / peers, rel=0.3)


def test_a_share_hangs_on_the_id_alone():
    share = Share.of("2/5", {})
    kept = {name for name in IDS if share.owns(name)}
    assert kept == {name for name in reversed(IDS[::2] + IDS[1::2]) if share.owns(name)}


def test_processes_that_share_a_run_have_numbers_of_their_own():
    shares = ranks(2, "1/3") + ranks(4, "2/3") + ranks(3, "3/3")
    assert len({share.number for share in shares}) == len(shares)
    assert [share.number for share in ranks(3)] == [0, 1, 2]


def test_a_share_in_words():
    assert str(Share.of(None, {})) == "the whole run"
    assert str(ranks(4, "2/8")[3]) == "shard 2 of 8, rank 3 of 4"


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/2/3", "-1/2", "a/b", ""])
def test_what_is_no_part_is_refused(shard):
    if shard:
        with pytest.raises(
            GpulimeError, match="shard must be a part and the number of parts, such as '2/8' for the second of eight; got"
        ):
            Share.of(shard, {})
    else:
        assert Share.of(shard, {}).is_all


def test_ranks_that_torchrun_would_not_give_are_refused():
    with pytest.raises(GpulimeError, match="RANK must be below WORLD_SIZE, as torchrun sets them; got 4 and 4"):
        Share.of(None, {"RANK": "4", "WORLD_SIZE": "4"})
    with pytest.raises(GpulimeError, match="WORLD_SIZE must be a number, as torchrun sets it; got 'four'"):
        Share.of(None, {"RANK": "1", "WORLD_SIZE": "four"})


@pytest.fixture
def folder(tmp_path):
    """Twenty-four pictures, one of them no picture, and a run over them."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{i:02}.png")
    (tmp_path / "pictures" / "bad.png").touch()
    (tmp_path / "slow_ranks.py").write_text(MODEL)
    settings = {
        "model": {"factory": "slow_ranks.make"},
        "data": {"source": "pictures", "crop": 32, "batch_size": 1},
        "lime": {"quality": "lime", "n_samples": 60, "segments": "grid", "top_labels": 1, "batch_size": 5},
        "store": {"flush_rows": 1},
        "out": "out",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def torchrun(folder, world, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), *options]
    return subprocess.Popen(
        [*command, "-m", "gpulime", "explain", "--config", "run.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"},
    )


def every_image_once(out):
    ids = [name for path in store.shards(out) for name in pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()]
    return sorted(ids) == sorted([*(f"{i:02}.png" for i in range(24)), "bad.png"])


@pytest.mark.long
def test_two_ranks_do_a_run_together(folder):
    process = torchrun(folder, 2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, "error rows are no reason for torchrun to stop the others" + err
    assert every_image_once(folder / "out")
    assert {path.name.split("-")[1] for path in store.shards(folder / "out")} == {"0", "1"}
    assert (folder / "out" / "report.html").exists(), "the last writes it"
    facts = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (facts["images"], facts["ok"], facts["failed"]) == (25, 24, {"decode": 1})
    assert out.count("report: ") >= 1


@pytest.mark.long
def test_of_four_ranks_one_is_killed_and_torchrun_starts_again(folder):
    process = torchrun(folder, 4, "--max-restarts", "1")
    beats = folder / "out" / "heartbeats"
    deadline = time.monotonic() + 60
    while not store.shards(folder / "out") or len(list(beats.glob("*.json"))) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.kill(json.loads((beats / "1-of-1-rank-2.json").read_text(encoding="utf-8"))["pid"], signal.SIGKILL)
    before = {path.name for path in store.shards(folder / "out")}
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert every_image_once(folder / "out")
    assert before < {path.name for path in store.shards(folder / "out")}, "it was killed before its end, and went on"


def test_the_last_of_several_ranks_sums_up_also_where_failures_are_tried_again(folder, monkeypatch, capsys):
    """No row is missing from the start, so heartbeats decide which rank is the last."""
    monkeypatch.chdir(folder)
    (folder / "slow_ranks.py").write_text(MODEL.replace("time.sleep(", "time.sleep(0 * "))
    monkeypatch.syspath_prepend(str(folder))
    arguments = ["explain", "--config", "run.yaml", "--limit", "4"]
    assert main.main(arguments) == 0
    (folder / "out" / "summary.json").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    other = Share(rank=1, world=2)
    beat = Heartbeat(folder / "out", other, lambda state: beat_of(other, state=state, time=time.time()))
    beat.beat("running")
    capsys.readouterr()
    assert main.main([*arguments, "--retry-failed"]) == 0
    assert "rank 0 of 2: 0 images done here; other processes are still running; the last one sums up" in capsys.readouterr().out
    assert not (folder / "out" / "summary.json").exists()
    beat.beat("finished")
    assert main.main([*arguments, "--retry-failed"]) == 0
    assert (folder / "out" / "summary.json").exists()
