"""Shards: damage of any kind is found and named, a newer schema is refused, and a listing is whole while shards are merged."""

from __future__ import annotations

import errno
import os
import re
import warnings

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rows
from markup import Page
from rows import as_version, explained, failed, run

from gpulime.errors import GpulimeError
from gpulime.runs import open_run
from gpulime.runs.progress import status, summary
from gpulime.runs.progress.heartbeat import Effort
from gpulime.runs.store import compact, shards, store, verify
from gpulime.runs.store.layout import VERSION_KEY
from gpulime.runs.store.row import ADDED, SCHEMA_VERSION
from gpulime.views import diff, export
from gpulime.views.report import page


def write(run, *given, **options):
    with store.Store(run, **options) as results:
        for row in given:
            results.append(row)
    return store.shards(run)


def ids(run):
    return store.read(run, ["image_id"])["image_id"].to_pylist()


def damage(path, at=None):
    """Flip a bit, by default in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 4
    path.write_bytes(content)


def test_a_name_ends_in_the_sum_of_the_bytes(tmp_path):
    (shard,) = write(tmp_path, explained("a"))
    assert shard.stem.endswith(f"-{shards.checksum(shard):08x}")
    with shards.opened(shard) as sound:
        assert sound.metadata.num_rows == 1


def test_the_sum_that_was_found_is_said_beside_the_one_in_the_name(tmp_path):
    (shard,) = write(tmp_path, explained("a"))
    named = shard.stem[-8:]
    damage(shard, shard.read_bytes().index(b"grid"))
    message = f"the CRC-32 of its bytes must be {named}, as its name says, got {shards.checksum(shard):08x}$"
    with pytest.raises(shards.CorruptError, match=message), shards.opened(shard):
        pass


def test_any_flipped_bit_is_found(tmp_path):
    (shard,) = write(tmp_path, explained("a"))
    whole = shard.read_bytes()
    for at in range(0, len(whole), 97):
        damage(shard, at)
        with pytest.raises(shards.CorruptError, match=re.escape(f"shard {shard} is corrupt: ")), shards.opened(shard):
            pass
        shard.write_bytes(whole)


@pytest.mark.parametrize("keep", [0, 10, -10], ids=["empty", "head only", "tail cut"])
def test_a_truncated_shard_is_left_out_and_named(tmp_path, keep):
    bad, _ = write(tmp_path, explained("a"), explained("b"), flush_rows=1)
    bad.write_bytes(bad.read_bytes()[:keep])
    with pytest.warns(UserWarning, match=rf"{bad.name} is corrupt: .* left out: .*gpulime verify {tmp_path}"):
        assert set(store.done(tmp_path)) == {"b"}
    assert ids(tmp_path) == ["b"]  # and it is not said again


def test_the_warning_comes_once(tmp_path):
    (bad,) = write(tmp_path, explained("a"))
    damage(bad)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        store.done(tmp_path)
        warnings.simplefilter("always")
        ids(tmp_path)
    assert len(said) == 1


def test_damage_where_no_id_stands_brings_the_ids_back_too(tmp_path):
    """Otherwise a run would skip images with unreadable explanations."""
    (bad,) = write(tmp_path, explained("a", error="x" * 5000))
    damage(bad, bad.read_bytes().index(b"grid"))
    with pytest.warns(UserWarning, match=bad.name):
        assert set(store.done(tmp_path)) == set()


def test_a_shard_of_another_schema_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / "part-0-1700000000000-0123abcd.parquet"
    table = pq.read_table(*write(tmp_path / "other", explained("a")))
    pq.write_table(table.drop_columns(["seg", *ADDED]).replace_schema_metadata(), path)
    with pytest.warns(UserWarning, match=rf"{path.name} is corrupt: it lacks columns .*: seg\."):
        assert set(store.done(tmp_path)) == set()


def crafted(folder, name, values):
    """A run whose one shard another program has written, with these values in a column."""
    run(folder, explained("a"), explained("b"), files=False)
    [shard] = store.shards(folder)
    table = pq.read_table(shard)
    free = pa.schema([field.with_nullable(True) for field in table.schema], table.schema.metadata)
    place = free.get_field_index(name)
    shard.unlink()
    pq.write_table(table.cast(free).set_column(place, free.field(place), values), shard)
    rank, milliseconds = shards.number(shard)
    shard.rename(shard.with_name(shards.name_of(rank, milliseconds, shards.checksum(shard))))
    return folder


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
)
TIMES = pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("image_id", pa.nulls(2, pa.string()), "image_id must not be null"),
        ("path", pa.array([None, b"x"]), "path must not be null"),
        ("config_hash", pa.nulls(2, pa.string()), "config_hash must not be null"),
        ("image_id", NOT_UTF8, "Invalid UTF8"),
        ("error", NOT_UTF8, "Invalid UTF8"),
        ("status", pa.array(["ok", "done"]), "status must be ok or error, got 'done'"),
        ("written_at", pa.array([0, 2**62]).cast(TIMES), "written_at must be after 1970 and before the year 10000"),
        ("written_at", pa.array([0, -(2**62)]).cast(TIMES), "written_at must be after 1970"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_no_reader_can_use_are_corruption(name, values, reason, tmp_path):
    folder = crafted(tmp_path, name, values)
    found = verify.verify(folder)
    assert found.exit_code == 65
    [error] = found.corrupt
    assert reason in error.reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert store.read(folder, [name]).num_rows == 0
        status.status(folder)  # of columns that it does not need it knows nothing
        open_run(folder)
        assert "Written by gpulime" in page.write(folder, lambda row: None, None).read_text()


def test_a_shard_whose_columns_may_be_null_and_are_not_is_read(tmp_path):
    folder = crafted(tmp_path, "error", pa.nulls(2, pa.string()))
    assert verify.verify(folder).exit_code == 0
    assert (list(open_run(folder)), sorted(store.done(folder))) == (["a", "b"], ["a", "b"])


def test_a_pipe_is_no_shard(tmp_path):
    [shard] = write(tmp_path, explained("a"))
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(shards.CorruptError, match="it must be a regular file"), shards.opened(shard):
        pass


def test_a_shard_of_a_newer_gpulime_is_refused_by_name(tmp_path):
    (shard,) = write(tmp_path, explained("a"))
    table = pq.read_table(shard)
    assert table.schema.metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()
    version = SCHEMA_VERSION + 1
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: str(version).encode()}), shard)
    newer = shard.rename(shard.with_name(shards.name_of(0, 1, shards.checksum(shard))))
    message = f"shard {newer} has schema version {version}, this gpulime reads up to {SCHEMA_VERSION}; a newer one is needed"
    for reader in (store.done, store.read):
        with pytest.raises(GpulimeError, match=re.escape(message)):
            reader(tmp_path)


def test_a_shard_of_this_version_must_have_this_versions_columns(tmp_path):
    (shard,) = write(tmp_path, explained("a"))
    pq.write_table(pq.read_table(shard).drop_columns(["r2_loo"]), shard)
    bad = shard.rename(shard.with_name(shards.name_of(0, 1, shards.checksum(shard))))
    with pytest.warns(UserWarning, match=rf"{bad.name} is corrupt: it lacks columns .*: r2_loo\."):
        assert set(store.done(tmp_path)) == set()


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_earlier_version_is_read_everywhere(version, tmp_path):
    """Missing columns are null, also beside rows of this version and after both were merged."""
    rows = [explained("a", r2_loo=[0.4, 0.3], coef_se=[[0.25] * 4] * 2, target=1, exhaustive=True), failed("bad")]
    folder = as_version(run(tmp_path / "run", *rows), version)
    later = [name for name, since in ADDED.items() if since > version]
    same = run(tmp_path / "same", *rows)
    assert store.read(folder).to_pylist() == [row | dict.fromkeys(later) for row in store.read(same).to_pylist()]
    assert len(store.done(folder)) == status.status(folder).done == 2
    assert (verify.verify(folder).as_written, verify.verify(folder).rows) == (True, 2)
    assert summary.summary(folder, store.manifest(folder), Effort()).ok == 1
    assert open_run(folder)["a"].scores[1] == 0.5
    assert open_run(folder).explanations(["a"]).standard_errors.isnan().all()
    assert (open_run(same).explanations(["a"]).standard_errors == 0.25).all()
    assert [open_run(one).explanations(["a"]).exhaustive.tolist() for one in (folder, same)] == [[False], [True]]
    assert export.export(folder, None, tmp_path / "files").images == 1
    assert len(diff.compare(folder, same).images) == 1
    assert page.write(folder, lambda row: None, None).is_file()
    write(folder, explained("b", coef_se=[[0.5] * 4] * 2))
    for _ in range(2):
        assert store.read(folder, ["coef_se"])["coef_se"].to_pylist() == [None, None, [[0.5] * 4] * 2]
        assert set(open_run(folder)) == {"a", "b"}
        compact.compact(folder)
    assert len(store.shards(folder)) == 1


def test_a_shard_from_before_sums_is_read(tmp_path):
    (shard,) = write(tmp_path, explained("a"))
    old = shard.with_name("part-0-1700000000000-0123abcd.parquet")
    pq.write_table(pq.read_table(shard).drop_columns(list(ADDED)).replace_schema_metadata(), old)
    shard.unlink()
    assert ids(tmp_path) == ["a"]


def test_a_shard_that_may_not_be_read_is_not_called_corrupt(tmp_path, monkeypatch):
    """Otherwise its images would be explained again because of a permission."""
    (shard,) = write(tmp_path, explained("a"))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shards, "checksum", refuse)
    with pytest.raises(GpulimeError, match=f"{shard.name} cannot be read: Permission denied"):
        store.done(tmp_path)


def test_a_link_to_nowhere_is_named(tmp_path):
    write(tmp_path, explained("a"))
    (tmp_path / "results" / "part-0-1-0123abcd.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(GpulimeError, match=r"0123abcd\.parquet is listed and not there"):
        store.done(tmp_path)


@pytest.mark.parametrize("said", [errno.ENOENT, errno.ESTALE], ids=["gone", "gone on NFS"])
def test_shards_merged_while_they_are_read_are_read_once(tmp_path, monkeypatch, said):
    first, second, _ = write(tmp_path, *map(explained, "abc"), flush_rows=1)
    real = shards.checksum

    def merging(path):
        """Between the first and the second shard, both become another one."""
        if path == second and second.exists():
            both = pq.read_table(first), pq.read_table(second)
            first.unlink()
            second.unlink()
            write(tmp_path, *(row for table in both for row in table.to_pylist()))
            raise OSError(said, os.strerror(said), str(path))
        return real(path)

    monkeypatch.setattr(shards, "checksum", merging)
    found = shards.rows(tmp_path, ["image_id"])
    assert sorted(found["image_id"].to_pylist()) == ["a", "b", "c"]


def test_a_listing_during_a_merge_is_made_again(tmp_path, monkeypatch):
    old, merged = write(tmp_path, explained("a"), explained("b"), flush_rows=1)
    torn = iter([[], [merged], [merged]])
    monkeypatch.setattr(shards, "_listed", lambda run: next(torn))
    assert shards.shards(tmp_path) == [merged]
    assert old.exists()


def test_the_rule_does_not_depend_on_how_rows_lie_in_shards(tmp_path):
    write(tmp_path, failed("a", attempt=2), explained("a"), failed("b"), flush_rows=1)
    found = store.read(tmp_path, ["image_id", "status"]).to_pylist()
    assert found == [{"image_id": "a", "status": "ok"}, {"image_id": "b", "status": "error"}]


def test_hidden_files_and_strangers_are_no_shards(tmp_path):
    write(tmp_path, explained("a"))
    for name in (".DS_Store", "notes.txt", "part-0-1-0123abcd.parquet.tmp", "part-0-1-0123ABCD.parquet"):
        (tmp_path / "results" / name).touch()
    assert ids(tmp_path) == ["a"]
    assert len(os.listdir(tmp_path / "results")) == 5


def test_the_report_says_how_many_files_it_leaves_out(tmp_path):
    rows.run(tmp_path)
    bad, _ = write(tmp_path, explained("a"), explained("b"), flush_rows=1)
    assert "Corrupt result files" not in page.write(tmp_path, lambda row: None, None).read_text()
    damage(bad)
    with pytest.warns(UserWarning, match=bad.name):
        shown = Page(page.write(tmp_path, lambda row: None, None))
    facts = dict(zip(shown.texts("dt"), shown.texts("dd"), strict=True))
    assert facts["Corrupt result files"] == "1, left out; gpulime verify names them"
    assert shown.texts("h3") == ["b"]
