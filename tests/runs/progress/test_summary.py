"""The result of a run in numbers."""

import json

import pytest
from rows import beat_of, explained, failed, run

from gpulime.runs.progress import heartbeat, summary
from gpulime.runs.progress.heartbeat import Effort, Heartbeat
from gpulime.runs.progress.partition import Share
from gpulime.runs.store import store


def summed(folder, forwards=4000):
    return summary.summary(folder, store.manifest(folder), Effort(20.0, forwards, 19.4))


def test_accuracy_counts_images_whose_class_is_known(tmp_path):
    top, second = 1, 2  # of `rows.explained`
    rows = [explained("a", target=top), explained("b", target=second), explained("c", target=None), failed("d"), failed("e")]
    found = summed(run(tmp_path, *rows))
    assert (found.ok, found.failed, found.errors) == (3, {"decode": 2}, 2)
    assert (found.top1_accuracy, found.targets) == (0.5, 2)
    assert "top-1      0.500 of 2 with a known class" in str(found)
    assert "failed     2 (decode 2)" in str(found)
    assert "this call  20 s, 4,000 forwards, 200 forwards/s, 97 % of the time in the model" in str(found)


def test_accuracy_is_that_of_the_predictions_if_targets_alone_are_explained(tmp_path):
    rows = [explained(name, target=1, prediction=label, predicted_prob=0.5) for name, label in (("a", 1), ("b", 7), ("c", 0))]
    folder = run(tmp_path, *rows, explained("of an earlier version", target=1), fixed={"lime.labels": "target"})
    assert (summed(folder).top1_accuracy, summed(folder).targets) == (pytest.approx(1 / 3), 3)


def test_the_median_is_of_the_most_probable_labels_that_have_a_score(tmp_path):
    scores = (("a", 0.2, -0.1), ("b", 0.9, 0.3), ("c", None, None), ("d", 0.4, 0.2))
    found = summed(run(tmp_path, *(explained(name, r2=[one, 0.0], r2_loo=[other, 0.0]) for name, one, other in scores)))
    assert (found.median_r2, found.median_r2_loo) == (0.4, 0.2)
    assert "\nmedian R2  0.200 left out, 0.400 fitted\n" in str(found)
    older = summed(run(tmp_path / "older", explained("a", r2_loo=None)))
    assert "\nmedian R2  0.500 fitted\n" in str(older)


def test_nothing_explained_has_neither(tmp_path):
    found = summed(run(tmp_path, failed("a")), forwards=0)
    assert (found.median_r2, found.median_r2_loo, found.top1_accuracy) == (None, None, None)
    assert str(found) == "explained  0\nfailed     1 (decode 1)\nthis call  20 s, 0 forwards"


def test_the_file_holds_the_same(tmp_path):
    folder = run(tmp_path, explained("a"), failed("b"))
    facts = json.loads(summary.write(folder, summed(folder)).read_text(encoding="utf-8"))
    assert (facts["images"], facts["ok"], facts["failed"]) == (2, 1, {"decode": 1})
    assert facts["call"] == {"hours": 20 / 3600, "forwards": 4000, "in_model": pytest.approx(0.97)}
    assert facts["first"] <= facts["last"]


def test_the_effort_is_that_of_all_processes_in_all_their_calls(tmp_path):
    folder = run(tmp_path, explained("a"))
    for share, effort in (
        (Share(rank=0, world=2), Effort(100.0, 1000, 50.0)),
        (Share(rank=1, world=2), Effort(300.0, 2000, 150.0)),
        (Share(rank=1, world=2), Effort(50.0, 500, 25.0)),  # once more
        (Share(), Effort(20.0, 4000, 19.4)),  # by itself
    ):
        Heartbeat(folder, share, lambda state, s=share, e=effort: beat_of(s, effort=e)).beat("finished")
    found = summed(folder)
    assert found.spent == Effort(470.0, 7500, pytest.approx(244.4))
    assert "this call  20 s, 4,000 forwards, 200 forwards/s, 97 % of the time in the model" in str(found)
    assert "all calls  7 min 50 s, 7,500 forwards, 16 forwards/s, 52 % of the time in the model" in str(found)
    facts = json.loads(summary.write(folder, found).read_text(encoding="utf-8"))
    assert (facts["hours"], facts["forwards"], facts["in_model"]) == (470 / 3600, 7500, pytest.approx(244.4 / 470))
    assert len(heartbeat.read(folder)) == 2, "a rank has one file, however many ranks there are"
