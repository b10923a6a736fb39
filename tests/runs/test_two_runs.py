"""Two processes in one run: names never collide, readers take one row per image, and a warning names the other process."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from rows import beat_of, explained

from gpulime.errors import GpulimeError
from gpulime.runs.progress import heartbeat
from gpulime.runs.progress.heartbeat import Heartbeat
from gpulime.runs.progress.partition import Share
from gpulime.runs.store import atomic, compact, store

WRITER = f"""
import os, sys, time, warnings
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from gpulime.runs.progress import heartbeat
from gpulime.runs.progress.heartbeat import Heartbeat
from gpulime.runs.progress.partition import Share
from gpulime.runs.store import store
from rows import beat_of, explained

warnings.simplefilter("default")
heartbeat.SECONDS = 0.05
run, count, rank = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
share = Share(rank=rank, world=2)
heart = Heartbeat(run, share, lambda state: beat_of(share, time=time.time(), state=state))
with heart, store.Store(run, rank=rank, flush_rows=1) as rows:
    for i in range(count):
        rows.append(explained(str(i), seed=os.getpid()))
        heart.beat_if_due()
    print("written", flush=True)
    sys.stdin.readline()
"""


def start(run, count=1, rank=0):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", WRITER, str(run), str(count), str(rank)], text=True, **pipes)


def beating(run, rank=0, **changes):
    share = Share(rank=rank, world=2)
    return Heartbeat(run, share, lambda state: beat_of(share, **{"time": time.time(), "state": state, **changes}))


def test_two_runs_at_once_lose_nothing_and_warn(tmp_path):
    first = start(tmp_path, 40)
    assert first.stdout.readline() == "written\n"
    second = start(tmp_path, 40)
    assert second.stdout.readline() == "written\n"
    assert f"another process ({first.pid} on " in (said := second.communicate("\n")[1])
    assert said.count(f"writes to {tmp_path}: two runs explain the same inputs twice. No row is lost by it") == 1
    first.communicate("\n")
    assert len(store.shards(tmp_path)) == 80
    assert sorted(store.read(tmp_path, ["image_id"])["image_id"].to_pylist()) == sorted(map(str, range(40)))


def test_the_first_of_two_runs_warns_at_its_next_heartbeat(tmp_path):
    mine = beating(tmp_path)
    mine.beat("running")
    other = start(tmp_path)
    assert other.stdout.readline() == "written\n"
    with pytest.warns(UserWarning, match=rf"another process \({other.pid} on "):
        mine.beat("running")
    mine.beat("running")  # once
    other.communicate("\n")


def test_ranks_of_one_run_do_not_warn_each_other(tmp_path):
    other = start(tmp_path, rank=1)
    assert other.stdout.readline() == "written\n"
    beating(tmp_path).beat("running")  # a warning is an error here
    other.communicate("\n")


def test_a_process_that_has_ended_or_was_killed_holds_nothing(tmp_path):
    for end in (lambda other: other.communicate("\n"), lambda other: (other.kill(), other.communicate())):
        other = start(tmp_path)
        assert other.stdout.readline() == "written\n"
        assert heartbeat.may_write(tmp_path)
        end(other)
        assert not heartbeat.may_write(tmp_path)
        beating(tmp_path).beat("finished")


def test_a_process_of_another_machine_counts_while_it_is_heard(tmp_path):
    beating(tmp_path, host="elsewhere").beat("running")
    with pytest.warns(UserWarning, match="on elsewhere"):
        beating(tmp_path).beat("running")
    beating(tmp_path, host="elsewhere", time=time.time() - 2 * heartbeat.SILENCE).beat("finished")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        beating(tmp_path).beat("running")


def test_a_process_of_another_container_is_not_looked_for_among_this_ones(tmp_path, monkeypatch):
    """Containers may share the name of their machine; process numbers of one are unknown, or others', in the other."""
    assert heartbeat.machine()
    monkeypatch.setattr(heartbeat.os, "readlink", lambda path: "pid:[4026532001]")
    beating(tmp_path, pid=2**31 - 1).beat("running")
    assert not heartbeat.may_write(tmp_path)  # no such process
    monkeypatch.setattr(heartbeat.os, "readlink", lambda path: "pid:[4026532002]")
    assert heartbeat.may_write(tmp_path)
    with pytest.warns(UserWarning, match=rf"another process \({2**31 - 1} on .* pid:\[4026532001\]\) writes"):
        beating(tmp_path).beat("running")
    monkeypatch.setattr(heartbeat.os, "readlink", lambda path: heartbeat.OWN_NUMBERS)
    assert heartbeat.machine() == socket.gethostname()


def test_compact_leaves_a_run_at_work_alone(tmp_path):
    store.write_manifest(tmp_path, {})
    other = start(tmp_path, 3)
    assert other.stdout.readline() == "written\n"
    with pytest.raises(GpulimeError, match=rf"a process is writing to {tmp_path}: compact it when that has ended"):
        compact.compact(tmp_path)
    other.communicate("\n")
    assert compact.compact(tmp_path).after == 1


@pytest.mark.parametrize("stale", [False, True])
def test_threads_come_in_one_at_a_time(stale, tmp_path, monkeypatch):
    """Also after a process has been killed on its way in."""
    monkeypatch.setattr(atomic, "PATIENCE_SECONDS", 0.2)
    if stale:
        (tmp_path / "_staging" / "entering").mkdir(parents=True)
    inside, most = [], []

    def enter():
        with atomic.one_at_a_time(tmp_path):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    """A process killed on its way in costs the next one some seconds, once."""
    monkeypatch.setattr(atomic, "PATIENCE_SECONDS", 0.1)
    (tmp_path / "_staging" / "entering").mkdir(parents=True)
    started = time.monotonic()
    for _ in range(2):
        with atomic.one_at_a_time(tmp_path):
            pass
    assert 0.1 <= time.monotonic() - started < 0.5


def test_a_folder_that_takes_no_files_keeps_nobody_waiting(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", forbidden)
    started = time.monotonic()
    with atomic.one_at_a_time(tmp_path):
        pass
    assert time.monotonic() - started < 1


def test_names_of_one_millisecond_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    with store.Store(tmp_path, flush_rows=1) as rows:
        for i in range(50):
            rows.append(explained(f"{i}"))
    assert len(store.shards(tmp_path)) == 50
