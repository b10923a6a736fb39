"""Two processes in one run: names never collide, readers take one row per image, and the second one warns."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import threading
import time
import warnings

import pytest
from processes import Other
from rows import explained

from gpulime.runs.store import lock as writers
from gpulime.runs.store import store


def write(pipe, run, count):
    """Write rows, keep the lock until the test says so, and tell the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with store.Store(run, flush_rows=1) as rows:
            for i in range(count):
                rows.append(explained(str(i), seed=os.getpid()))
            pipe.send("written")
            pipe.recv()
    pipe.send([str(one.message) for one in said])


def start(run, count):
    """A process that has written its rows, and holds the lock."""
    other = Other(write, run, count)
    assert other.hear() == "written"
    return other


def ended(other):
    """The warnings of a process, which ends."""
    other.go()
    [said] = other.end()
    return said


def test_two_runs_at_once_lose_nothing_and_the_second_warns(tmp_path):
    both = [Other(write, tmp_path, 40) for _ in range(2)]
    assert [one.hear() for one in both] == ["written"] * 2
    first, second = sorted(map(ended, both), key=len)
    assert first == []
    assert f"another process writes to {tmp_path} as rank 0" in second[0]
    assert len(store.shards(tmp_path)) == 80
    assert sorted(store.read(tmp_path, ["image_id"])["image_id"].to_pylist()) == sorted(map(str, range(40)))


def test_ranks_of_one_run_do_not_warn_each_other(tmp_path):
    other = start(tmp_path, 1)
    with store.Store(tmp_path, rank=1) as rows:
        rows.append(explained("a"))  # a warning is an error here
    with pytest.warns(UserWarning, match="as rank 0"), store.Store(tmp_path, rank=0) as rows:
        rows.append(explained("a"))
    assert writers.Lock(tmp_path).taken
    ended(other)
    assert not writers.Lock(tmp_path).taken


def test_a_killed_process_holds_nothing(tmp_path):
    other = start(tmp_path, 1)
    other.process.kill()
    assert other.end() == []
    lock = writers.of_rank(tmp_path, 0)
    assert not lock.taken
    lock.release()
    lock.release()


def test_a_store_that_is_closed_writes_no_more(tmp_path):
    with store.Store(tmp_path) as rows:
        rows.append(explained("a"))
    assert ended(start(tmp_path, 1)) == []


def test_a_lock_outlives_the_others_of_its_process(tmp_path):
    """The system frees all of a file's locks when a process closes any descriptor of it."""
    lock = writers.of_rank(tmp_path, 0)
    with writers.one_at_a_time(tmp_path):
        assert writers.Lock(tmp_path, 0, 0).taken, "a second of the same process has none"
    other = writers.Lock(tmp_path, 5, 5)
    other.release()
    assert "another process writes" in ended(start(tmp_path, 1))[0]
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
    assert "another process writes" in ended(start(tmp_path / "b", 1))[0]
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
    assert "another process writes" in ended(start(tmp_path, 1))[0], "and has not freed them"
    lock.release()


def test_who_was_second_is_the_writer_when_the_first_has_ended(tmp_path):
    other = start(tmp_path, 1)
    with store.Store(tmp_path, flush_rows=1) as rows:
        with pytest.warns(UserWarning, match="as rank 0"):
            rows.append(explained("a"))
        ended(other)
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
