"""A dry run tells what would be done and writes nothing."""

import dataclasses
import json
import re
import time

import pytest
import torch
from test_run import Tiny, config, rows_of

import gpulime
from gpulime.cli import main
from gpulime.engine.quality import QUALITIES
from gpulime.runs import from_config
from gpulime.runs.progress import estimate, exits
from gpulime.runs.progress.partition import ALL, Todo
from gpulime.runs.reading.sources import Item
from gpulime.runs.store import store


def test_what_is_told(photographs, tmp_path, capsys):
    out = tmp_path / "run"
    assert from_config.run(config(photographs, out), dry_run=True) == exits.OK
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first == "9 images; 0 done already; 9 to do"
    assert second == "360 forwards: 9 images x 40 samples; quality=lime would take 9,000"
    assert re.fullmatch(r"about \d+ s, at [\d,]+ forwards/s in a trial with model batches of \d+", third)
    assert last == "nothing has been written"
    assert not out.exists()


def test_what_is_done_is_left_out(photographs, tmp_path, capsys):
    whole = config(photographs, tmp_path / "run")
    from_config.run(whole)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*") if path.is_file())
    capsys.readouterr()
    from_config.run(whole, dry_run=True, retry_failed=True)
    shown = capsys.readouterr().out
    assert "9 images; 9 done already; 3 to do (3 of them failed before)" in shown
    assert "no time can be told: none of the images that were tried could be explained" in shown
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*") if path.is_file()) == before


def test_other_settings_are_refused_before_the_trial(photographs, tmp_path):
    from_config.run(config(photographs, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"lime\.n_samples was 40, is 50"):
        from_config.run(config(photographs, tmp_path / "run", n_samples=50), dry_run=True)


def test_what_a_run_takes_is_told_beside_lime_s(photographs, tmp_path, capsys):
    for quality, told in {
        "fast": f"9 images x {QUALITIES['fast'].n_samples} samples; quality=lime would take 9,000",
        "lime": "9 images x 1,000 samples",
    }.items():
        settings = {"quality": quality, "n_samples": None, "segments": {"grid": {"rows": 5, "columns": 5}}}
        from_config.run(config(photographs, tmp_path / quality, **settings))
        assert f" forwards: {told}\n" in capsys.readouterr().err
        from_config.run(config(photographs, tmp_path / quality, **settings))
        assert "forwards" not in capsys.readouterr().err, "nothing is to do"


def test_samples_that_nobody_knows_before_are_tried(photographs, tmp_path, monkeypatch, capsys):
    """Images of 2 x 2 segments have 16 masks; and "auto" takes what an image needs."""
    few = config(photographs, tmp_path / "few", quality="fast", n_samples=None, segments={"grid": {"rows": 2, "columns": 2}})
    from_config.run(few, dry_run=True)
    assert "about 144 forwards: 9 images x about 16 samples; quality=lime would take 9,000" in capsys.readouterr().out
    auto = {"quality": "fast", "n_samples": "auto", "segments": {"grid": {"rows": 5, "columns": 5}}, "max_samples": 129}
    from_config.run(config(photographs, tmp_path / "auto", **auto), dry_run=True)
    shown = re.search(r"about ([\d,]+) forwards: 9 images x about (\d+) samples", capsys.readouterr().out)
    from_config.run(config(photographs, tmp_path / "auto", **auto))
    used = [row["n_samples"] for row in rows_of(tmp_path / "auto").values() if row["status"] == "ok"]
    assert int(shown[2]) == round(sum(used) / len(used)) <= 129


def test_the_start_does_not_count(monkeypatch):
    """Three slow batches, as while kernels are compiled, and then fast ones."""
    monkeypatch.setattr(estimate, "SECONDS", 0.5)

    def explain(after_model_batch):
        for i in range(100):
            time.sleep(0.04 if i < 3 else 0.01)
            after_model_batch(20)
            yield from ()

    rate, b = estimate.rate(explain, lambda: None)
    assert 1200 < rate < 2000
    assert b == 20


def test_a_trial_ends(monkeypatch):
    monkeypatch.setattr(estimate, "SECONDS", 0.01)
    seen = []

    def explain(after_model_batch):
        for i in range(10**6):
            time.sleep(0.001)
            seen.append(i)
            after_model_batch(1)
            yield i

    estimate.rate(explain, lambda: None)
    assert estimate.BATCHES <= len(seen) < 100


def test_a_run_is_tried_for_some_batches_only(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    monkeypatch.setattr(estimate, "BATCHES", 1)
    seen = []
    monkeypatch.setattr("test_run.Tiny.forward", lambda self, x: seen.append(len(x)) or x.mean((2, 3)) @ self.weight[:3])
    assert from_config.run(config(photographs, tmp_path / "run", batch_size=10), dry_run=True) == exits.OK
    assert sum(seen) <= 20, "not all images, and none by itself"
    assert "forwards/s in a trial with model batches of 10" in capsys.readouterr().out


def test_failures_are_tried_again_on_demand(photographs, tmp_path, capsys):
    whole = config(photographs, tmp_path / "run")
    assert from_config.run(whole) == exits.ERROR_ROWS
    (photographs / "bee" / "cut.png").write_bytes((photographs / "bee" / "3.png").read_bytes())
    assert from_config.run(whole) == exits.ERROR_ROWS
    assert rows_of(tmp_path / "run")["bee/cut.png"]["status"] == "error", "not by itself"
    for attempt in (2, 3):
        assert from_config.run(whole, retry_failed=True) == exits.ERROR_ROWS
        rows = rows_of(tmp_path / "run")
        assert rows["bee/empty.jpg"]["attempt"] == attempt
        assert (rows["bee/cut.png"]["status"], rows["bee/cut.png"]["attempt"]) == ("ok", 2)
        assert rows["ant/0.png"]["attempt"] == 1
    assert store.done(tmp_path / "run")["bee/cut.png"] == store.Done(True, 2)
    assert "failed     2 (decode 2)" in capsys.readouterr().out


def test_the_command(photographs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    arguments = ["explain", "--model.factory", "test_run.make_tiny", "--data.source", str(photographs), "--data.crop", "32"]
    arguments += [
        "--lime.quality",
        "lime",
        "--lime.n_samples",
        "100",
        "--lime.segments",
        "grid",
        "--out",
        str(out),
        "--report",
        "false",
    ]
    assert main.main([*arguments, "--limit", "4", "--dry-run"]) == 0
    assert "4 images; 0 done already" in capsys.readouterr().out
    for part in ("1/2", "2/2"):
        main.main([*arguments, "--shard", part])
    assert len(store.done(out)) == 9
    assert main.main([*arguments, "--retry-failed"]) == 3
    assert main.main([*arguments, "--shard", "3/2"]) == exits.BAD_USAGE
    assert "shard must be a part" in capsys.readouterr().err


def test_failures_of_a_dataset_are_tried_again_on_demand(tmp_path):
    class Pictures(list):
        def __getitem__(self, i):
            if broken and i == 1:
                raise OSError("not there yet")
            return super().__getitem__(i)

    pictures, broken = Pictures(torch.rand(3, 12, 12) for _ in range(3)), True
    settings = {"n_samples": 40, "segments": gpulime.segments.Grid(3, 3), "top_labels": 1, "report": False}
    assert gpulime.runs.explain(Tiny(), pictures, tmp_path, **settings).failed == 1
    broken = False
    assert gpulime.runs.explain(Tiny(), pictures, tmp_path, **settings).failed == 1
    assert gpulime.runs.explain(Tiny(), pictures, tmp_path, **settings, retry_failed=True).failed == 0
    assert store.done(tmp_path)["1"] == store.Done(True, 2)


def test_those_that_were_tried_least_come_first():
    items = [Item(name, b"") for name in "abcd"]
    past = {"a": store.Done(False, 3), "b": store.Done(False, 1), "c": store.Done(True, 1), "d": store.Done(False, 2)}
    assert [(item.image_id, item.attempt) for item in Todo.of(items, ALL, past, True).items] == [("b", 2), ("d", 3), ("a", 4)]


def test_a_call_with_nothing_to_do_keeps_the_numbers_of_the_night(photographs, tmp_path):
    for _ in range(2):
        from_config.run(config(photographs, tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["forwards"] == 6 * 40


def test_names_that_do_not_fit_are_refused_in_a_dry_run_too(photographs, tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbee\n", encoding="utf-8")
    whole = config(photographs, tmp_path / "run")
    named = dataclasses.replace(whole, model=dataclasses.replace(whole.model, class_names=str(tmp_path / "names.txt")))
    with pytest.raises(ValueError, match="class_names has 2 names; the model has 4 classes"):
        from_config.run(named, dry_run=True)


def test_an_output_that_nobody_takes_does_not_end_a_run(photographs, tmp_path, monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

        def isatty(self):
            return False

    monkeypatch.setattr("sys.stdout", Closed())
    code = from_config.run(dataclasses.replace(config(photographs, tmp_path / "run"), report=False))
    monkeypatch.undo()
    assert code == exits.ERROR_ROWS
    assert len(store.done(tmp_path / "run")) == 9
