"""What came of a run, in numbers."""

import json

import pytest
from rows import explained, failed, run

from gpulime.runs import store, summary


def summed(folder, forwards=4000):
    return summary.summary(folder, store.manifest(folder), seconds=20.0, forwards=forwards, in_model=0.97)


def test_accuracy_counts_images_whose_class_is_known(tmp_path):
    top, second = 1, 2  # of `rows.explained`
    rows = [explained("a", target=top), explained("b", target=second), explained("c", target=None), failed("d"), failed("e")]
    found = summed(run(tmp_path, *rows))
    assert (found.ok, found.failed, found.errors) == (3, {"decode": 2}, 2)
    assert (found.top1_accuracy, found.targets) == (0.5, 2)
    assert "top-1      0.500 of 2 with a known class" in str(found)
    assert "failed     2 (decode 2)" in str(found)
    assert "this call  20 s, 4,000 forwards, 200 forwards/s, 97 % of the time in the model" in str(found)


def test_the_median_is_of_the_most_probable_labels_that_have_a_score(tmp_path):
    rows = [explained(name, r2=[score, 0.0]) for name, score in (("a", 0.2), ("b", 0.9), ("c", None), ("d", 0.4))]
    assert summed(run(tmp_path, *rows)).median_r2 == pytest.approx(0.4)


def test_nothing_explained_has_neither(tmp_path):
    found = summed(run(tmp_path, failed("a")), forwards=0)
    assert (found.median_r2, found.top1_accuracy) == (None, None)
    assert str(found) == "explained  0\nfailed     1 (decode 1)\nthis call  20 s, 0 forwards"


def test_the_file_holds_the_same(tmp_path):
    folder = run(tmp_path, explained("a"), failed("b"))
    facts = json.loads(summary.write(folder, summed(folder)).read_text(encoding="utf-8"))
    assert (facts["images"], facts["ok"], facts["failed"], facts["hours"]) == (2, 1, {"decode": 1}, 20 / 3600)
    assert facts["first"] <= facts["last"]
