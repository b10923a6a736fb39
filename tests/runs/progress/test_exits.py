"""`gpulime explain` from outside: its exit codes, and finished rows that are kept."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from gpulime.cli import main
from gpulime.errors import GpulimeError
from gpulime.runs.progress import exits
from gpulime.runs.progress.signals import Stopped
from gpulime.runs.reading import read
from gpulime.runs.store import store

RED = 5  # number of the red picture, at which the model shows the fault
FAULT = []  # the fault to show


class Colours(nn.Module):
    """Four classes by the mean colour."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).view(3, 4).sin())

    def forward(self, x):
        if FAULT and bool((x[:, 0].amax((1, 2)) > 0.99).any()):
            FAULT[0]()
        return x.mean((2, 3)) @ self.weight


def make():
    return Colours()


def failing(error):
    def fail():
        raise error

    return fail


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    FAULT.clear()


@pytest.fixture
def folder(tmp_path):
    """Eight noisy pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(8):
        pixels = rng.integers(0, 200, (16, 16, 3), dtype=np.uint8)
        pixels[:, :, 0] = 255 if i == RED else 100
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


def settings(folder, **changes):
    chosen = {
        "model": {"factory": "test_exits.make"},
        "data": {"source": str(folder / "pictures"), "crop": 16, "batch_size": 2},
        "lime": {
            "quality": "lime",
            "n_samples": 500,
            "segments": {"grid": {"rows": 4, "columns": 4}},
            "top_labels": 2,
            "batch_size": 100,
        },
        "store": {"flush_rows": 2},
        "out": str(folder / "run"),
        "report": False,
    }
    for name, value in changes.items():
        chosen[name] = {**chosen[name], **value} if isinstance(value, dict) else value
    (folder / "run.yaml").write_text(yaml.safe_dump(chosen))
    return ["explain", "--config", str(folder / "run.yaml")]


def rows_of(folder):
    return {row["image_id"]: row for row in store.read(folder / "run").to_pylist()}


def kept(folder):
    return "".join(name.removesuffix(".png") for name in rows_of(folder))


def goes_on(folder, **changes):
    """A rerun without the fault explains the rest, once each."""
    FAULT.clear()
    assert main.main(settings(folder, **changes)) == 0
    ids = [row["image_id"] for path in store.shards(folder / "run") for row in store.pq.read_table(path).to_pylist()]
    return sorted(ids) == [f"{i}.png" for i in range(8)]


def test_all_is_well(folder, capsys):
    assert main.main(settings(folder)) == 0
    assert kept(folder) == "01234567"
    assert "explained  8\nfailed     0\n" in capsys.readouterr().out


def test_error_rows(folder):
    (folder / "pictures" / "8.png").write_text("<html>")
    assert main.main(settings(folder)) == 3
    assert main.main(settings(folder)) == 3  # of the whole run, also where this call has nothing to do


@pytest.mark.long
@pytest.mark.parametrize(
    "does", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: time.sleep(1000)], ids=["dies", "hangs"]
)
def test_a_file_that_is_the_end_of_its_worker(does, folder, monkeypatch):
    decode = read.decode

    def decoded(path, **settings):
        if path.endswith(b"5.png"):
            does()
        return decode(path, **settings)

    monkeypatch.setattr(read, "decode", decoded)  # the workers are forked with it
    assert main.main(settings(folder, data={"workers": 2, "timeout_seconds": 1})) == 3
    rows = rows_of(folder)
    assert kept(folder) == "01234567"
    assert [name for name, row in rows.items() if row["error_type"] == "worker"] == ["5.png"]
    assert main.main(settings(folder, data={"workers": 1, "timeout_seconds": 3})) == 3  # change no row


def test_other_settings(folder, capsys):
    assert main.main(settings(folder)) == 0
    assert main.main(settings(folder, lime={"n_samples": 400})) == 2
    assert "lime.n_samples was 500, is 400" in capsys.readouterr().err


def test_a_lost_device(folder, capsys):
    FAULT.append(failing(RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")))
    assert main.main(settings(folder)) == 70
    assert capsys.readouterr().err.splitlines()[-1] == (
        "gpulime: the device is lost: CUDA error: an illegal memory access was encountered; "
        "finished rows are kept, and a new process resumes"
    )
    assert kept(folder) == "0123"  # the fifth was in the batches that were lost
    assert goes_on(folder)


def test_too_many_failures_in_a_row(folder, capsys):
    for i in (3, 4, 5, 6):
        (folder / "pictures" / f"{i}.png").write_bytes(b"\n")
    assert main.main(settings(folder, max_failures_in_a_row=3)) == 71
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("gpulime: 3 images in a row failed (max_failures_in_a_row), the last, '5.png', for decode: ")
    assert message.endswith("; their rows are kept")
    assert kept(folder) == "012345"
    assert main.main(settings(folder, max_failures_in_a_row=None)) == 3  # the setting changes no row


def test_a_disk_that_is_full(folder, capsys, monkeypatch):
    publish = store.publish

    def full(run, name, data):
        if name.startswith(store.RESULTS) and store.shards(run):
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(run, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish", full)
        assert main.main(settings(folder)) == 74
    message = capsys.readouterr().err.splitlines()[-1]
    assert "takes no rows: [Errno 28] No space left on device" in message
    assert "rows are lost; written rows are kept: repeat the call to resume" in message
    assert kept(folder) == "01"
    assert goes_on(folder)


@pytest.mark.parametrize("what", ["renamed", "run.json removed", "another run in its place"])
def test_a_directory_that_is_not_the_runs_any_more_ends_it_at_the_next_shard(what, folder, capsys):
    run, moved = folder / "run", folder / "moved"

    def strike():
        FAULT.clear()
        while not store.shards(run):
            time.sleep(0.01)  # the writer is a thread of its own
        if what == "run.json removed":
            (run / store.MANIFEST).unlink()
        else:
            run.rename(moved)
        if what == "another run in its place":
            store.write_manifest(run, {"config_hash": "another"})

    FAULT.append(strike)
    assert main.main(settings(folder)) == 74
    message = capsys.readouterr().err.splitlines()[-1]
    assert "takes no rows: [Errno 2] it is not this run's any more, or is gone: was the directory moved?" in message
    assert "rows are lost; written rows are kept: repeat the call to resume" in message
    assert run.exists() == (what != "renamed")
    assert 2 <= len(store.read(moved if moved.exists() else run)) < 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal(number, folder, capsys, request):
    before = signal.signal(number, signal.SIG_DFL)
    request.addfinalizer(lambda: signal.signal(number, before))
    FAULT.append(lambda: os.kill(os.getpid(), number))
    assert main.main(settings(folder)) == 143
    assert f"stopped by {number.name}; finished rows are kept" in capsys.readouterr().err
    assert kept(folder) == "0123"
    assert goes_on(folder)


@pytest.mark.parametrize("error", [KeyError("logits\nand more"), OSError("gone"), SystemExit(0)], ids=repr)
@pytest.mark.parametrize("debug", [False, True])
def test_an_error_of_the_model_for_every_image_is_one_line(error, debug, folder, capsys):
    (folder / "pictures" / f"{RED}.png").rename(folder / "red.png")
    FAULT.append(failing(error))
    arguments = settings(folder, data={"source": str(folder / "red.png")})
    assert main.main([*arguments, "--debug"] if debug else arguments) == 2
    *above, last = capsys.readouterr().err.splitlines()
    reason = {KeyError: "KeyError: 'logits", OSError: "OSError: gone", SystemExit: "the model called sys.exit(0)"}[type(error)]
    assert last.startswith(f"gpulime: the model fails for each image, also alone: {reason}")
    assert last.endswith("(--debug shows the traceback)") != debug
    assert any("in fail" in line for line in above) == debug


def test_bench_of_a_model_that_fails_is_one_line(folder, capsys):
    FAULT.append(failing(OSError("gone")))
    arguments = [argument for argument in settings(folder) if argument != "explain"]
    assert main.main(["bench", *arguments, "--data.source", str(folder / "pictures" / f"{RED}.png")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "gpulime: the present settings fail: OSError: gone (--debug shows the traceback)"
    )


def test_sys_exit_in_a_factory_is_no_success(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "make", lambda: sys.exit(0))
    assert main.main(settings(folder)) == 2
    assert capsys.readouterr().err.endswith("the call with {} failed with SystemExit: 0\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exits.WrongSettingError("x"), 2),
        (GpulimeError("x"), 2),
        (exits.DeviceLostError("x"), 70),
        (exits.FailuresInARowError("x"), 71),
        (exits.NotWritableError("x"), 74),
        (OSError("x"), 74),
        (KeyboardInterrupt(), 130),
        (Stopped("x"), 143),
        (RuntimeError("x"), None),
        (SystemExit(), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_end_has_its_code(error, code):
    assert exits.code(error) == code


@pytest.mark.long
def test_a_quota_leaves_no_part_of_a_shard(folder):
    """The system itself refuses here: no file may be larger than a small shard."""
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += f"resource.setrlimit(resource.RLIMIT_FSIZE, (2000, {resource.RLIM_INFINITY})); "
    limited += f"import sys; sys.argv[1:] = {settings(folder)!r}; from gpulime.cli.main import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 74, ended.stderr
    assert "File too large" in ended.stderr
    assert not [path for path in (folder / "run").rglob("*") if path.is_file() and path.suffix == ".parquet"]


def test_names_and_pictures_of_every_kind_are_rows(folder):
    """Hostile names, a picture of one pixel and one too large get a row each; no file gets a name from an image."""
    pictures = folder / "pictures"
    for name in (b"\xff\xfe.png", b"<img src=x onerror=alert(1)>.png"):
        Image.new("RGB", (16, 16), (9, 99, 9)).save(os.path.join(os.fsencode(pictures), name))
    Image.new("RGB", (1, 1), (7, 7, 7)).save(pictures / "pixel.png")
    Image.new("RGB", (64, 64)).save(pictures / "bomb.png")
    names = [b"\xff\xfe.png", b"../pictures/pixel.png", b"bomb.png", b"0.png", b"<img src=x onerror=alert(1)>.png"]
    (pictures / "list.txt").write_bytes(b"\n".join(names))
    data = {"source": str(pictures / "list.txt"), "max_megapixels": 0.001}
    assert main.main(settings(folder, data={**data, "limit": 3}, report=True)) == 3
    assert main.main(settings(folder, data=data, report=True)) == 3
    rows = rows_of(folder)
    assert list(rows) == ["\\xff\\xfe.png", *(name.decode() for name in names[1:])]
    assert rows["bomb.png"]["error_type"] == "too_large"
    assert rows["\\xff\\xfe.png"]["path"].endswith(b"/\xff\xfe.png")
    assert rows["../pictures/pixel.png"]["status"] == "ok"
    assert b"<img src=x onerror" not in (folder / "run" / "report.html").read_bytes()
    files = {path.relative_to(folder / "run").parts[0] for path in (folder / "run").rglob("*") if path.is_file()}
    assert files == {"run.json", "results", "report.html", "summary.json", "heartbeats"}
    left = [path.name for path in (folder / "run" / "_staging").iterdir()]
    assert left == []


def test_a_constant_answer_has_rows_without_a_score_and_the_reason(folder):
    FAULT.append(lambda: None)
    for i in range(8):
        Image.new("RGB", (16, 16), (255, 0, 0)).save(folder / "pictures" / f"{i}.png")
    assert main.main(settings(folder, lime={"segments": {"grid": {"rows": 1, "columns": 1}}, "top_labels": 2})) == 0
    for row in rows_of(folder).values():
        assert (row["status"], row["n_segments"]) == ("ok", 1)
        assert row["r2"] == [None, None]
        classes = ", ".join(map(str, row["labels"]))
        assert row["error"] == f"no r2 for classes {classes}: their output is the same for all samples"


def test_other_weights_at_the_same_place_are_refused(folder, capsys):
    checkpoint = folder / "weights.pt"
    torch.save(make().state_dict(), checkpoint)
    changes = {"model": {"checkpoint": str(checkpoint)}}
    assert main.main(settings(folder, **changes)) == 0
    torch.save({"weight": torch.ones(3, 4)}, checkpoint)
    assert main.main(settings(folder, **changes)) == 2
    assert "weights_sha256 was '" in capsys.readouterr().err


def test_another_model_from_the_same_factory_is_refused(folder, capsys, monkeypatch):
    assert main.main(settings(folder)) == 0
    monkeypatch.setattr(Colours, "extra_repr", lambda self: "slope=0.9")
    assert main.main(settings(folder)) == 2
    assert "model_code was 'test_exits.Colours sha256 " in capsys.readouterr().err
