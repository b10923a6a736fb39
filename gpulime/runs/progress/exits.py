"""How a run ends: the exit codes of `gpulime`, and the errors that end a run whichever image is at hand."""

from __future__ import annotations

from collections.abc import Sequence

from gpulime.errors import GpulimeError
from gpulime.runs.progress.signals import Stopped

OK = 0
BAD_USAGE = 2
ERROR_ROWS = 3  # all images have rows, and some of the rows are errors
DAMAGED = 65  # verify found what is not as the run wrote it
DEVICE_LOST = 70
FAILURES_IN_A_ROW = 71
NOT_WRITABLE = 74
INTERRUPTED = 130  # outside a run, where nothing is kept
DRAINED = 143  # asked to stop by a signal; what was finished is kept


class EndOfRunError(Exception):
    """No fault of one image: the run ends, with the rows it has. ``code`` is its exit code."""

    code = BAD_USAGE


class WrongSettingError(EndOfRunError, GpulimeError):
    """What was set does not suit the model, as its first answer shows."""


class ModelFailsError(EndOfRunError, GpulimeError):
    """The model, or what was set beside it, fails for the first images: its own error is the cause of this one."""


class DeviceLostError(EndOfRunError, RuntimeError):
    """The device serves this process no more; another process may go on. ``suspects`` are the images it had in hand."""

    code = DEVICE_LOST

    def __init__(self, message: str, suspects: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.suspects = tuple(suspects)


class FailuresInARowError(EndOfRunError, RuntimeError):
    """So many images failed one after the other that the fault is not theirs."""

    code = FAILURES_IN_A_ROW


class NotWritableError(EndOfRunError, OSError):
    """The disk takes no rows."""

    code = NOT_WRITABLE


def code(error: BaseException) -> int | None:
    """The exit code of a command that ends with ``error``; None for a bug: then Python prints a traceback and exits with 1.

    A model's own OSError never comes here, so that each that does is one of the files of a run.
    """
    match error:
        case EndOfRunError():
            return error.code
        case Stopped():
            return DRAINED
        case KeyboardInterrupt():
            return INTERRUPTED
        case GpulimeError() | SystemExit():  # code of the user's may call sys.exit(0), and not all is done then
            return BAD_USAGE
        case OSError():
            return NOT_WRITABLE
    return None
