"""Runs: explain images from disk or a dataset into a directory of rows that can be resumed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpulime.runs.from_dataset import explain
    from gpulime.runs.store.open_run import open_run

__all__ = ["explain", "open_run"]

_HOME = {"explain": "gpulime.runs.from_dataset", "open_run": "gpulime.runs.store.open_run"}  # imported at first use


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gpulime.runs' has no attribute {name!r}")
