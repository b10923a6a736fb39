"""What a run says where nobody, or not everything, is heard."""

import io
import os
import pty
import subprocess
import sys

import pytest
from test_live import start, write_model

from gpulime.runs import store, terminal


class Refusing(io.StringIO):
    """Whatever is written ends in an error."""

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
