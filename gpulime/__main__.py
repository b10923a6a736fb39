"""``python -m gpulime`` is the command ``gpulime``."""

import os
import signal
import sys
from typing import NoReturn

from gpulime.cli.main import main
from gpulime.runs.progress.exits import DEVICE_LOST
from gpulime.runs.progress.signals import SIGNALS


def run() -> NoReturn:
    """Run the command as a process; it exits with the command's code, also if Python fails while shutting down."""
    code = main()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if code == DEVICE_LOST:  # Python would free memory of the lost GPU, and PyTorch would abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
