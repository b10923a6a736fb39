"""The writer: the run does not wait for the disk, the queue is bounded, and the disk's errors reach the run."""

import errno
import threading
import time

import pytest
from rows import explained, failed

from gpulime.errors import GpulimeError
from gpulime.runs.progress.exits import NotWritableError
from gpulime.runs.progress.signals import Stopped
from gpulime.runs.store import store
from gpulime.runs.store.store import Store, Writer

MOST_SECONDS = 20.0  # that a test waits for what must come


@pytest.fixture
def gate(monkeypatch):
    """A disk that writes nothing until the gate is opened."""
    gate, publish = threading.Event(), store.publish

    def slow(run, name, data):
        assert gate.wait(MOST_SECONDS)
        publish(run, name, data)

    monkeypatch.setattr(store, "publish", slow)
    return gate


@pytest.fixture
def disk(monkeypatch):
    """A disk that is full while ``disk["full"]`` is true."""
    state, publish = {"full": True}, store.publish

    def checked(run, name, data):
        if state["full"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(run, name, data)

    monkeypatch.setattr(store, "publish", checked)
    return state


def until(condition):
    end = time.monotonic() + MOST_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ids(run):
    return store.read(run)["image_id"].to_pylist()


def test_rows_are_written_in_their_order(tmp_path):
    with Writer(Store(tmp_path, flush_rows=3)) as writer:
        for i in range(10):
            writer.put(failed(str(i)))
    assert ids(tmp_path) == [str(i) for i in range(10)]
    assert len(store.shards(tmp_path)) == 4


def test_a_slow_disk_keeps_nobody_waiting(tmp_path, gate):
    with Writer(Store(tmp_path, flush_rows=1)) as writer:
        for i in range(20):  # none of them is written before the gate is opened
            writer.put(failed(str(i)))
        assert ids(tmp_path) == []
        gate.set()
    assert len(ids(tmp_path)) == 20


def test_what_waits_for_the_disk_is_bounded(tmp_path, gate):
    given = []
    with Writer(Store(tmp_path, flush_rows=1), waiting_rows=5) as writer:

        def give():
            for i in range(12):
                writer.put(failed(str(i)))
                given.append(i)

        run = threading.Thread(target=give)
        run.start()
        until(lambda: len(given) == 6)  # one in the store's hand, five waiting
        time.sleep(0.3)
        assert len(given) == 6
        gate.set()
        run.join(MOST_SECONDS)
    assert len(ids(tmp_path)) == 12


def test_rows_are_written_though_no_more_come(tmp_path):
    with Writer(Store(tmp_path, flush_rows=100, flush_seconds=0.05)) as writer:
        writer.put(failed("a"))
        until(lambda: ids(tmp_path))
        assert ids(tmp_path) == ["a"], "while the writer waits for more"


def test_an_error_of_the_disk_comes_to_the_run(tmp_path, disk):
    def run():
        with Writer(Store(tmp_path, flush_rows=1)) as writer:
            writer.put(failed("a"))
            until(lambda: writer._error is not None)
            for refused in (writer.check, lambda: writer.put(failed("b"))):
                with pytest.raises(NotWritableError, match=r"takes no rows: .*No space left"):
                    refused()

    with pytest.raises(NotWritableError, match=r"No space left.* 1 rows are lost"):
        run()


def test_rows_that_the_disk_refused_are_tried_once_more_at_the_end(tmp_path, disk):
    def run():
        with Writer(Store(tmp_path, flush_rows=2)) as writer:
            writer.put(failed("a"))
            writer.put(failed("b"))
            until(lambda: writer._error is not None)
            writer._rows.put(failed("c"))  # as if it had been waiting behind them
            disk["full"] = False
            writer.check()

    with pytest.raises(NotWritableError, match="repeat the call to resume"):
        run()
    assert ids(tmp_path) == ["a", "b", "c"]


def test_rows_that_wait_behind_a_refused_one_are_tried_too(tmp_path, gate, disk):
    """Here all have been handed over, and the end of the run with them, when the disk refuses the first."""

    def run():
        with Writer(Store(tmp_path, flush_rows=1)) as writer:
            for name in "abcd":
                writer.put(failed(name))
            threading.Timer(0.3, gate.set).start()

    with pytest.raises(NotWritableError, match="4 rows are lost"):
        run()


def test_a_disk_that_was_full_for_the_last_shard_only_costs_nothing(tmp_path, disk, monkeypatch):
    refused = []

    def once(run, name, data, publish=store.publish):
        disk["full"] = not refused
        refused.append(name)
        publish(run, name, data)

    monkeypatch.setattr(store, "publish", once)
    with Writer(Store(tmp_path)) as writer:
        writer.put(failed("a"))
    assert ids(tmp_path) == ["a"]
    assert len(refused) == 2


def test_a_row_that_does_not_fit_ends_the_run_and_costs_no_other(tmp_path):
    def run():
        with Writer(Store(tmp_path)) as writer:
            writer.put(failed("a"))
            writer.put(failed("b", target=2**40))
            until(lambda: writer._error is not None)
            writer.check()

    with pytest.raises(GpulimeError, match="row of image 'b'"):
        run()
    assert ids(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt, RuntimeError])
def test_however_a_run_ends_its_rows_are_written(tmp_path, error):
    def run():
        with Writer(Store(tmp_path)) as writer:
            for name in "abc":
                writer.put(explained(name))
            raise error

    with pytest.raises(error):
        run()
    assert ids(tmp_path) == ["a", "b", "c"]
