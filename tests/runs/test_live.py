"""A run in progress: its status, its files, and the processes it keeps out."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_run import SMALL, Tiny, config, rows_of

import gpulime
from gpulime import __main__
from gpulime import config as configs
from gpulime.cli import main
from gpulime.engine import engine
from gpulime.runs import from_config
from gpulime.runs.progress import exits, heartbeat
from gpulime.runs.progress.status import status
from gpulime.runs.store import atomic, store


class Watched(Tiny):
    """Takes its time, and looks at its own run from inside as another shell would."""

    def __init__(self, out, seconds=0.02):
        super().__init__()
        self.out, self.seconds, self.seen = out, seconds, []

    def forward(self, x):
        time.sleep(self.seconds)
        self.seen.append((heartbeat.read(self.out), len(store.done(self.out)), status(self.out)))
        return super().forward(x)


def test_a_run_tells_how_far_it_is_and_its_rows_come_to_disk_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "SECONDS", 0.05)
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 200)  # images are finished by twos
    monkeypatch.setattr(configs, "StoreConfig", lambda: dataclasses.replace(SETTINGS, flush_seconds=0.1))
    model = Watched(tmp_path / "run")
    images = [torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(15)]
    gpulime.runs.explain(model, images, model.out, batch_size=20, **{**SMALL, "n_samples": 100})
    beats = [beats[0] for beats, _, _ in model.seen]
    assert {beat.state for beat in beats} == {"running"}
    assert {(beat.images, beat.own) for beat in beats} == {(15, 15)}
    told = [beat.ok for beat in beats]
    assert told == sorted(told)
    assert len(set(told)) > 2
    assert any(beat.left is not None and beat.left > 0 for beat in beats)
    on_disk = [count for _, count, _ in model.seen]
    assert 0 < max(on_disk) < 15, "long before flush_rows is reached"
    found = model.seen[-1][2]
    assert len(found.running) == 1
    assert found.rate > 0
    assert found.left is not None
    [last] = heartbeat.read(model.out)
    assert (last.state, last.ok, last.effort.forwards) == ("finished", 15, 1500)


SETTINGS = configs.StoreConfig()


def write_model(folder, body):
    lines = "\n        ".join(body.splitlines())
    text = "import os, sys, time\nfrom torch import nn\n\nclass Model(nn.Module):\n    def forward(self, x):\n        "
    (folder / "live_model.py").write_text(f"{text}{lines}\n        return x.mean((2, 3))\n\ndef make():\n    return Model()\n")


def start(folder, *options, **streams):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    options = [
        "--model.factory",
        "live_model.make",
        "--data.source",
        "photographs",
        "--data.crop",
        "32",
        "--out",
        "run",
        *options,
    ]
    options += ["--lime.quality", "lime", "--lime.segments", "grid", "--lime.top_labels", "1", "--report", "false"]
    return subprocess.Popen(
        [sys.executable, "-m", "gpulime", "explain", *options],
        cwd=folder,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        **streams,
    )


@pytest.mark.long
def test_other_settings_are_kept_out_of_a_directory_at_work_before_its_first_row(photographs, tmp_path):
    write_model(tmp_path, "open('first', 'a').close()\nwhile not os.path.exists('go'): time.sleep(0.01)")
    first = start(tmp_path, "--lime.n_samples", "60")
    while not (tmp_path / "first").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    assert not store.shards(tmp_path / "run")
    second = start(tmp_path, "--lime.n_samples", "70")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == exits.BAD_USAGE
    assert "is being filled by a process with other settings: lime.n_samples was 60, is 70" in errors
    (tmp_path / "go").touch()
    first.communicate(timeout=60)
    assert first.returncode == exits.ERROR_ROWS  # of three files that are no images
    assert {row["n_samples"] for row in rows_of(tmp_path / "run").values()} == {60}
    assert main.main(["verify", str(tmp_path / "run")]) == exits.ERROR_ROWS


@pytest.mark.long
def test_nobody_reads_what_a_run_says(photographs, tmp_path):
    write_model(tmp_path, "pass")
    with open("/dev/full", "w") as full:
        for limit in ("3", "9"):  # the second call has done images to tell of, too
            process = start(tmp_path, "--lime.n_samples", "60", "--limit", limit, stdout=full, stderr=full)
            process.wait(60)
    assert len(store.done(tmp_path / "run")) == 9


def test_a_call_that_is_limited_says_nothing_of_how_large_the_run_is(photographs, tmp_path, capsys):
    out = tmp_path / "run"
    whole = config(photographs, out)
    limited = dataclasses.replace(whole, data=dataclasses.replace(whole.data, limit=3), report=False)
    from_config.run(limited)
    assert "3 of 9 images (33.3 %)" in str(status(out))
    capsys.readouterr()
    assert main.main(["verify", str(out)]) == exits.ERROR_ROWS
    assert "6 of the run's 9 images" in capsys.readouterr().out
    from_config.run(whole)
    from_config.run(limited)
    assert "9 of 9 images (100.0 %)" in str(status(out))


def test_shards_from_python_are_disjoint_and_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")  # ignored: the caller assigns the shards
    monkeypatch.setenv("WORLD_SIZE", "4")
    images = [torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(12)]
    first = gpulime.runs.explain(Tiny(), images, tmp_path, shard="1/2", **SMALL)
    assert 0 < first.ok < 12
    assert not (tmp_path / "report.html").exists()
    assert gpulime.runs.explain(Tiny(), images, tmp_path, shard="2/2", **SMALL).ok == 12
    assert (tmp_path / "report.html").exists()
    rows = [row for path in store.shards(tmp_path) for row in store.pq.read_table(path).to_pylist()]
    assert len(rows) == 12
    with pytest.raises(gpulime.GpulimeError, match="such as '2/8' for the second of eight; got '3/2'"):
        gpulime.runs.explain(Tiny(), images, tmp_path, shard="3/2", **SMALL)


def test_who_comes_next_finds_a_run_at_work_as_soon_as_it_may_come_in(tmp_path, monkeypatch):
    enter = atomic.one_at_a_time

    @contextlib.contextmanager
    def watched(run):
        with enter(run):
            yield
            found.append((store.manifest(run)["model"], [beat.state for beat in heartbeat.at_work(run)]))

    found = []
    monkeypatch.setattr(atomic, "one_at_a_time", watched)
    gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12)], tmp_path, **SMALL)
    assert found == [("Tiny", ["running"])]
    assert heartbeat.at_work(tmp_path) == []
    assert not list((tmp_path / "_staging").iterdir())


def test_images_that_have_gone_since_do_not_make_a_run_more_than_whole(photographs, tmp_path):
    from_config.run(config(photographs, tmp_path / "run"))
    for path in (photographs / "ant").iterdir():
        path.unlink()
    from_config.run(config(photographs, tmp_path / "run"))
    assert "9 of 9 images (100.0 %)" in str(status(tmp_path / "run"))


def test_an_error_before_the_first_image_is_told_to_others(tmp_path, monkeypatch):
    images = [torch.rand(3, 12, 12)] * 2
    gpulime.runs.explain(Tiny(), images, tmp_path, **SMALL)
    monkeypatch.setattr("gpulime.runs.run._look_again", lambda job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gpulime.runs.explain(Tiny(), images, tmp_path, **SMALL)
    assert [beat.state for beat in heartbeat.read(tmp_path)] == ["failed"]
    monkeypatch.undo()
    gpulime.runs.explain(Tiny(), images, tmp_path, **SMALL)


def test_nothing_changes_the_code_once_it_is_known(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    monkeypatch.setattr(__main__, "main", lambda: 3)
    try:
        with pytest.raises(SystemExit) as end:
            __main__.run()
        for number in before:
            signal.raise_signal(number)
        assert end.value.code == 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_lost_device_ends_the_process_before_python_frees_its_memory():
    """Anything that Python would do at its end, such as freeing memory, is left out."""
    code = (
        "import atexit; from gpulime import __main__; atexit.register(print, 'the end', flush=True); "
        "print('rows are kept'); __main__.main = lambda: 70; __main__.run()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (70, "rows are kept\n", "")


def test_the_numbers_of_a_call_and_of_all_calls_agree(photographs, tmp_path):
    from_config.run(config(photographs, tmp_path / "run"))
    facts = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert facts["hours"] == facts["call"]["hours"] > 0
    assert facts["forwards"] == facts["call"]["forwards"] == 6 * 40
