"""The store: rows are read back unchanged, and a shard is complete or absent."""

from __future__ import annotations

import datetime
import errno
import os
import stat
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pyarrow.dataset
import pytest
from skimage import data, segmentation

from gpulime.errors import GpulimeError
from gpulime.runs.store import shards, store
from gpulime.runs.store.row import raster
from gpulime.runs.store.store import Store

NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.UTC)


def explained(image_id="a.jpg", **changes):
    """A row of an explained image, every column filled."""
    seg, seg_dtype = store.encode_segments(np.arange(6).reshape(2, 3) // 2)
    row = {
        "image_id": image_id,
        "path": b"/data/\xff.jpg",
        "kind": "text",
        "target": 7,
        "status": "ok",
        "error_type": None,
        "error": None,
        "attempt": 1,
        "written_at": NOON,
        "h": 2,
        "w": 3,
        "n_segments": 3,
        "seg": seg,
        "seg_dtype": seg_dtype,
        "segmenter": "slic",
        "parts": ["über", "b", "c"],
        "text": "über b über",
        "spans": [[0, 4, 7, 11], [5, 6], []],
        "unseen": [2],
        "values": ["1", None],
        "prediction": 9,
        "predicted_prob": 0.625,
        "labels": [281, 285],
        "pred_probs": [0.5, 0.25],
        "coef": [[0.5, -0.25, 0.0], [1.0, 2.0, 3.0]],
        "coef_se": [[0.125, 0.0, None], [0.5, 0.25, 1.0]],
        "intercept": [0.1, 0.2],
        "local_pred": [0.5, None],
        "r2": [0.9, None],
        "r2_loo": [0.8, None],
        "spread": [0.1, 0.0],
        "note": [None, "this output hardly moves"],
        "n_samples": 1000,
        "exhaustive": True,
        "seed": 2**40,
        "config_hash": "0123456789abcdef",
        "image_sha256": "00" * 32,
    }
    return row | changes


def failed(image_id="a.jpg", **changes):
    """A row of a failed image: only the required columns, and the reason."""
    row = {
        "image_id": image_id,
        "path": b"a.jpg",
        "status": "error",
        "error_type": "decode",
        "error": "cannot identify image file",
        "attempt": 1,
        "written_at": NOON,
        "n_samples": 1000,
        "seed": 0,
        "config_hash": "0123456789abcdef",
    }
    return row | changes


def write(run, *rows, **options):
    with Store(run, **options) as rows_of_run:
        for row in rows:
            rows_of_run.append(row)


def later(seconds):
    return NOON + datetime.timedelta(seconds=seconds)


def test_every_column_comes_back(tmp_path):
    write(tmp_path, explained(), failed("b.jpg"))
    first, second = store.read(tmp_path).to_pylist()
    assert first == explained()
    assert second == dict.fromkeys(store.schema().names) | failed("b.jpg")
    assert store.read(tmp_path).schema.equals(store.schema())


def test_numpy_values_are_taken(tmp_path):
    row = explained(labels=np.array([281, 285]), coef=list(np.ones((2, 3))), r2=np.array([0.5, 1.0]), h=np.int64(2))
    write(tmp_path, row)
    (read,) = store.read(tmp_path, ["labels", "coef", "r2", "h"]).to_pylist()
    assert read == {"labels": [281, 285], "coef": [[1.0] * 3] * 2, "r2": [0.5, 1.0], "h": 2}


def test_columns_are_chosen_and_ordered(tmp_path):
    write(tmp_path, explained())
    assert store.read(tmp_path, ["w", "image_id"]).to_pylist() == [{"w": 3, "image_id": "a.jpg"}]
    with pytest.raises(GpulimeError, match=r"column must be one of .*'coef'.* \(did you mean 'coef'"):
        store.read(tmp_path, ["coeff"])


def test_an_empty_run_has_no_rows(tmp_path):
    write(tmp_path)
    assert store.read(tmp_path / "nowhere").num_rows == 0
    assert set(store.done(tmp_path)) == set()
    assert not list(tmp_path.iterdir())


def test_any_row_counts_as_done(tmp_path):
    write(tmp_path, explained("a"), failed("b"))
    write(tmp_path, explained("c"))
    assert set(store.done(tmp_path)) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("rows", "winner"),
    [
        ([explained(seed=1), failed(seed=2, written_at=later(9))], 1),
        ([failed(seed=1, written_at=later(9)), explained(seed=2)], 2),
        ([explained(seed=1, written_at=later(9)), explained(seed=2)], 1),
        ([failed(seed=1), failed(seed=2, written_at=later(9))], 2),
        ([explained(seed=1, attempt=2), explained(seed=2, attempt=1)], 1),
        ([explained(seed=1), explained(seed=2)], 2),
    ],
    ids=["ok beats newer error", "ok beats older error", "newest ok", "newest error", "last attempt", "last written"],
)
@pytest.mark.parametrize("flush_rows", [1, 256], ids=["in two shards", "in one shard"])
def test_one_row_per_image(tmp_path, rows, winner, flush_rows):
    write(tmp_path, explained("before", seed=0), *rows, explained("behind", seed=9), flush_rows=flush_rows)
    read = store.read(tmp_path, ["image_id", "seed"]).to_pylist()
    assert sorted((row["image_id"], row["seed"]) for row in read) == [("a.jpg", winner), ("before", 0), ("behind", 9)]


def test_rows_keep_the_order_of_writing(tmp_path, monkeypatch):
    clock = iter(range(10**18, 2 * 10**18, 10**15))
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: 0.0, time_ns=lambda: next(clock)))
    for rank, image_id in ((10, "c"), (2, "a"), (0, "b")):
        write(tmp_path, explained(image_id), rank=rank)
    assert store.read(tmp_path, ["image_id"])["image_id"].to_pylist() == ["c", "a", "b"]


def test_results_hold_shards_and_nothing_else(tmp_path):
    write(tmp_path, *(explained(f"{i}") for i in range(7)), flush_rows=3, rank=4)
    names = [path.name for path in (tmp_path / "results").iterdir()]
    assert len(names) == 3
    assert all(shards.NAME.fullmatch(name) and name.startswith("part-4-") for name in names)
    assert os.listdir(tmp_path / "_staging") == []


def test_any_parquet_reader_takes_the_folder(tmp_path):
    write(tmp_path, *(explained(f"{i}") for i in range(5)), failed("x"), flush_rows=2)
    table = pyarrow.dataset.dataset(tmp_path / "results").to_table()
    assert table.num_rows == 6
    assert table.schema.equals(store.schema())


def test_a_shard_is_safe_on_disk_before_and_after_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(number):
        steps.append("directory" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        fsync(number)

    def spy_replace(staged, target):
        steps.append(f"{staged.parent.name} -> {target.parent.name}")
        replace(staged, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write(tmp_path, explained())
    assert steps == ["file", "_staging -> results", "directory"]


def test_a_left_over_in_staging_means_nothing(tmp_path):
    write(tmp_path, explained("a"))
    (tmp_path / "_staging" / "0123abcd-part-0-1-00000000.parquet").write_bytes(b"PAR1 half a shard")
    write(tmp_path, explained("b"))
    assert set(store.done(tmp_path)) == {"a", "b"}


def test_flush_by_rows(tmp_path):
    rows = Store(tmp_path, flush_rows=2)
    written = []
    for i in range(5):
        rows.append(explained(f"{i}"))
        written.append(len(store.shards(tmp_path)))
    assert written == [0, 1, 1, 2, 2]
    rows.flush()
    rows.flush()
    assert len(store.shards(tmp_path)) == 3
    with pytest.raises(GpulimeError, match="flush_rows must be 1 or more, got 0"):
        Store(tmp_path, flush_rows=0)


def test_flush_by_seconds(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: now, time_ns=lambda: int(now * 1e9)))
    rows = Store(tmp_path, flush_seconds=60)
    written = []
    for now in (1000.0, 1059.0, 1060.0, 1119.0, 1178.0, 1179.0):  # the wait starts with the first row in hand
        rows.append(explained(f"{now}"))
        written.append(len(store.shards(tmp_path)))
    assert written == [0, 0, 1, 1, 1, 2]


def test_what_is_finished_is_kept_when_the_run_breaks(tmp_path):
    def breaks():
        with Store(tmp_path) as rows:
            rows.append(explained())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks()
    assert set(store.done(tmp_path)) == {"a.jpg"}


def test_a_full_disk_keeps_the_rows_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    rows = Store(tmp_path)
    rows.append(explained())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*/results/part-0-.*\.parquet'"):
            rows.flush()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    rows.flush()
    assert set(store.done(tmp_path)) == {"a.jpg"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (explained(coeff=[]), r"row of image 'a.jpg': column must be one of .*\(did you mean 'coef'"),
        (explained(status="done"), r"status must be one of 'ok', 'error'; got 'done'"),
        (explained(seed=None, path=None), "every row must give path, seed"),
        (explained(h=2**40), "does not fit the columns of the store: .*too large"),
        (explained(labels="cat"), "does not fit the columns of the store"),
        (explained(image_id="\udcff"), "does not fit the columns of the store"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_alone(tmp_path, row, message):
    with Store(tmp_path) as rows:
        rows.append(explained("before"))
        with pytest.raises(GpulimeError, match=message):
            rows.append(row)
    assert set(store.done(tmp_path)) == {"before"}


def test_hostile_names_and_reasons_are_kept(tmp_path):
    name = "</script><b>x\n../\\xff"
    write(tmp_path, failed(name, path=b"\xff\n../", error="cannot open '\udcff'"))
    (row,) = store.read(tmp_path, ["image_id", "path", "error"]).to_pylist()
    assert row == {"image_id": name, "path": b"\xff\n../", "error": "cannot open '\\udcff'"}


@pytest.mark.parametrize(("count", "dtype"), [(1, "u1"), (256, "u1"), (257, "<u2"), (65536, "<u2")])
def test_label_maps_come_back(count, dtype):
    labels = np.resize(np.arange(count, dtype=np.int32), (260, 255))
    packed, kind = store.encode_segments(labels)
    assert kind == dtype
    unpacked = store.decode_segments(packed, kind, 260, 255)
    assert unpacked.dtype == np.int32
    np.testing.assert_array_equal(unpacked, labels)


@pytest.mark.parametrize(("low", "high"), [(-1, 3), (0, 65536)])
def test_label_maps_out_of_range_are_refused(low, high):
    with pytest.raises(GpulimeError, match=f"0 ... 65535, got {low} ... {high}"):
        store.encode_segments(np.array([[low, high]]))


@pytest.mark.parametrize(
    ("packed", "dtype", "message"),
    [
        (zlib.compress(bytes(7)), "u1", r"must inflate to 6 bytes \(2 x 3 labels of dtype u1\), got more than 6"),
        (zlib.compress(bytes(5)), "u1", "must inflate to 6 bytes .* got 5"),
        (zlib.compress(bytes(6)), "<u2", "must inflate to 12 bytes .* got 6"),
        (zlib.compress(bytes(6))[:3], "u1", "must inflate to 6 bytes .* got 0"),
        (b"\x89PNG", "u1", "must be a zlib stream"),
        (zlib.compress(bytes(6)), "u8", "seg_dtype must be one of 'u1', '<u2'; got 'u8'"),
    ],
    ids=["long", "short", "narrow", "cut", "not zlib", "dtype"],
)
def test_a_damaged_label_map_is_refused(packed, dtype, message):
    with pytest.raises(GpulimeError, match=message):
        store.decode_segments(packed, dtype, 2, 3)


def test_a_bomb_is_not_inflated():
    bomb = zlib.compress(bytes(10**8))
    tracemalloc.start()
    try:
        with pytest.raises(GpulimeError, match="got more than 6"):
            store.decode_segments(bomb, "u1", 2, 3)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("k", "dtype"), [(256, "u1"), (257, "<u2")])
def test_a_raster_is_packed_as_its_row_is_written(k, dtype, tmp_path):
    labels = np.arange(32 * 32).reshape(32, 32) % k
    seg, seg_dtype = raster(labels)
    sizes = {"h": 32, "w": 32, "n_segments": k, "seg_dtype": seg_dtype, "coef": [[0.0] * k] * 2}
    write(tmp_path, explained("a", seg=seg, **sizes))
    (kept,) = pyarrow.dataset.dataset(tmp_path / "results").to_table().to_pylist()
    assert (kept["seg"], kept["seg_dtype"]) == store.encode_segments(labels)
    assert kept["seg_dtype"] == dtype


def test_bytes_per_image(tmp_path):
    """50,000 images of 224 x 224 with 5 labels and some 50 segments are to fit 300 MB, errors of coefficients included."""
    random = np.random.default_rng(0)
    pictures = [photo[top : top + 224, 60:284] for photo in (data.chelsea(), data.coffee()) for top in (0, 70)]
    maps = [segmentation.slic(picture, n_segments=60, start_label=0) for picture in pictures]
    assert 35 < np.mean([labels.max() + 1 for labels in maps]) < 65

    def row(i):
        labels = maps[i % len(maps)]
        seg, seg_dtype = store.encode_segments(np.roll(labels, i, axis=1))
        sizes = {"h": 224, "w": 224, "n_segments": int(labels.max()) + 1, "seg": seg, "seg_dtype": seg_dtype}
        coefficients, errors = (list(size) for size in abs(random.normal(size=(2, 5, labels.max() + 1))))
        return explained(f"n{i:08d}/{i}.JPEG", **sizes, coef=coefficients, coef_se=errors, image_sha256=random.bytes(32).hex())

    write(tmp_path, *map(row, range(64)), flush_rows=64)
    (shard,) = store.shards(tmp_path)
    assert 3_000 < shard.stat().st_size / 64 < 6_000


def test_the_manifest_comes_back(tmp_path):
    assert store.read_manifest(tmp_path) is None
    store.write_manifest(tmp_path, {"config": {"out": "über\udcff"}, "config_hash": "0123"})
    manifest = store.read_manifest(tmp_path)
    assert manifest == {"config": {"out": "über\udcff"}, "config_hash": "0123", "schema_version": store.SCHEMA_VERSION}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["run.json"]
    assert not list((tmp_path / "_staging").iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema_version": 99}', r"run.json has schema_version 99, this gpulime reads up to \d+;"),
        ('{"config": {}}', "must state an integer schema_version, got None"),
        ("[]", "must state an integer schema_version, got None"),
        ('{"schema', "run.json must be JSON"),
        ("[" * 100_000, "run.json must be JSON"),
        ('{"schema_version": 1, "fixed": []}', r"run.json is damaged: fixed must not be \[\]"),
        ('{"schema_version": 1, "class_names": "abc"}', "run.json is damaged: class_names must not be 'abc'"),
        ('{"schema_version": 1, "class_names": [7]}', "run.json is damaged: class_names must be names"),
        ('{"schema_version": 1, "config_hash": 7}', "run.json is damaged: config_hash must not be 7"),
        ("\udcff", "run.json must be JSON"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(GpulimeError, match=message):
        store.read_manifest(tmp_path)
