"""The classes of an image's target, once the model is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from gpulime import labels
from gpulime.errors import GpulimeError, check
from gpulime.runs.progress.exits import WrongSettingError
from gpulime.runs.reading.read import MOST_TARGET, Read

KIND = "target"  # of an error row


def read_target(
    read: Read, wanted: str | Sequence[int], names: Sequence[str] | None, count: Callable[[Tensor], int | None]
) -> Read:
    """Add the classes of the target; an error if they are to be explained and there are none.

    Parameters
    ----------
    read : Read
    wanted : str or sequence of int
        Labels of the run: one of `labels.MODES`, or fixed classes.
    names : optional
        Names of the model's classes.
    count : callable
        Pixels (1, c, h, w) -> the number of the model's classes, or None if that cannot be found. It may cost a forward.

    Raises
    ------
    WrongSettingError
        If a fixed class is not the model's.
    """
    if read.pixels is None:
        return read
    if not isinstance(wanted, str) and (classes := count(read.pixels[None])) is not None and max(wanted) >= classes:
        raise WrongSettingError(f"labels must be below the model's {classes} classes; got {max(wanted)}")
    needed = wanted in ("target", "top+target")
    try:
        found = _classes(read, names, count, needed)
        check(bool(found) or wanted != "target", "has no target, and labels is 'target'")
    except GpulimeError as error:
        return Read(read.item, error=str(error), kind=KIND) if needed else read
    one = found[0] if len(found) == 1 and 0 <= found[0] <= MOST_TARGET else None
    return replace(read, item=replace(read.item, target=one), classes=found)


def _classes(read: Read, names: Sequence[str] | None, count: Callable[[Tensor], int | None], needed: bool) -> list[int]:
    given = read.item.target if read.target is None else read.target
    check(read.no_target is None, f"its target {read.no_target}")
    if given is None:
        return []
    assert read.pixels is not None
    classes = count(read.pixels[None]) if needed or isinstance(given, list) else None
    try:
        found = labels.of_image(given, classes, names)
    except GpulimeError as error:
        raise GpulimeError(f"its target {error}") from error
    beyond = [label for label in found if needed and (label < 0 or (classes is not None and label >= classes))]
    check(not beyond, lambda: f"its target is {beyond[0]}; the model has {classes} classes")
    return found
