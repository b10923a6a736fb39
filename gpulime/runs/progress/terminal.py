"""Lines on the terminal; a closed pipe, a full disk behind a log or a limited encoding does not end a run.

`say` and `note` escape control characters in names, states and errors from outside.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def printable(text: str) -> str:
    """``text`` on one line: newlines, control characters and changes of writing direction are escaped."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def lines_of(text: str) -> str:
    """`printable` for each line of ``text``."""
    return "\n".join(map(printable, text.split("\n")))


def duration(seconds: float) -> str:
    """Seconds in the two largest units: "45 s", "12 min 3 s", "7 h 40 min", "2 d 3 h"."""
    whole = round(seconds)
    for long, short, many in (("d", "h", 86_400), ("h", "min", 3_600), ("min", "s", 60)):
        if whole >= many:
            below = {"h": 3_600, "min": 60, "s": 1}[short]
            return f"{whole // many} {long}" + (f" {rest} {short}" if (rest := whole % many // below) else "")
    return f"{whole} s"


def counted(count: int, one: str) -> str:
    """A number of inputs of a kind: "1 row", "2 rows"."""
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def say(text: str) -> None:
    """Print lines on stdout, without control characters."""
    _write(sys.stdout, f"{lines_of(text)}\n")


def note(text: str) -> None:
    """Print lines on stderr, without control characters."""
    _write(sys.stderr, f"{lines_of(text)}\n")


def is_there() -> bool:
    """True if stderr is a terminal, on which a line can be rewritten."""
    with suppress(ValueError):  # it is closed
        return sys.stderr is not None and sys.stderr.isatty()
    return False


class Lines:
    """A file for logs: each state of a bar is a line of its own on stderr."""

    def write(self, text: str) -> None:
        """Write the line of a state."""
        if text.strip():
            note(text.strip())

    def flush(self) -> None:
        """Do nothing: each line is flushed."""


def _write(file: TextIO | None, text: str) -> None:
    if file is None:  # as if the process was started without it
        return
    try:
        with suppress(UnicodeEncodeError):
            print(text, end="", file=file, flush=True)
            return
        encoding = file.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding), end="", file=file, flush=True)
    except ValueError:  # it is closed
        return
    except OSError:
        with suppress(OSError, AttributeError):  # discard the rest of the buffer, too
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, file.fileno())
            os.close(nowhere)
