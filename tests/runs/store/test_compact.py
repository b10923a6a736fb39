"""compact: fewer shards, the same rows for every reader, also during reads and if killed at any step."""

from __future__ import annotations

import os
import pkgutil
import signal
import threading
from unittest import mock

import pyarrow.parquet as pq
import pytest
import rows
from processes import Other
from rows import explained, failed

from gpulime.cli import main
from gpulime.errors import GpulimeError
from gpulime.runs.progress import exits
from gpulime.runs.store import compact, shards, store, verify
from gpulime.runs.store.compact import compact as merge
from gpulime.runs.store.layout import VERSION_KEY


def run(folder, *results, flush_rows=1, rank=0):
    rows.run(folder)
    with store.Store(folder, flush_rows=flush_rows, rank=rank) as into:
        for one in results:
            into.append(one)
    return folder


def seen(folder):
    return store.read(folder).to_pylist()


def sizes(folder):
    return [pq.read_metadata(path).num_rows for path in store.shards(folder)]


def test_readers_see_the_same_rows_in_the_same_order(tmp_path):
    results = [explained("a"), failed("b"), explained("c", path=b"\xff\n"), failed("a", attempt=2), explained("b")]
    run(tmp_path, *results, *(explained(f"{i}") for i in range(20)))
    before = seen(tmp_path)
    done = merge(tmp_path)
    assert (done.before, done.after, done.rows) == (25, 1, 25)
    assert seen(tmp_path) == before
    (shard,) = store.shards(tmp_path)
    with shards.opened(shard) as merged:
        assert merged.schema_arrow.equals(store.schema())
        assert VERSION_KEY in merged.metadata.metadata
    assert verify.verify(tmp_path).corrupt == []


def test_a_merged_shard_has_no_more_rows_than_asked_for_and_big_ones_stay(tmp_path):
    run(tmp_path, *(explained(f"{i}") for i in range(23)), flush_rows=2)
    merge(tmp_path, rows=10)
    assert sizes(tmp_path) == [10, 10, 3]
    before = store.shards(tmp_path)
    assert merge(tmp_path, rows=10).after == 3
    assert store.shards(tmp_path) == before
    merge(tmp_path, rows=100)
    assert sizes(tmp_path) == [23]


def test_row_groups_are_small_whatever_the_shards_were(tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "GROUP", 4)
    run(tmp_path, *(explained(f"{i}") for i in range(10)), flush_rows=3)
    merge(tmp_path)
    (shard,) = store.shards(tmp_path)
    facts = pq.read_metadata(shard)
    assert [facts.row_group(i).num_rows for i in range(facts.num_row_groups)] == [4, 2, 4]


def test_ranks_and_times_keep_their_order(tmp_path):
    run(tmp_path, explained("a"), rank=3)
    run(tmp_path, explained("b"), rank=1)
    first = shards.number(store.shards(tmp_path)[0])
    merge(tmp_path)
    assert [shards.number(path) for path in store.shards(tmp_path)] == [first]


def test_a_corrupt_shard_is_never_deleted_and_nothing_is_merged_across_it(tmp_path, capsys):
    run(tmp_path, *map(explained, "abcde"))
    bad = store.shards(tmp_path)[2]
    bad.write_bytes(bad.read_bytes()[:-1])
    kept = bad.read_bytes()
    assert main.main(["compact", str(tmp_path)]) == 0
    assert bad.read_bytes() == kept
    assert len(store.shards(tmp_path)) == 3
    printed = capsys.readouterr()
    assert printed.out == "4 shards are now 2, of 4 rows\n"
    assert printed.err.startswith(f"gpulime: shard {bad} is corrupt: ")


STEPS = {
    "in the middle of writing": ("pyarrow.parquet.ParquetWriter.write_table", 1),
    "before the new one has its name": ("gpulime.runs.store.compact.settle", 1),
    "at the first deletion": ("pathlib.Path.unlink", 1),
    "at the second": ("pathlib.Path.unlink", 2),
}


def merge_until(pipe, folder, name, call):
    """Merge, and end by SIGKILL at a call of a function."""
    real, calls = pkgutil.resolve_name(name), []

    def killed(*given, **options):
        if "results" in str(given[0]) or "unlink" not in name:
            calls.append(given)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **options)

    with mock.patch(name, killed):
        merge(folder)


@pytest.mark.parametrize("stopped", STEPS)
def test_killed_anywhere_it_loses_nothing_and_the_next_one_ends_it(tmp_path, stopped):
    run(tmp_path, *map(explained, "abcd"), failed("e"))
    before = seen(tmp_path)
    other = Other(merge_until, tmp_path, *STEPS[stopped])
    assert other.end() == []
    assert other.process.exitcode == -signal.SIGKILL
    assert seen(tmp_path) == before
    assert len(store.shards(tmp_path)) == {"at the first deletion": 6, "at the second": 5}.get(stopped, 5)
    done = merge(tmp_path)
    assert (done.after, done.rows) == (1, 5)
    assert seen(tmp_path) == before
    assert sizes(tmp_path) == [5]


def test_a_full_disk_leaves_all_as_it_was(tmp_path, monkeypatch):
    run(tmp_path, *map(explained, "abc"))
    before = store.shards(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compact, "settle", full)
    assert main.main(["compact", str(tmp_path)]) == exits.NOT_WRITABLE
    assert store.shards(tmp_path) == before
    assert os.listdir(tmp_path / "_staging") == []


def test_a_merged_shard_that_reads_back_otherwise_costs_nothing(tmp_path, monkeypatch):
    run(tmp_path, *map(explained, "abc"))
    before = store.shards(tmp_path)
    real = compact._row_groups
    monkeypatch.setattr(compact, "_row_groups", lambda *given: list(real(*given))[1:])
    with pytest.raises(GpulimeError, match="the merged shard must hold 3 rows as they were, got 0 or others"):
        merge(tmp_path)
    assert store.shards(tmp_path) == before


def test_readers_go_on_meanwhile(tmp_path):
    run(tmp_path, *(explained(f"{i}") for i in range(60)))
    wanted, found, ended = {f"{i}" for i in range(60)}, [], threading.Event()

    def read():
        while not ended.is_set():
            found.append(set(store.done(tmp_path)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for most in (4, 16, 100):
            merge(tmp_path, rows=most)
    finally:
        ended.set()
        reader.join()
    assert len(found) > 2
    assert all(one == wanted for one in found)


def test_shards_that_appear_meanwhile_are_left_alone(tmp_path, monkeypatch):
    run(tmp_path, *map(explained, "abc"))
    real = compact._merge

    def meanwhile(*given):
        run(tmp_path, explained("new"))
        real(*given)

    monkeypatch.setattr(compact, "_merge", meanwhile)
    merge(tmp_path)
    assert sizes(tmp_path) == [3, 1]
    assert len(seen(tmp_path)) == 4


def test_of_two_at_once_one_goes_on(tmp_path, monkeypatch):
    """The second finds shards gone, says so, and has lost nothing."""
    run(tmp_path, *map(explained, "abcd"))
    before, real = seen(tmp_path), compact._merge

    def overtaken(*given):
        monkeypatch.setattr(compact, "_merge", real)
        assert merge(tmp_path).after == 1
        real(*given)

    monkeypatch.setattr(compact, "_merge", overtaken)
    with pytest.raises(GpulimeError, match=r"is gone: does another process compact .*\? No row is lost; repeat the call"):
        merge(tmp_path)
    assert seen(tmp_path) == before
    assert merge(tmp_path).after == 1


def test_nothing_to_do_and_bad_usage(tmp_path, capsys):
    run(tmp_path)
    assert main.main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "0 shards are now 0, of 0 rows\n"
    assert main.main(["compact", str(tmp_path), "--rows", "0"]) == 2
    assert "rows of a merged shard must be 1 or more, got 0" in capsys.readouterr().err
    assert main.main(["compact"]) == 2
