"""Findings: mistakes that a GPU would answer by wrong numbers, now and then, and never by an error."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path

RACE = "race"  # two streams are at the same memory, one of them writes, and neither waits for the other
REUSE = "reuse"  # memory is freed while another stream may be at it
LAUNCH = "launch"  # a kernel gets what its signature does not say
GUARD = "guard"  # torch.cuda.set_sync_debug_mode stays on after a test

FOUND = []  # (kind, text), each once
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


def report(kind, text):
    """Keep a finding until the test ends, which fails then."""
    if (kind, text) not in FOUND:
        FOUND.append((kind, text))


@contextmanager
def expected(kind):
    """Require a finding of that kind, and no other, inside; yields the texts of those, once the context has ended."""
    before, texts = FOUND[:], []
    FOUND.clear()
    yield texts
    inside = FOUND[:]
    FOUND[:] = before
    assert {found for found, _ in inside} == {kind}, f"expected a {kind}, and found {inside}"
    texts += [text for _, text in inside]


def where(depth=3):
    """The innermost lines of the project that led here, without those of the pretend device."""
    frame, lines = sys._getframe(1), []
    while frame is not None and len(lines) < depth:
        if (name := _name(frame.f_code.co_filename)) is not None:
            lines.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)


@cache
def _name(file):
    path = Path(file)
    own = path.parent == _HERE and not path.name.startswith("test_")
    if own or not path.is_relative_to(_ROOT) or "site-packages" in path.parts:
        return None
    return str(path.relative_to(_ROOT))
