"""verify: the contents of a run, and everything damaged or changed, by name."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import rows
from PIL import Image
from rows import explained, failed

from gpulime.cli import main
from gpulime.config import DataConfig
from gpulime.errors import GpulimeError
from gpulime.runs.progress import exits
from gpulime.runs.reading.read import load
from gpulime.runs.reading.sources import Item
from gpulime.runs.store import row, shards, store, verify
from gpulime.views import verify_text


def run(folder, *results, flush_rows=256, config_hash="0f" * 8):
    rows.run(folder)
    store.write_manifest(folder, store.read_manifest(folder) | {"config_hash": config_hash})
    with store.Store(folder, flush_rows=flush_rows) as into:
        for one in results:
            into.append(one)
    return folder


def flip(path, at=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    path.write_bytes(content)


def lines(found):
    """term -> fact, and the names below each."""
    shown, term = {}, None
    for line in verify_text.text(found).splitlines():
        term = line[:16].strip() or term
        shown.setdefault(term, []).append(line[16:])
    return shown


def test_a_sound_run_is_said_to_be(tmp_path):
    found = verify.verify(run(tmp_path, *map(explained, "abc"), flush_rows=2))
    assert (found.shards, found.rows, found.images, found.ok, found.exit_code) == (2, 3, 3, 3, exits.OK)
    assert lines(found) == {
        "run": [str(tmp_path)],
        "shards": ["2 read whole, all sound"],
        "images": ["3: 3 ok"],
        "verdict": ["all files are intact, and every image is explained (exit code 0)"],
    }


def test_error_rows_are_counted_by_kind_and_repeats_by_the_readers_rule(tmp_path):
    again = (
        explained("a"),
        failed("a"),
        failed("b"),
        failed("c", attempt=2),
        failed("c"),
        failed("d") | {"error_type": "too_large"},
    )
    found = verify.verify(run(tmp_path, *again, flush_rows=1))
    assert (found.images, found.ok, found.errors) == (4, 1, {"decode": 2, "too_large": 1})
    assert found.exit_code == exits.ERROR_ROWS
    assert lines(found)["images"] == ["4: 1 ok, 3 failed (decode 2, too_large 1)"]
    assert lines(found)["repeated rows"][0].startswith("2; readers take one row per image")


def test_corrupt_shards_are_named_and_the_others_counted(tmp_path):
    run(tmp_path, *map(explained, "abc"), flush_rows=1)
    first, second, _ = store.shards(tmp_path)
    flip(first)
    second.write_bytes(second.read_bytes()[:-10])
    found = verify.verify(tmp_path)
    assert [error.path for error in found.corrupt] == [first, second]
    assert (found.shards, found.images, found.exit_code) == (1, 1, exits.DAMAGED)
    head, *named = lines(found)["corrupt shards"]
    assert head == "2; run the same gpulime explain again to explain their images again; then delete them"
    assert [name.split(":")[0] for name in named] == [f"- {first.name}", f"- {second.name}"]


def test_damaged_rows_are_named_where_readers_would_see_them(tmp_path):
    bad = {"seg": b"junk"}
    damaged = explained("bad\n", **bad), explained("mended", **bad), explained("mended", attempt=2)
    found = verify.verify(run(tmp_path, explained("a"), *damaged))
    assert list(found.damaged) == ["bad\n"]
    assert (found.ok, found.errors, found.exit_code) == (2, {}, exits.DAMAGED)
    assert lines(found)["damaged rows"][1].startswith("- bad\\n: seg must be a zlib stream")


def test_rows_of_other_settings_are_counted(tmp_path):
    found = verify.verify(run(tmp_path, explained("a"), explained("b", config_hash="aa"), explained("c", config_hash="aa")))
    assert found.other_settings == {"aa": 2}
    assert found.exit_code == exits.DAMAGED
    assert lines(found)["other settings"] == [f"rows whose config_hash is not the run's {'0f' * 8}", "- aa: 2 rows"]


def test_strangers_count_and_leftovers_do_not(tmp_path):
    run(tmp_path, explained("a"))
    (tmp_path / "_staging" / "0123abcd-part-0-1-00000000.parquet").write_bytes(b"PAR1 half a shard")
    (tmp_path / "results" / ".hidden").touch()
    found = verify.verify(tmp_path)
    assert (found.leftovers, found.strangers, found.exit_code) == (["0123abcd-part-0-1-00000000.parquet"], [], exits.OK)
    (tmp_path / "results" / "copy of part-0.parquet").touch()
    found = verify.verify(tmp_path)
    assert (found.strangers, found.exit_code) == (["copy of part-0.parquet"], exits.DAMAGED)


@pytest.fixture
def photographs(tmp_path):
    """A run over six files, and the files: one changed so that it still decodes, one gone, two that could not be read."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    results = []
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.bmp")
        path = os.fsencode(folder / f"{i}.bmp")
        sha256 = load(Item(f"{i}", path), DataConfig()).sha256
        results.append(explained(f"{i}", path=path, image_sha256=sha256))
    results += [failed(name, path=os.fsencode(folder / name)) for name in ("empty.png", "html.png")]
    return run(tmp_path / "run", *results), folder


def test_bit_rot_that_still_decodes_is_found(photographs):
    folder, images = photographs
    assert verify.verify(folder, inputs=True).inputs == verify.Inputs(same=4, changed=[], missing=[], unknown=2)
    flip(images / "1.bmp", -1)
    Image.open(images / "1.bmp").load()
    (images / "3.bmp").unlink()
    found = verify.verify(folder, inputs=True)
    assert found.inputs == verify.Inputs(same=2, changed=["1"], missing=["3"], unknown=2)
    assert found.exit_code == exits.DAMAGED
    shown = lines(found)
    assert shown["inputs"] == ["2 are what was explained; 2 have no sum to compare with"]
    assert (shown["changed inputs"], shown["missing inputs"]) == (["1", "- 1"], ["1", "- 3"])
    assert verify.verify(folder).exit_code == exits.ERROR_ROWS  # not asked for


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    row = {**explained("a"), "path": os.fsencode(tmp_path / "a.png"), "image_sha256": "0" * 64}
    rows.run(tmp_path / "run")
    store.write_manifest(tmp_path / "run", store.read_manifest(tmp_path / "run") | {"config": {}})
    with store.Store(tmp_path / "run") as into:
        into.append(row)
    assert verify.verify(tmp_path / "run", inputs=True).inputs == verify.Inputs(0, [], ["a"], 0)


def test_the_photographs_of_scikit_image_are_inputs_too(tmp_path):
    sha256 = load(Item("chelsea", b""), DataConfig()).sha256
    results = explained("chelsea", image_sha256=sha256), explained("coffee", image_sha256="00" * 32)
    assert verify.verify(run(tmp_path, *results), inputs=True).inputs == verify.Inputs(1, ["coffee"], [], 0)


def test_a_run_made_from_python_has_no_files_to_hash(tmp_path):
    run(tmp_path, explained("a", image_sha256="00" * 32))
    manifest = store.read_manifest(tmp_path)
    del manifest["config"]
    store.write_manifest(tmp_path, manifest)
    assert verify.verify(tmp_path, inputs=True).inputs == verify.Inputs(0, [], [], 1)


def test_a_run_must_be_there_and_hold_something(tmp_path):
    with pytest.raises(GpulimeError, match="holds no run"):
        verify.verify(tmp_path)
    with pytest.raises(GpulimeError, match="holds no results yet: there is no shard in"):
        verify.verify(run(tmp_path))


def test_many_names_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(verify_text, "MOST", 2)
    found = verify.verify(run(tmp_path, *(explained(f"{i}", seg=b"") for i in range(5))))
    assert len(lines(found)["damaged rows"]) == 1 + 2 + 1
    assert lines(found)["damaged rows"][-1] == "... and 3 more"


@pytest.mark.parametrize(
    ("results", "code"), [([explained("a")], 0), ([explained("a"), failed("b")], 3), ([explained("a", seg=b"")], 65)]
)
def test_the_command_exits_with_the_verdict(tmp_path, capsys, results, code):
    run(tmp_path, *results)
    assert main.main(["verify", str(tmp_path)]) == code
    assert f"(exit code {code})" in capsys.readouterr().out
    assert main.main(["verify", "--help"]) == 0
    assert f"\n  {code} " in capsys.readouterr().out


def test_shards_of_a_newer_gpulime_are_refused(tmp_path, capsys):
    run(tmp_path, explained("a"))
    manifest = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    assert main.main(["verify", str(tmp_path)]) == 2
    assert "schema_version 99, this gpulime reads up to" in capsys.readouterr().err


def test_memory_is_that_of_some_hundred_rows(tmp_path, monkeypatch):
    """All columns of no more than a batch of a shard are held at once."""
    held = []
    judged = row.judged
    monkeypatch.setattr(shards, "BATCH", 10)
    monkeypatch.setattr(row, "judged", lambda table: held.append(len(table)) or judged(table))
    verify.verify(run(tmp_path, *(explained(f"{i}") for i in range(25))))
    assert [rows for rows in held if rows] == [10, 10, 5]


def test_nothing_is_changed(tmp_path):
    run(tmp_path, explained("a"), failed("b"))
    flip(store.shards(tmp_path)[0])

    def state():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = state()
    verify.verify(tmp_path, inputs=True)
    assert state() == before
    assert shards.NAME.fullmatch(next(iter(store.shards(tmp_path))).name)
