"""Progress of a run from another shell, and its result."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
from rows import beat_of, explained, failed, run

from gpulime.cli import main
from gpulime.errors import GpulimeError
from gpulime.runs.progress import exits, heartbeat
from gpulime.runs.progress.heartbeat import Effort, Heartbeat
from gpulime.runs.progress.partition import Share
from gpulime.runs.progress.status import status
from gpulime.runs.progress.terminal import duration
from gpulime.runs.store.atomic import STAGING

BEAT = beat_of(Share())


def beaten(folder, share=None, **changes):
    share = share or Share()
    beat = beat_of(share, **{"time": time.time(), **changes})
    Heartbeat(folder, share, lambda state: dataclasses.replace(beat, state=state)).beat(changes.get("state", "running"))
    return folder


def test_what_is_on_disk_and_what_a_process_tells(tmp_path, capsys):
    folder = beaten(run(tmp_path, explained("a"), explained("b"), failed("c")))
    assert main.main(["status", str(folder)]) == 0
    head, process = capsys.readouterr().out.splitlines()
    assert head == f"{folder}: 3 of 10 images (30.0 %) on disk; 1 failed (decode 1); 0.2 images/s; 20 s left"
    assert f"the whole run on {BEAT.host} ({BEAT.pid}): running, last word 0 s ago; 6 of its 10 done" in process
    assert "0.2 images/s, 200 forwards/s, 97 % of the time in the model" in process


def test_as_json(tmp_path, capsys):
    folder = beaten(run(tmp_path, explained("a"), failed("c")))
    assert main.main(["status", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["ok"], facts["failed"], facts["done"]) == (10, 1, {"decode": 1}, 2)
    assert facts["processes"][0]["effort"]["forwards"] == 4000
    assert facts["rate"] == 0.2


def test_a_process_that_is_gone_or_silent_is_not_said_to_run(tmp_path):
    folder = run(tmp_path, explained("a"))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    beaten(folder, pid=child.pid)
    assert "gone: no such process" in str(status(folder))
    assert status(folder).left is None
    beaten(folder, host="another")
    assert status(folder).running, "nothing is known of processes elsewhere"
    found = status(folder)
    later = dataclasses.replace(found, now=found.now + 300)
    assert "silent for 5 min: it hangs, or has died" in str(later)
    assert not later.running


def test_the_slowest_of_several_tells_the_time_left(tmp_path):
    folder = run(tmp_path, explained("a"))
    for rank, left in enumerate((10.0, 700.0, 50.0)):
        beaten(folder, Share(rank=rank, world=3), left=left)
    found = status(folder)
    assert 690 < found.left <= 700
    assert [line.split(" on ")[0].strip() for line in str(found).splitlines()[1:]] == [f"rank {i} of 3" for i in range(3)]
    beaten(folder, Share(rank=1, world=3), left=None)
    assert status(folder).left is None, "it cannot tell yet"


def test_the_rate_is_that_of_those_that_work(tmp_path):
    folder = run(tmp_path, explained("a"))
    for rank, seconds in enumerate((20.0, 10.0, 40.0)):
        beaten(folder, Share(rank=rank, world=4), effort=Effort(seconds, 4000, 1.0))
    beaten(folder, Share(rank=3, world=4), state="finished")
    assert status(folder).rate == pytest.approx(4 / 20 + 4 / 10 + 4 / 40)
    assert "; 0.7 images/s; 20 s left" in str(status(folder))
    beaten(folder, Share(rank=3, world=4), ok=0, failed=0)
    assert status(folder).rate == pytest.approx(0.7), "it has finished none yet"


def test_processes_of_earlier_divisions_are_left_aside(tmp_path):
    folder = run(tmp_path, explained("a"))
    now = time.time()

    def shown():
        return [str(beat.share) for beat in status(folder).processes]

    beaten(folder, Share(), state="stopped", time=now - 900)
    assert shown() == ["the whole run"]
    beaten(folder, Share(0, 2, 0, 4), state="failed", time=now - 800)
    beaten(folder, Share(0, 2, 3, 4), state="finished", time=now - 800)
    beaten(folder, Share(1, 2, 0, 2), state="finished", time=now - 700)  # two machines, of four GPUs and of two
    assert shown() == ["shard 1 of 2, rank 0 of 4", "shard 1 of 2, rank 3 of 4", "shard 2 of 2, rank 0 of 2"]
    beaten(folder, Share(0, 2, 0, 1), state="stopped", time=now - 600)  # the first goes on with one
    assert shown() == ["shard 1 of 2", "shard 2 of 2, rank 0 of 2"]
    beaten(folder, Share(), time=now - 10)  # a process for everything is started
    assert shown() == ["the whole run"]
    beaten(folder, Share(1, 2, 0, 2))  # and one of the others still works
    assert "the whole run" in shown()
    assert "shard 2 of 2, rank 0 of 2" in shown()


def test_a_process_that_goes_on_with_a_share_keeps_what_was_spent(tmp_path):
    for forwards in (100, 20, 3):
        with Heartbeat(tmp_path, Share(), lambda state, f=forwards: beat_of(Share(), state=state, effort=Effort(1.0, f, 0.5))):
            pass
    assert heartbeat.spent(tmp_path, None) == Effort(3.0, 123, 1.5)
    Heartbeat(tmp_path, Share(), lambda state: beat_of(Share(), config_hash="other", effort=Effort(1.0, 7, 0.5))).beat("failed")
    assert heartbeat.spent(tmp_path, None) == Effort()
    assert heartbeat.spent(tmp_path, "other") == Effort(1.0, 7, 0.5)


def test_a_finished_process_has_nothing_left(tmp_path):
    folder = beaten(run(tmp_path, explained("a")), state="finished", left=0.0)
    assert "finished 0 s ago" in str(status(folder))
    assert "left" not in str(status(folder)).splitlines()[0]


@pytest.mark.parametrize(
    "changes",
    [
        *({"pid": pid} for pid in (2**70, 0, "1")),
        *({"time": time} for time in (float("nan"), 1e300, "now")),
        *({"share": share} for share in ({"shard": "1"}, [])),
        *({"effort": effort} for effort in ({"seconds": "1"}, 3)),
        *({"suspects": suspects} for suspects in ([1], 3)),
        *(
            {"host": None},
            {"state": "\x1b[31m"},
            {"images": "many"},
            {"ok": -1},
            {"left": "soon"},
            {"config_hash": 7},
            {"more": 1},
        ),
    ],
    ids=str,
)
def test_a_damaged_heartbeat_is_left_aside(changes, tmp_path):
    folder = beaten(run(tmp_path, explained("a")))
    [path] = (folder / heartbeat.FOLDER).iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert (heartbeat.read(folder), len(str(status(folder)).splitlines())) == ([], 1)
    path.write_text("[" * 100_000)
    assert heartbeat.read(folder) == []


def test_no_run_is_said(tmp_path, capsys):
    assert main.main(["status", str(tmp_path)]) == exits.BAD_USAGE
    assert "holds no run: there is no run.json in it" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "state"), [(None, "finished"), (KeyboardInterrupt(), "stopped"), (OSError(), "failed")])
def test_the_last_beat_tells_how_it_ended(tmp_path, error, state):
    try:
        with Heartbeat(tmp_path, Share(), lambda state: dataclasses.replace(BEAT, state=state)):
            assert heartbeat.read(tmp_path)[0].state == "running"
            if error is not None:
                raise error
    except (KeyboardInterrupt, OSError):
        pass
    assert heartbeat.read(tmp_path)[0].state == state
    assert not list((tmp_path / STAGING).iterdir())


def test_beats_come_every_few_seconds_and_never_half(tmp_path, monkeypatch):
    written = []
    beats = Heartbeat(tmp_path, Share(), lambda state: written.append(state) or BEAT)
    for _ in range(100):
        beats.beat_if_due()
    assert written == ["running"]
    monkeypatch.setattr(heartbeat, "SECONDS", -1.0)
    beats.beat("running")
    beats.beat_if_due()
    assert len(written) == 3
    (tmp_path / heartbeat.FOLDER / "half.json").write_text('{"share":', encoding="utf-8")
    assert heartbeat.read(tmp_path) == [BEAT]


def test_a_disk_that_is_full_does_not_end_a_run_for_a_heartbeat(tmp_path):
    (tmp_path / heartbeat.FOLDER).touch()  # no folder can be made there
    Heartbeat(tmp_path, Share(), lambda state: BEAT).beat("running")
    assert heartbeat.read(tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (723, "12 min 3 s"),
        (27_600, "7 h 40 min"),
        (183_600, "2 d 3 h"),
        (86_400, "1 d"),
    ],
)
def test_a_duration_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_status_of_nothing(tmp_path):
    with pytest.raises(GpulimeError, match="holds no run"):
        status(tmp_path / "none")


def test_the_newest_process_of_the_runs_own_settings_tells_how_many_images_there_are(tmp_path):
    folder = run(tmp_path, explained("a"), explained("b"))
    beaten(folder, images=1, config_hash="of a call that was refused", time=time.time() + 1)
    beaten(folder, Share(shard=0, shards=2), images=60, time=time.time() - 100)
    beaten(folder, Share(shard=1, shards=2), images=40)
    assert "2 of 40 images (5.0 %)" in str(status(folder)), "the newest process knows"


def test_verify_misses_images_that_no_process_has_done(tmp_path, capsys):
    folder = beaten(run(tmp_path, explained("a"), explained("b")), images=10)
    assert main.main(["verify", str(folder)]) == exits.ERROR_ROWS
    assert "8 of the run's 10 images: the same gpulime explain resumes with them" in capsys.readouterr().out
    beaten(folder, images=2)
    assert main.main(["verify", str(folder)]) == exits.OK
