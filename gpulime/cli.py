"""The command ``gpulime``: explain images, make the report of a run again, say what this machine offers."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from yaml import YAMLError, safe_load

from gpulime import __version__, config
from gpulime.errors import GpulimeError, about, nearest

BAD_USAGE = 2
INTERRUPTED = 130

EXPLAIN = """\
Explain images with LIME. The settings come from a YAML file, from options, or both; what stands last wins.
Start from one of the files in configs/:

  gpulime explain --config configs/quickstart.yaml
  gpulime explain --config configs/quickstart.yaml --data.source my_photos --lime.n_samples 1000 --out runs/mine
"""

# How a value is called in help and messages; the keys are the annotations in config.py.
WORDS = {
    "int": ("N", "a whole number"),
    "float": ("X", "a number"),
    "str": ("TEXT", "text"),
    "bool": ("true|false", "true or false"),
    "list[float]": ("[X, ...]", "a list of numbers"),
    "dict[str, Any]": ("{NAME: VALUE}", "a mapping"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake is one line on stderr and code 2."""
    try:
        options = _parser().parse_args(argv)
        return COMMANDS[options.subcommand](options[options.subcommand])
    except SystemExit as leave:  # --help and --version
        return int(leave.code or 0)
    except ArgumentError as error:
        message = _plain(str(error))
    except GpulimeError as error:
        message = str(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    print(f"gpulime: {message}", file=sys.stderr)
    return BAD_USAGE
