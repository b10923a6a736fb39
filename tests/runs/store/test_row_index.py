"""Places: a few columns of all rows in memory, whole rows read on demand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rows import explained, failed, run

from gpulime.errors import GpulimeError
from gpulime.runs.store import atomic, compact, row_index, shards, store

FACTS = (*shards.DECIDING, "target")
MOST_MORE = 40  # MB; it is 140 if all rows are held and copied
WRITE = """
import resource, sys
from pathlib import Path
from gpulime.views.report import page
from gpulime.runs.progress import summary
from gpulime.runs.store import store
from gpulime.runs.progress.heartbeat import Effort

run = Path(sys.argv[1])
summary.summary(run, store.manifest(run), Effort())
page.write(run, lambda row: None, None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
"""


def write(folder, *rows, flush_rows):
    with store.Store(folder, flush_rows=flush_rows) as results:
        for row in rows:
            results.append(row)
    return folder


def targets(found):
    return [found.row(i)["target"] for i in range(len(found.rows))]


def of(folder):
    return row_index.Places(folder, FACTS, lambda rows: rows)


def test_each_image_has_the_row_that_counts(tmp_path):
    rows = [failed("a"), explained("b", target=1), explained("a", target=2), failed("b"), explained("c", target=3)]
    found = of(write(tmp_path, *rows, flush_rows=2))
    assert found.rows["image_id"].to_pylist() == ["b", "a", "c"]
    assert found.rows["target"].to_pylist() == targets(found) == [1, 2, 3]
    assert found.row(1)["labels"] == [1, 2]
    assert found.rows.column_names == list(FACTS)


def test_numbers_stay_while_shards_are_merged_and_rows_are_added(tmp_path):
    run(tmp_path)
    write(tmp_path, failed("0"), *(explained(f"{i}", target=i) for i in range(6)), flush_rows=1)
    found = of(tmp_path)
    assert found.row(0)["target"] == 0
    compact.compact(tmp_path)
    write(tmp_path, explained("new", target=9), flush_rows=1)
    assert targets(found) == found.rows["target"].to_pylist() == list(range(6))


def test_what_is_gone_is_named(tmp_path):
    found = of(write(tmp_path, explained("a"), explained("b"), flush_rows=1))
    store.shards(tmp_path)[1].unlink()
    assert found.row(0)["image_id"] == "a"
    with pytest.raises(GpulimeError, match="image 'b' is not among the results of"):
        found.row(1)


def test_a_corrupt_shard_is_told_and_left_out(tmp_path):
    write(tmp_path, explained("a", target=1), explained("b", target=2), flush_rows=1)
    bad, _ = store.shards(tmp_path)
    bad.write_bytes(bad.read_bytes()[:-20])
    with pytest.warns(UserWarning, match=bad.name):
        found = of(tmp_path)
    assert [error.path for error in found.corrupt] == [bad]
    assert targets(found) == [2]


def test_what_is_dropped_is_never_held(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH", 10)
    seen = []
    found = row_index.Places(
        write(tmp_path, *(explained(f"{i}") for i in range(25)), flush_rows=25),
        store.schema().names,
        lambda rows: seen.append(len(rows)) or rows.select(shards.DECIDING),
    )
    assert max(seen) == 10
    assert len(found.rows) == sum(seen) == 25
    assert len(of(tmp_path / "none").rows) == 0


def test_pieces_are_published_together_or_not_at_all(tmp_path):
    atomic.publish_pieces(tmp_path, "page", (piece for piece in (b"one", b"two")))
    assert (tmp_path / "page").read_bytes() == b"onetwo"

    def broken():
        yield b"three"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        atomic.publish_pieces(tmp_path, "page", broken())
    assert (tmp_path / "page").read_bytes() == b"onetwo"
    assert not list((tmp_path / atomic.STAGING).iterdir())


@pytest.mark.long
def test_the_report_of_four_times_the_images_takes_as_much_memory(tmp_path):
    """Rows of 224 x 224 with 64 segments and 5 labels."""
    random = np.random.default_rng(0)
    segments = random.permutation(np.repeat(np.arange(64), 224 * 224 // 64)).reshape(224, 224)  # packs badly
    one = explained("", segments=segments, labels=[1, 2, 3, 4, 5], pred_probs=[0.2] * 5, intercept=[0.0] * 5, r2=[0.5] * 5)
    peaks = []
    for n in (250, 1000):
        folder = tmp_path / str(n)
        coefficients = random.normal(size=(n, 5, 64))
        rows = (one | {"image_id": f"{i}", "coef": list(of_row)} for i, of_row in enumerate(coefficients))
        write(run(folder), *rows, flush_rows=128)
        command = [sys.executable, "-c", WRITE, str(folder)]
        done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1000)
    assert (tmp_path / "1000" / "report-2.html").exists()
    assert peaks[1] - peaks[0] < MOST_MORE
