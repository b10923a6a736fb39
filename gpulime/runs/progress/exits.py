"""Exit codes of `gpulime`, and errors that end a run rather than fail one image."""

from __future__ import annotations

from collections.abc import Sequence

from gpulime.errors import GpulimeError
from gpulime.runs.progress.signals import Stopped

OK = 0
BAD_USAGE = 2
ERROR_ROWS = 3  # all images have rows, and some of the rows are errors
DAMAGED = 65  # verify found damage or changes
DEVICE_LOST = 70
FAILURES_IN_A_ROW = 71
NOT_WRITABLE = 74
INTERRUPTED = 130  # outside a run, so nothing is kept
DRAINED = 143  # stopped by a signal; finished rows are kept


class EndOfRunError(Exception):
    """The run ends, with the rows it has. ``code`` is its exit code."""

    code = BAD_USAGE


class WrongSettingError(EndOfRunError, GpulimeError):
    """A setting does not fit the model's first output."""


class ModelFailsError(EndOfRunError, GpulimeError):
    """The model fails for each of the first images; its error is the cause of this one."""


class DeviceLostError(EndOfRunError, RuntimeError):
    """The device is unusable for this process; a new process can resume. ``suspects`` are the images in flight."""

    code = DEVICE_LOST

    def __init__(self, message: str, suspects: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.suspects = tuple(suspects)


class FailuresInARowError(EndOfRunError, RuntimeError):
    """Too many images failed in a row to be at fault themselves."""

    code = FAILURES_IN_A_ROW


class NotWritableError(EndOfRunError, OSError):
    """Rows cannot be written to disk."""

    code = NOT_WRITABLE


def code(error: BaseException) -> int | None:
    """The exit code of a command that ends with ``error``; None for a bug: then Python prints a traceback and exits with 1.

    A model's OSError never reaches this function, so each OSError is about a file of the run.
    """
    match error:
        case EndOfRunError():
            return error.code
        case Stopped():
            return DRAINED
        case KeyboardInterrupt():
            return INTERRUPTED
        case GpulimeError() | SystemExit():  # the user's code may call sys.exit(0) before the work is done
            return BAD_USAGE
        case OSError():
            return NOT_WRITABLE
    return None
