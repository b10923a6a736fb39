"""Files of explanations of texts and rows; tests/explanations/test_explanation.py has those of images."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_lime_explanation import batch

import gpulime
from gpulime.errors import GpulimeError
from gpulime.explanations.images import ExplainedImages
from gpulime.explanations.rows import ExplainedRows
from gpulime.explanations.texts import ExplainedTexts

TEXT = "good \N{PARTY POPPER} b\ud800d good"  # with a lone surrogate, as a cut text has
SPANS = [[(0, 4), (11, 15)], [(7, 10)]]


def texts(**changes):
    unseen = torch.zeros(2, 3, dtype=torch.bool)
    words = [["good", "b\ud800d"], ["a", "b", "a"]]
    lists = {"texts": [TEXT, "a b a"], "words": words, "spans": [SPANS, [[(0, 1)], [], [(4, 5)]]], "unseen": unseen}
    return ExplainedTexts(**vars(batch()) | lists | changes)


def rows(**changes):
    names = [["width <= 3", "h\N{LATIN SMALL LETTER O WITH DIAERESIS}he"], ["width > 3", "age", "c"]]
    lists = {"names": names, "features": [["width", "h"], ["width", "age", "c"]], "values": [["2", "1"], ["4", "60", ""]]}
    tensors = {"columns": torch.arange(3).expand(2, 3).contiguous(), "bounds": torch.full((2, 2), torch.nan).double()}
    return ExplainedRows(**vars(batch()) | lists | tensors | {"mode": "regression", "class_names": None} | changes)


def changed(path, fields=None, kind=None, **arrays):
    with np.load(path) as file:
        found = {name: file[name] for name in file}
    about = json.loads(str(found["about"]))
    about["fields"] |= fields or {}
    about["kind"] = kind or about["kind"]
    with path.open("wb") as file:
        np.savez(file, **found | {"about": np.array(json.dumps(about))} | arrays)
    return path


@pytest.mark.parametrize("make", [texts, rows])
def test_all_that_was_saved_is_loaded(make, tmp_path):
    whole = make()
    whole.save(tmp_path / "file")
    for kind in (gpulime.Explanations, type(whole)):
        loaded = kind.load(tmp_path / "file")
        assert type(loaded) is type(whole)
        for field in dataclasses.fields(whole):
            one, other = (getattr(each, field.name) for each in (loaded, whole))
            if isinstance(other, torch.Tensor):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
            else:
                assert one == other, field.name
    assert loaded[1].as_html().encode("utf-8") == whole[1].as_html().encode("utf-8")
    with pytest.raises(GpulimeError, match=r"file holds explanations of \w+: read it by gpulime.Explanations.load"):
        ExplainedImages.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (texts, {"texts": ["a"]}),
        (texts, {"texts": 3}),
        (texts, {"texts": [1, 2]}),
        (texts, {"words": [["a"], ["b"]]}),
        (texts, {"spans": [[[], []], [[[0, 99]], [], []]]}),
        (texts, {"spans": [[[], []], ["x", [], []]]}),
        (rows, {"names": [["a", "b"], ["c"]]}),
        (rows, {"values": [["a", 1], ["c", "d", "e"]]}),
        (rows, {"features": None}),
        (rows, {"mode": "ranking"}),
        (rows, {"mode": []}),
    ],
)
def test_load_refuses_lists_that_do_not_belong_together(make, changes, tmp_path):
    make().save(tmp_path / "file")
    with pytest.raises(GpulimeError, match="file holds arrays whose shapes, types or values do not belong together"):
        gpulime.Explanations.load(changed(tmp_path / "file", changes))


@pytest.mark.parametrize(
    ("make", "array"),
    [(texts, {"unseen": np.zeros((2, 2), bool)}), (texts, {"counts": np.zeros(2, int)}), (rows, {"bounds": np.zeros((2, 3))})],
)
def test_load_refuses_arrays_that_do_not_belong_together(make, array, tmp_path):
    make().save(tmp_path / "file")
    with pytest.raises(GpulimeError, match="do not belong together"):
        gpulime.Explanations.load(changed(tmp_path / "file", **array))


def test_load_tells_what_is_missing_and_what_is_not_known(tmp_path):
    rows().save(tmp_path / "file")
    with pytest.raises(GpulimeError, match=r"file lacks \['spans', 'texts', 'unseen', 'words'\]"):
        gpulime.Explanations.load(changed(tmp_path / "file", kind="texts"))
    with pytest.raises(GpulimeError, match=r"holds explanations of 'sounds'; this gpulime reads those of images, texts, rows"):
        gpulime.Explanations.load(changed(tmp_path / "file", kind="sounds"))
    (tmp_path / "file").write_bytes(b"PK")
    with pytest.raises(GpulimeError, match=r"file was not written by Explanations.save"):
        gpulime.Explanations.load(tmp_path / "file")


def test_explanations_of_no_kind_are_not_saved(tmp_path):
    with pytest.raises(GpulimeError, match="explanations of images, texts and rows can be saved; got Explanations"):
        batch().save(tmp_path / "file")
    assert not (tmp_path / "file").exists()
