"""The terms of a run: a directory holds rows of one set of settings, and only rows block other settings."""

import contextlib
import dataclasses
import json
import os
import time

import pytest
from processes import Other
from rows import beat_of, explained

from gpulime.errors import GpulimeError
from gpulime.runs.progress.heartbeat import Heartbeat, machine
from gpulime.runs.progress.partition import Share
from gpulime.runs.store import atomic, store
from gpulime.runs.store.manifest import Terms

ONE = Terms({"lime.n_samples": 40, "segmenter": "grid"}, {"class_names": ["a", "b"]})
OTHER = Terms({"lime.n_samples": 50, "segmenter": "grid"}, {"class_names": ["a", "b"]})
DIFFERENCE = r"lime\.n_samples was 40, is 50\. Choose another out, or delete it"
AT_WORK = r"is being filled by a process with other settings: lime\.n_samples was 40, is 50\. Choose another out$"


def about(run):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def with_a_row(run):
    with store.Store(run) as results:
        results.append(explained("a"))


def worked_on(run, **changes):
    beat = beat_of(Share(), **{"time": time.time(), **changes})
    Heartbeat(run, Share(), lambda state: dataclasses.replace(beat, state=state)).beat(changes.get("state", "running"))


def test_a_new_directory_becomes_a_run(tmp_path):
    assert not ONE.fit(tmp_path)
    ONE.accept(tmp_path)
    assert about(tmp_path)["fixed"] == ONE.fixed
    assert about(tmp_path)["config_hash"] == ONE.config_hash != OTHER.config_hash
    assert about(tmp_path)["class_names"] == ["a", "b"]
    assert about(tmp_path)["versions"]["torch"]


def test_rows_bind(tmp_path):
    ONE.accept(tmp_path)
    with_a_row(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    assert ONE.fit(tmp_path)
    for ask in (OTHER.fit, OTHER.accept):
        with pytest.raises(GpulimeError, match=DIFFERENCE):
            ask(tmp_path)
    dataclasses.replace(ONE, about={"class_names": ["c", "d"]}).accept(tmp_path)
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("fixed", "difference"),
    [
        ({"lime.n_samples": 40, "segmenter": "grid", "model_code": None}, "model_code was not set, is None"),
        ({"lime.n_samples": 40.0, "segmenter": "grid"}, r"lime\.n_samples was 40, is 40\.0"),
        ({"lime.n_samples": 40}, "segmenter was 'grid', is not set"),
    ],
)
def test_a_refusal_names_every_difference_of_the_hash(tmp_path, fixed, difference):
    ONE.accept(tmp_path)
    with_a_row(tmp_path)
    with pytest.raises(GpulimeError, match=rf"other settings: {difference}\. Choose"):
        Terms(fixed, {}).fit(tmp_path)


def test_a_refusal_says_that_an_earlier_version_began_the_run(tmp_path):
    ONE.accept(tmp_path)
    with_a_row(tmp_path)
    damaged = {**ONE.fixed, "targets": 5}
    (tmp_path / "run.json").write_text(json.dumps({**about(tmp_path), "fixed": damaged, "schema_version": 1}), encoding="utf-8")
    with pytest.raises(GpulimeError, match=r"holds results of other settings, of an earlier gpulime: lime\.n_samples was 40"):
        OTHER.fit(tmp_path)


def test_a_call_that_left_no_row_binds_nobody(tmp_path):
    ONE.accept(tmp_path)
    worked_on(tmp_path, state="failed")
    named = dataclasses.replace(OTHER, about={"class_names": ["c", "d"]})
    named.accept(tmp_path)
    assert about(tmp_path)["fixed"] == OTHER.fixed
    assert about(tmp_path)["class_names"] == ["c", "d"]


def test_a_process_that_has_written_no_row_yet_binds(tmp_path):
    ONE.accept(tmp_path)
    worked_on(tmp_path)
    with pytest.raises(GpulimeError, match=AT_WORK):
        OTHER.accept(tmp_path)
    assert ONE.fit(tmp_path)


@pytest.mark.parametrize(("host", "seconds", "binds"), [(None, 900, True), (None, 4000, False), ("elsewhere", 900, False)])
def test_a_silent_process_of_this_machine_binds_as_long_as_it_may_be_busy(tmp_path, host, seconds, binds):
    """A model that is compiled keeps a process silent for minutes."""
    ONE.accept(tmp_path)
    worked_on(tmp_path, pid=os.getppid(), host=host or machine(), time=time.time() - seconds)
    with pytest.raises(GpulimeError, match=AT_WORK) if binds else contextlib.nullcontext():
        OTHER.accept(tmp_path)


def test_rows_without_a_run_json_bind_too(tmp_path):
    with store.Store(tmp_path) as results:
        results.append(explained("a", config_hash=ONE.config_hash))
    with pytest.raises(GpulimeError, match=r"holds results of other settings, and no run\.json that tells which"):
        OTHER.accept(tmp_path)
    assert not (tmp_path / "run.json").exists()
    ONE.accept(tmp_path)
    assert about(tmp_path)["fixed"] == ONE.fixed


def test_functions_that_cannot_be_compared_are_refused_once_there_are_rows(tmp_path):
    terms = dataclasses.replace(ONE, unnamed=["kernel", "segments"])
    terms.accept(tmp_path)
    terms.accept(tmp_path)
    with_a_row(tmp_path)
    with pytest.raises(
        GpulimeError, match=r"cannot be compared with the ones that made them \(kernel, segments\): give a model"
    ):
        terms.accept(tmp_path)


def agree(pipe, run, number):
    """Check and register settings of its own, and stay until the test says so."""
    share = Share(rank=number)
    heart = Heartbeat(run, share, lambda state: beat_of(share, time=time.time(), state=state))
    pipe.send("ready")
    pipe.recv()
    try:
        with atomic.one_at_a_time(run):
            Terms({"number": number}, {}).accept(run)
            time.sleep(0.05)
            heart.beat("running")
        pipe.send("agreed")
    except GpulimeError:
        pipe.send("refused")
    pipe.recv()


def test_of_processes_that_start_at_once_with_other_settings_one_agrees(tmp_path):
    """Each process checks and registers under a lock; later ones then find it running."""
    others = [Other(agree, tmp_path, number) for number in range(4)]
    assert [other.hear() for other in others] == ["ready"] * 4
    for other in others:
        other.go()
    said = [other.hear() for other in others]
    assert sorted(said) == ["agreed", "refused", "refused", "refused"]
    assert about(tmp_path)["fixed"] == {"number": said.index("agreed")}
    for other in others:
        other.go()
        other.end()
