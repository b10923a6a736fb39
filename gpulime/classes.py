"""Names of classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpulime.errors import GpulimeError, check, nearest

MOST_LISTED = 10  # names in a message
Names = Sequence[str] | Mapping[int, str]


def name_of(label: int, names: Names | None) -> str | None:
    """The name of a class, or None if ``names``, a list or a mapping, does not have it."""
    if names is None:
        return None
    known = label in names if isinstance(names, Mapping) else 0 <= label < len(names)
    return str(names[label]) if known else None


def called(label: int, names: Names | None) -> str:
    """The name of a class, or its number."""
    name = name_of(label, names)
    return f"class {label}" if name is None else name


def number_of(name: str, names: Names | None) -> int:
    """The class with that name."""
    if names is None:
        raise GpulimeError(f"must be a class number, since the model's class names are unknown; got {name!r}")
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    found = [int(label) for label, known in pairs if known == name]
    listed = [str(known) for known in (names.values() if isinstance(names, Mapping) else names)]
    shown = f"{', '.join(map(repr, listed[:MOST_LISTED]))}{', ...' if len(listed) > MOST_LISTED else ''}"
    check(bool(found), lambda: f"must be one of {len(names)} class names; got {name!r}{nearest(name, listed)}: {shown}")
    check(len(found) == 1, f"must be a class number, since classes {found} are all called {name!r}")
    return found[0]


def listed(names: Names) -> list[str]:
    """Names as a list with one for each class; a mapping may have its numbers as text, as JSON has them."""
    if not isinstance(names, Mapping):
        check(not isinstance(names, str), f"class_names must be a list, or a mapping of numbers to names; got {names!r}")
        return [str(name) for name in names]
    by_number = {str(label): str(name) for label, name in names.items()}
    numbers = [str(label) for label in range(len(by_number))]
    check(set(by_number) == set(numbers), f"class_names must name the classes 0 ... n - 1; got {', '.join(by_number):.100}")
    return [by_number[label] for label in numbers]


def of_model(model: Any) -> list[str] | None:
    """The names in the ``config.id2label`` of a Hugging Face model.

    None if there are none, if they are placeholders (LABEL_0), or if the model's last layer has another number of outputs.
    """
    names = getattr(getattr(model, "config", None), "id2label", None)
    if (
        not isinstance(names, Mapping)
        or not hasattr(model, "modules")
        or all(re.fullmatch(r"LABEL_\d+", str(name)) for name in names.values())
    ):
        return None
    sizes = [module.out_features for module in model.modules() if hasattr(module, "out_features")]
    try:
        return listed(names) if sizes and sizes[-1] == len(names) else None
    except GpulimeError:
        return None
