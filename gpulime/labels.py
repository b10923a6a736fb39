"""Convert labels and targets of users to class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime import arrays
from gpulime.classes import Names, number_of
from gpulime.errors import GpulimeError, about, check, unknown

NONE = -1  # padding in a row of labels
MODES = ("top", "target", "top+target")  # labels of a run, beside fixed classes


def number(given: Any, names: Names | None = None) -> int:
    """One class as a number: an int, a whole float, an array or tensor of one, or one of ``names``."""
    value = _one(given)
    if isinstance(value, str):
        return number_of(value, names)
    return int(value)


def plain(given: Any) -> Any:
    """The labels that `of_image` takes, as Python's own numbers, strings and lists, so that it is small and can be pickled."""
    values = _vector(given)
    return _one(given) if values is None else values


def of_image(given: Any, classes: int | None = None, names: Names | None = None) -> list[int]:
    """The classes of one image, each once: from one class as `number` takes it, a list or vector, or a multi-hot vector.

    A vector of 0 and 1 is multi-hot if it holds floats or bools, has more than two entries, or has as many as the model has
    ``classes``.
    """
    values = _vector(given)
    if values is None:
        return [number(given, names)]
    if len(values) > 1 and _are_bits(values) and (len(values) > 2 or len(values) == classes or type(values[0]) is not int):
        fits = classes is None or len(values) == classes
        check(fits, f"must have one entry of 0 or 1 for each of {classes} classes; got {len(values)} entries")
        return [label for label, value in enumerate(values) if value]
    return list(dict.fromkeys(number(value, names) for value in values))


def _one(given: Any) -> float | str:
    """A whole number or a name."""
    try:
        value = given.item() if hasattr(given, "item") else given
        found = None if isinstance(value, str | bytes) else int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # several, NaN, nothing like a number
        value, found = given, None
    if isinstance(value, str):
        return value
    if found is None or found != value:
        raise GpulimeError(f"must be a class number, 0 or more; got {_shown(given)}")
    return value if isinstance(value, bool | float) else found  # floats and bools are bits of a multi-hot vector


def _vector(given: Any) -> list[Any] | None:
    """The entries of a list or of a vector; None for one class."""
    if isinstance(given, Tensor | np.ndarray):
        size = given.numel() if isinstance(given, Tensor) else given.size
        if size == 1:
            return None
        check(given.ndim == 1, lambda: f"must be a class, or a vector of classes; got {_shown(given)}")
        given = given.tolist()
    return [_one(value) for value in given] if isinstance(given, list | tuple | set | frozenset | range) else None


def _are_bits(values: Sequence[Any]) -> bool:
    return all(not isinstance(value, str) and value in (0, 1) for value in values)


def of_batch(given: Any, n: int, names: Names | None = None, one: str = "image") -> Tensor:
    """The classes of n inputs, (n, l) int64; rows with fewer end in `NONE`.

    Given are one class for all inputs, (n,) or (n, l) integers, which may end in `NONE` too, or n entries as `of_image` takes
    them. ``one`` is the name of an input in messages.
    """
    found = arrays.tensor(given)
    if isinstance(given, str) or (found is not None and found.ndim == 0):
        with about("labels"):
            return torch.full((n, 1), number(given, names))
    listed = isinstance(given, list | tuple | np.ndarray) and len(given) == n
    if found is not None:
        flags = found.ndim == 1 and found.dtype == torch.bool
        listed = found.ndim in (1, 2) and len(found) == n and found.numel() > 0 and not flags
    if not listed:
        same = f"; for the same classes in every {one} pass [[3, 7]] * {n}" if found is not None and found.ndim == 1 else ""
        raise GpulimeError(
            f"labels must be integers, ({n},) or ({n}, l), or {n} lists, one for each {one}; got {_shown(given)}{same}"
        )
    if found is not None and _are_numbers(found):
        return found.long().view(n, -1)
    rows = []
    for i, row in enumerate(given if found is None else found.tolist()):
        with about(f"labels of {one} {i}"):
            rows.append(of_image(row, names=names))
            check(bool(rows[i]), "there must be a class; got none")
    return padded(rows)


def _are_numbers(labels: Tensor) -> bool:
    """True if (n,) or (n, l) labels are class numbers; rows of 0 and 1, more than two of them, are multi-hot."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return False
    return labels.ndim == 1 or labels.shape[1] <= 2 or not bool(((labels == 0) | (labels == 1)).all())


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Lists of classes as (n, l) int64, padded with `NONE`."""
    l = max([1, *map(len, rows)])
    return torch.tensor([[*row, *[NONE] * (l - len(row))] for row in rows])


def of_run(given: Any, names: Names | None = None) -> str | list[int]:
    """The classes that a run explains: one of `MODES`, or fixed classes as `of_image` takes them."""
    if isinstance(given, str) and given in MODES:
        return given
    if isinstance(given, str) and names is None:
        raise unknown("labels", given, [*MODES, "a class number", "a list of these"])
    with about("labels"):
        found = of_image(given, names=names)
        check(bool(found) and min(found) >= 0, f"must name classes, 0 or more; got {given!r:.100}")
        check(names is None or max(found) < len(names), f"must be below the {len(names or ())} classes; got {max(found)}")
    return found


def _shown(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if getattr(value, "ndim", 0) else f"{value!r:.100}"
