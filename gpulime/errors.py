"""The one error a user of gpulime sees, and the context that is added to it on the way out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral


class GpulimeError(ValueError):
    """Invalid input, setting or output of a model; the message has the given value and the right ones."""


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Prefix a `GpulimeError` raised inside with ``subject`` (an image, a file, a setting)."""
    try:
        yield
    except GpulimeError as error:
        raise type(error)(f"{subject}: {error}") from error


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Note the stage of the work on an exception that passes, as its attribute ``stage``; the outermost stage stands."""
    try:
        yield
    except (Exception, SystemExit) as error:
        error.stage = name  # type: ignore[union-attr]
        raise


def check(condition: bool, message: str | Callable[[], str]) -> None:
    """Raise `GpulimeError` with ``message`` unless ``condition`` holds; a function of it costs nothing until then."""
    if not condition:
        raise GpulimeError(message if isinstance(message, str) else message())


def whole(name: str, value: object, least: int, meaning: str = "") -> int:
    """``value`` as an int, a NumPy one included.

    Raises
    ------
    GpulimeError
        Unless it is a whole number of ``least`` or more.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise GpulimeError(f"{name} must be a whole number, at least {least}{meaning}; got {value!r}")
    check(int(value) >= least, f"{name} must be at least {least}{meaning}; got {value!r}")
    return int(value)


def line_of(error: BaseException) -> str:
    """An error of other code in one line: its type and the first line of its message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def nearest(name: str, choices: Iterable[str]) -> str:
    """``" (did you mean 'slic'?)"`` if one of ``choices`` resembles ``name``, else an empty string."""
    close = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(what: str, name: object, choices: Iterable[str]) -> GpulimeError:
    """The error for a name that is not among ``choices``, with the list and the nearest one."""
    choices = list(choices)
    listed = ", ".join(repr(choice) for choice in choices)
    return GpulimeError(f"{what} must be one of {listed}; got {name!r}{nearest(str(name), choices)}")
