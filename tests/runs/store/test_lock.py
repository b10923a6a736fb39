"""Two processes in one run: names never collide, readers take one row per image, and the second one warns."""

from __future__ import annotations

import errno
import multiprocessing
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rows import explained

from gpulime.runs.store import lock as writers
from gpulime.runs.store import store

WRITER = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import warnings
from pathlib import Path
from gpulime.runs.store import store
from rows import explained

warnings.simplefilter("default")
with store.Store(Path(sys.argv[1]), flush_rows=1) as rows:
    for i in range(int(sys.argv[2])):
        rows.append(explained(str(i), seed=os.getpid()))
    print("written", flush=True)
    sys.stdin.readline()
"""


def start(run, count):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", WRITER, str(run), str(count)], text=True, **pipes)


def test_two_runs_at_once_lose_nothing_and_the_second_warns(tmp_path):
    both = [start(tmp_path, 40) for _ in range(2)]
    assert [one.stdout.readline() for one in both] == ["written\n"] * 2
    said = [one.communicate("\n")[1] for one in both]
    assert sorted("another process writes" in text for text in said) == [False, True]
    assert any(f"another process writes to {tmp_path} as rank 0" in text for text in said)
    assert len(store.shards(tmp_path)) == 80
    assert sorted(store.read(tmp_path, ["image_id"])["image_id"].to_pylist()) == sorted(map(str, range(40)))


def test_ranks_of_one_run_do_not_warn_each_other(tmp_path):
    other = start(tmp_path, 1)
    assert other.stdout.readline() == "written\n"
    with store.Store(tmp_path, rank=1) as rows:
        rows.append(explained("a"))  # a warning is an error here
    with pytest.warns(UserWarning, match="as rank 0"), store.Store(tmp_path, rank=0) as rows:
        rows.append(explained("a"))
    assert writers.Lock(tmp_path).taken
    other.communicate("\n")
    assert not writers.Lock(tmp_path).taken


def test_a_killed_process_holds_nothing(tmp_path):
    other = start(tmp_path, 1)
    assert other.stdout.readline() == "written\n"
    other.kill()
    other.communicate()
    lock = writers.of_rank(tmp_path, 0)
    assert not lock.taken
    lock.release()
    lock.release()


def test_a_store_that_is_closed_writes_no_more(tmp_path):
    with store.Store(tmp_path) as rows:
        rows.append(explained("a"))
    other = start(tmp_path, 1)
    assert other.communicate("\n") == ("written\n", "")


def test_a_lock_outlives_the_others_of_its_process(tmp_path):
    """The system frees all of a file's locks when a process closes any descriptor of it."""
    lock = writers.of_rank(tmp_path, 0)
    with writers.one_at_a_time(tmp_path):
        assert writers.Lock(tmp_path, 0, 0).taken, "a second of the same process has none"
    other = writers.Lock(tmp_path, 5, 5)
    other.release()
    again = start(tmp_path, 1)
    assert "another process writes" in again.communicate("\n")[1]
    lock.release()
    assert not writers.any_writer(tmp_path)


def test_threads_come_in_one_at_a_time(tmp_path):
    inside, most = [], []

    def enter():
        with writers.one_at_a_time(tmp_path):
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
    monkeypatch.setattr(writers, "PATIENCE_SECONDS", 0.1)
    lock = writers.Lock(tmp_path, writers.DOOR, writers.DOOR)
    with writers.one_at_a_time(tmp_path):
        assert lock.taken is False
    lock.release()


def test_a_run_that_is_moved_or_reached_by_a_link_has_the_same_locks(tmp_path):
    lock = writers.of_rank(tmp_path / "a", 0)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("b")
    for name in ("b", "link"):
        assert writers.any_writer(tmp_path / name)
        writers.Lock(tmp_path / name, 7, 7).release()
    again = start(tmp_path / "b", 1)
    assert "another process writes" in again.communicate("\n")[1]
    lock.release()
    assert not writers.any_writer(tmp_path / "b")


def test_a_lock_that_cannot_be_given_back_is_forgotten(tmp_path, monkeypatch):
    lock = writers.of_rank(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(writers.fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError(errno.ESTALE, "Stale file handle")))
        lock.release()
    assert not writers.any_writer(tmp_path)
    assert not writers.Lock(tmp_path).taken


def test_a_forked_process_has_none_of_its_parents_locks(tmp_path):
    lock = writers.of_rank(tmp_path, 0)
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(3 if writers.any_writer(tmp_path) else 4))
    process.start()
    process.join()
    assert process.exitcode == 3, "it sees the parent's"
    again = start(tmp_path, 1)
    assert "another process writes" in again.communicate("\n")[1], "and has not freed them"
    lock.release()


def test_who_was_second_is_the_writer_when_the_first_has_ended(tmp_path):
    other = start(tmp_path, 1)
    assert other.stdout.readline() == "written\n"
    with store.Store(tmp_path, flush_rows=1) as rows:
        with pytest.warns(UserWarning, match="as rank 0"):
            rows.append(explained("a"))
        other.communicate("\n")
        rows.append(explained("b"))
        assert writers.any_writer(tmp_path)


def test_a_file_that_may_not_be_opened_is_not_held_by_others(tmp_path, monkeypatch):
    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / writers.LOCKS).parent.mkdir()
    (tmp_path / writers.LOCKS).touch()
    monkeypatch.setattr(writers.os, "open", forbidden)
    started = time.monotonic()
    with writers.one_at_a_time(tmp_path):
        pass
    assert time.monotonic() - started < 1
    assert not writers.Lock(tmp_path).taken
    assert not writers.any_writer(tmp_path)


def test_where_there_are_no_locks_one_writes_all_the_same(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(writers.fcntl, "lockf", unsupported)
    with store.Store(tmp_path) as rows:
        rows.append(explained("a"))
    monkeypatch.setattr(writers, "fcntl", None)
    with store.Store(tmp_path) as rows:
        rows.append(explained("b"))
    assert set(store.done(tmp_path)) == {"a", "b"}


def test_names_of_one_millisecond_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    with store.Store(tmp_path, flush_rows=1) as rows:
        for i in range(50):
            rows.append(explained(f"{i}"))
    assert len(store.shards(tmp_path)) == 50
