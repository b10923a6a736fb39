"""A damaged row, in any column, affects its own image only and is reported with the reason."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from markup import Page
from rows import LABELS, explained, failed, run

from gpulime.cli import main
from gpulime.runs.progress import summary
from gpulime.runs.progress.heartbeat import Effort
from gpulime.runs.store import row_index, shards, store, verify
from gpulime.views import diff
from gpulime.views.export import export
from gpulime.views.report import diff_page, page

OF_TEXT = {"kind": "text", "parts": ["a", "b", "c", "d"], "text": "a b c d", "spans": [[0, 1], [2, 3], [4, 5], []]}
GAP = np.where(LABELS == 3, 4, LABELS)
DAMAGED = {
    "segments unreadable": ({"seg": b"junk"}, "seg must be a zlib stream"),
    "segments of another shape": ({"h": 25}, r"seg must inflate to 500 bytes \(25 x 20 .*, got 480"),
    "segments of no kind": ({"seg_dtype": "f8"}, "seg_dtype must be one of 'u1', '<u2'; got 'f8'"),
    "no height": ({"h": 0}, "h and w must be 1 or more, got 0, 20"),
    "negative": ({"h": -24, "w": -20}, "h and w must be 1 or more, got -24, -20"),
    "no segments": ({"seg": None}, "an explanation must have seg$"),
    "no labels": ({"labels": []}, "n_segments and labels must be 1 or more, got 4, 0"),
    "a label of none": ({"labels": [1, None]}, r"labels must be finite, got \[1, None\]"),
    "segments with a gap": ({"seg": zlib.compress(GAP.astype("u1").tobytes()), "n_segments": 5}, "0 ... 4, got 4 from 0 to 4"),
    "more segments than said": ({"n_segments": 3}, "seg must show the segments 0 ... 2, got 4 from 0 to 3"),
    "fewer segments than said": ({"n_segments": 2**31 - 1}, "0 ... 2147483646, got 4 from 0 to 3"),
    "NaN": ({"coef": [[0.5, float("nan"), 0, 0]] * 2}, r"coef must be finite, got \[\[0.5, nan, 0.0, 0.0\]"),
    "infinite prediction": ({"pred_probs": [float("inf"), 0.1]}, "pred_probs must be finite"),
    "too few coefficients": ({"coef": [[0.5, 0.1, 0.2]] * 2}, r"coef must have 4 entries for each label, got \[3\]"),
    "no coefficients of a label": ({"coef": [[0.5, 0.1, 0.2, 0.3], None]}, r"got \[0, 4\]"),
    "a label without coefficients": ({"coef": [[1, 2, 3, 4]]}, "coef must have an entry for each of 2 labels, got 1"),
    "an intercept of none": ({"intercept": [0.1, None]}, r"intercept must be finite, got \[0.1, None\]"),
    "an infinite intercept": ({"intercept": [float("inf"), 0.1]}, "intercept must be finite"),
    "a label below 0": ({"labels": [-1, 2]}, r"labels must be distinct, and 0 or more, got \[-1, 2\]"),
    "a label twice": ({"labels": [2, 2]}, "labels must be distinct"),
    "a prediction without output": ({"prediction": 3}, "prediction must be a class with a finite output, got 3 and None"),
    "more pixels than there can be": ({"h": 2**31 - 1, "w": 2**31 - 1}, "h x w must be below 2147483648"),
    "an error below 0": ({"coef_se": [[0.5, -0.1, 0, 0]] * 2}, "coef_se must be finite, and 0 or more, got "),
    "an infinite error": ({"coef_se": [[0.5, float("inf"), 0, 0]] * 2}, "coef_se must be finite, and 0 or more, got "),
    "too few errors": ({"coef_se": [[0.5, 0.1, None]] * 2}, r"coef_se must have 4 entries for each label, got \[3\]"),
    "errors of one label": ({"coef_se": [[1, 2, 3, 4]]}, "coef_se must have an entry for each of 2 labels, got 1"),
    "too many scores": ({"r2": [0.1] * 3}, "r2 must have an entry for each of 2 labels, got 3"),
    "an unknown kind": ({"kind": "sound"}, "kind must be one of 'image', 'text', 'row'; got 'sound'"),
    "a text without parts": ({"kind": "text"}, "an explanation must have parts, text, spans$"),
    "too few words": (OF_TEXT | {"parts": ["a", "b"]}, r"parts must be 4 names, got \['a', 'b'\]"),
    "a word of none": (OF_TEXT | {"parts": ["a", None, "c", "d"]}, "parts must be 4 names"),
    "words without places": (OF_TEXT | {"spans": [[0, 1]]}, "spans must have an entry for each of 4 parts, got 1"),
    "a place beyond the text": (OF_TEXT | {"spans": [[0, 8], [], [], []]}, r"in the text, 0 to 7, got \[0, 8\]"),
    "an unseen word beyond the text": (OF_TEXT | {"unseen": [4]}, r"different places among 4 parts, got \[4\]"),
    "a word that is unseen twice": (OF_TEXT | {"unseen": [3, 3]}, r"different places among 4 parts, got \[3, 3\]"),
    "half a place": (OF_TEXT | {"spans": [[0], [], [], []]}, r"spans must be pairs of places in the text, 0 to 7, got \[0\]"),
    "a row without values": ({"kind": "row", "parts": ["a", "b", "c", "d"]}, "an explanation must have values$"),
}


BAD = [explained(name) | changes for name, (changes, _) in DAMAGED.items()]


def assert_matches(reason, text):
    with pytest.raises(ValueError, match=reason):
        raise ValueError(text)


@pytest.mark.parametrize("name", DAMAGED)
def test_verify_and_summary_count_it(tmp_path, name):
    changes, reason = DAMAGED[name]
    folder = run(tmp_path, explained("a"), explained("bad") | changes)
    found = verify.verify(folder)
    assert list(found.damaged) == ["bad"]
    assert_matches(reason, found.damaged["bad"])
    assert summary.summary(folder, store.manifest(folder), Effort()).median_r2 == 0.5


def test_the_report_lists_them_among_the_failures(tmp_path):
    shown = Page(page.write(run(tmp_path, explained("a"), *BAD, failed("c"), explained("d")), lambda row: None, None))
    assert shown.texts("h3") == ["a", "d"]
    assert f"damaged: {len(BAD)}, decode: 1" in shown.texts("p")
    cells = shown.texts("td")
    for name, (_, reason) in DAMAGED.items():
        start = cells.index(name)
        assert cells[start + 1] == "damaged"
        assert_matches(reason, cells[start + 2])
    facts = dict(zip(shown.texts("dt"), shown.texts("dd"), strict=True))
    assert (facts["Explained"], facts["Failed"]) == ("2", f"{len(BAD) + 1}")


def test_export_writes_the_others(tmp_path):
    folder = run(tmp_path / "run", explained("a"), *BAD, explained("c"))
    done = export(folder, None, tmp_path / "all")
    assert (done.images, list(done.damaged)) == (2, list(DAMAGED))
    for name, (_, reason) in DAMAGED.items():
        assert_matches(reason, done.damaged[name])
    assert len(list((tmp_path / "all").glob("*.npz"))) == 2
    assert export(folder, [*DAMAGED], tmp_path / "none").images == 0


def test_diff_leaves_them_out(tmp_path):
    a = run(tmp_path / "a", explained("x"), *map(explained, DAMAGED))
    b = run(tmp_path / "b", explained("x"), *BAD)
    found = diff.compare(a, b)
    assert [image.image_id for image in found.images] == ["x"]
    assert (found.failed, found.damaged_a, found.damaged_b) == (len(BAD), 0, len(BAD))
    assert dict(found.summary)["damaged rows"].startswith(f"0 in A, {len(BAD)} in B; they are left out")
    assert Page(diff_page.write(found, b)).texts("h3") == ["x"]


def test_the_command_says_what_it_left_out_and_how_many_have_no_picture(tmp_path, capsys):
    folder = run(tmp_path / "run", explained("a"), explained("bad\n", seg=b"junk"), explained("c"), files=False)
    assert main.main(["export", str(folder), "--to", str(tmp_path / "to")]) == 3
    said = capsys.readouterr()
    assert said.out == f"2 images: {tmp_path / 'to' / 'index.csv'}\n"
    first, second = said.err.splitlines()
    assert first.startswith("gpulime: image 'bad\\n' is left out, its row is damaged: seg must be a zlib stream")
    assert second == "2 images have no picture: their overlays are transparent, to lay over any picture"


def test_whole_rows_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH", 2)
    folder = run(tmp_path, explained("a"), failed("b"), explained("c"), explained("d"), failed("e"))
    rows = store.read(folder, [*shards.DECIDING, "error_type", "error"])
    assert row_index.judged(folder).rows.equals(rows)
    assert row_index.judged(run(tmp_path / "none")).rows.equals(rows.slice(0, 0))


def test_a_manifest_may_lack_what_only_the_report_shows(tmp_path):
    folder = run(tmp_path, explained("a"))
    assert "config_hash" not in store.read_manifest(folder)
    assert "Written by gpulime" in page.write(folder, lambda row: None, None).read_text()
