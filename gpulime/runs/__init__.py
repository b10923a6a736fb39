"""Runs: images from disk or a dataset, explained, and every row kept in a directory that can be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpulime.runs.dataset import explain

__all__ = ["explain"]


def __getattr__(name: str) -> Any:
    if name == "explain":
        from gpulime.runs.dataset import explain

        return explain
    raise AttributeError(f"module 'gpulime.runs' has no attribute {name!r}")
