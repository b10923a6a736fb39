"""The file with the ``data.factory`` calls that a user has run."""

from __future__ import annotations

import os

import pytest

from gpulime.config import DataConfig
from gpulime.runs.reading import factories

MINE = DataConfig(factory="mine:dataset", kwargs={"n": 3})


def test_a_call_is_known_after_it_was_run_in_this_folder(monkeypatch, tmp_path):
    assert not factories.has_run(MINE)
    factories.keep(MINE)
    assert factories.has_run(MINE)
    assert not factories.has_run(DataConfig(factory="mine:dataset", kwargs={"n": 4}))
    assert not factories.has_run(DataConfig(factory="other:dataset", kwargs={"n": 3}))
    monkeypatch.chdir(tmp_path)
    assert not factories.has_run(MINE)  # Python may import another module of that name here


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"7", b"null", b'{"x": 1}\x00', b"\xff\xfe\x00"])
def test_a_broken_file_is_ignored_and_replaced(content):
    factories.keep(MINE)
    factories.path().write_bytes(content)
    assert not factories.has_run(MINE)
    factories.keep(MINE)
    assert factories.has_run(MINE)


def test_the_newest_are_kept(monkeypatch):
    monkeypatch.setattr(factories, "MOST", 3)
    calls = [DataConfig(factory=f"m:{name}") for name in "abcad"]
    for call in calls:
        factories.keep(call)
    assert [factories.has_run(DataConfig(factory=f"m:{name}")) for name in "abcd"] == [True, False, True, True]


def test_off_keeps_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("GPULIME_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    factories.keep(MINE)
    assert factories.path() is None
    assert not factories.has_run(MINE)
    assert not list(tmp_path.iterdir())


def test_it_lies_where_such_files_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("GPULIME_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert factories.path() == tmp_path / ".cache" / "gpulime" / "factories.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert factories.path() == tmp_path / "xdg" / "gpulime" / "factories.json"


def test_a_folder_that_cannot_be_written_costs_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GPULIME_CACHE", str(tmp_path / "file"))
    factories.keep(MINE)
    assert not factories.has_run(MINE)


def test_nothing_is_left_beside_it(monkeypatch):
    def refuse(source, target):
        raise OSError("the disk is full")

    factories.keep(MINE)
    monkeypatch.setattr(os, "replace", refuse)
    factories.keep(DataConfig(factory="other:dataset"))
    assert [file.name for file in factories.path().parent.iterdir()] == ["factories.json"]
    assert factories.has_run(MINE)
