"""What classes are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Names = Sequence[str] | Mapping[int, str]


def name_of(label: int, names: Names | None) -> str | None:
    """The name of a class, or None where ``names``, a list or a mapping, does not have it."""
    if names is None:
        return None
    known = label in names if isinstance(names, Mapping) else 0 <= label < len(names)
    return str(names[label]) if known else None


def called(label: int, names: Names | None) -> str:
    """The name of a class, or its number."""
    name = name_of(label, names)
    return f"class {label}" if name is None else name
