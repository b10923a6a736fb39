"""Output of a run to a closed or limited terminal."""

import dataclasses
import io
import os
import pty
import subprocess
import sys
import time

import pytest
from rows import beat_of, explained, failed, run
from test_live import start, write_model

from gpulime.cli import main
from gpulime.runs.progress import bar, summary, terminal
from gpulime.runs.progress.heartbeat import Effort, Heartbeat
from gpulime.runs.progress.partition import Share
from gpulime.runs.store import store


class Refusing(io.StringIO):
    """Every write fails."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed file")], ids=repr
)
def test_nobody_takes_it(error, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Refusing(error))
    terminal.say("a")
    terminal.note("b")
    terminal.Lines().write("c")
    assert not terminal.is_there()


def test_there_is_no_stream_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    terminal.say("a")
    terminal.note("b")
    assert not terminal.is_there()


def test_an_alphabet_that_is_too_small_gets_what_it_can(monkeypatch):
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding="ascii"))
    terminal.say("café 1")
    assert taken.getvalue() == b"caf\\xe9 1\n"


STEERING = "\x1b[2Ja\r\x07\x9b\u202eb\n"
SHOWN = r"\x1b[2Ja\r\x07\x9b\u202eb\n"


def test_names_from_outside_do_not_steer_the_terminal(tmp_path, capsys):
    assert terminal.printable(STEERING) == SHOWN
    assert terminal.printable("caf\xe9 \u65e5\u672c") == "caf\xe9 \u65e5\u672c"
    terminal.say(f"one {STEERING}two")
    terminal.note(f"one {STEERING}two")
    out, err = capsys.readouterr()
    assert out == err == f"one {SHOWN[:-2]}\ntwo\n"

    names = ["a", STEERING, STEERING]
    rows = explained("caf\xe9", r2_loo=[0.5, None]), failed(STEERING) | {"error_type": STEERING, "error": STEERING}
    assert not [line for row in rows for line in bar.lines(row, names) if not line.isprintable()]
    folder, other = (run(tmp_path / name, *rows, names=names, fixed={"a": f"{name}{STEERING}"}) for name in "ab")
    beat = beat_of(Share(), host=STEERING, time=time.time())
    Heartbeat(folder, Share(), lambda state: dataclasses.replace(beat, state=STEERING)).beat(STEERING)
    for command in (["status"], ["verify"], ["diff", str(other)], ["export", "--ids", STEERING, "--to", str(tmp_path / "to")]):
        main.main([command[0], str(folder), *command[1:]])
        out, err = capsys.readouterr()
        assert not [line for line in (out + err).split("\n") if not line.isprintable()], command
        assert "x1b[2Ja" in out + err, command
    assert all(map(str.isprintable, str(summary.summary(folder, {}, Effort())).split("\n")))


@pytest.mark.long
def test_a_pipe_that_closes_under_a_terminal(photographs, tmp_path):
    """``gpulime explain ... | head -1`` in a terminal: stderr is one, stdout is nobody's."""
    write_model(tmp_path, "pass")
    ours, theirs = pty.openpty()
    process = start(tmp_path, "--lime.n_samples", "60", stdout=subprocess.PIPE, stderr=theirs)
    process.stdout.close()
    os.close(theirs)
    try:
        while os.read(ours, 4096):
            pass
    except OSError:  # the other end is closed
        pass
    assert process.wait(60) == 3
    assert len(store.done(tmp_path / "run")) == 9
