"""What the commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; a command that is to run on a GPU ends here where there is none."""
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "PyTorch sees no GPU: gpulime doctor says more\n")
    return options
