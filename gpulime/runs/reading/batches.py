"""From images as they are read to batches of the explainer: checks, hints, the classes of targets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime import labels
from gpulime.engine.masks import key
from gpulime.errors import GpulimeError, check
from gpulime.images.batch import Batch
from gpulime.runs.progress.exits import WrongSettingError
from gpulime.runs.progress.terminal import note
from gpulime.runs.reading.pixels import ChannelsError
from gpulime.runs.reading.read import CROPPED, CUT, MOST_TARGET, TURNED, Read

TEXTS = {
    TURNED: "a camera's rotation tag, which is ignored as torchvision's ImageFolder does: data.exif: apply turns the picture",
    CROPPED: "less than a quarter of the picture left by the crop: set data.resize too, the shorter side before it",
    CUT: "colours of 16 bits, of which Pillow reads 8: a .npy file keeps all levels",
}

Group = tuple[list[Read], Batch | None]


class Checks:
    """Check images as they are read, and print hints that pixels may differ from the user's intention, each once.

    ``proven`` is true if the run has explained images before; then errors are the images', and no setting is at fault.
    """

    def __init__(self, proven: bool) -> None:
        self._proven, self._first, self._masked, self._hints = proven, True, False, dict(TEXTS)

    def look(self, reads: Sequence[Read]) -> None:
        """Check images read together.

        Raises
        ------
        WrongSettingError
            If the first examples of a dataset have an unknown form, or no image read together has the model's channels.
        """
        self._hint(reads)
        misfits = [read for read in reads if read.kind == ChannelsError.kind]
        if misfits and not self._proven and all(read.pixels is None for read in reads):
            raise WrongSettingError(f"image {misfits[0].item.image_id!r} {misfits[0].error}")
        if not self._masked and any(read.segmenter for read in reads):
            self._masked = True
            note("the masks that come with the images are used as their segments; lime.segments is not")
        if self._first and not self._proven and reads[0].is_misfit:
            raise WrongSettingError(f"image {reads[0].item.image_id!r}: {reads[0].error}")
        self._first = False

    def _hint(self, reads: Sequence[Read]) -> None:
        for hint, text in list(self._hints.items()):
            showing = [read.item.image_id for read in reads if hint in read.hints]
            if showing:
                del self._hints[hint]
                verb = "has" if len(showing) == 1 else "have"
                note(f"{len(showing)} of {len(reads)} images read together, the first {showing[0]!r}, {verb} {text}")


def read_target(
    read: Read, wanted: str | Sequence[int], names: Sequence[str] | None, count: Callable[[Tensor], int | None]
) -> Read:
    """Add the classes of the target; an error if they are to be explained and there are none.

    ``count`` finds the number of the model's classes from pixels (1, c, h, w), which may cost a forward; None if it cannot.

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
        return Read(read.item, error=str(error), kind="target") if needed else read
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


def batches(reads: Sequence[Read], wanted: str | Sequence[int], in_unit: bool, keep: Sequence[int] = ()) -> Iterator[Group]:
    """Group ``reads`` in order: reads of one shape and dtype get a batch, failed reads get none.

    With ``in_unit`` uint8 images are scaled to [0, 1] here, so that a fill is in [0, 1], too.
    """
    for kind, group in itertools.groupby(reads, _kind):
        run = list(group)
        yield run, None if kind is None else _batch(run, wanted, in_unit, keep)


def _kind(read: Read) -> Any:
    return None if read.pixels is None else (read.pixels.shape, read.pixels.dtype, read.segments is None)


def _batch(reads: list[Read], wanted: str | Sequence[int], in_unit: bool, keep: Sequence[int]) -> Batch:
    images = torch.stack([read.pixels for read in reads if read.pixels is not None])
    classes = [read.classes if isinstance(wanted, str) else wanted for read in reads]
    maps = [read.segments for read in reads if read.segments is not None]
    check(len(maps) in (0, len(reads)), f"{len(maps)} of {len(reads)} images have label maps; all must have one, or none")
    return Batch(
        images=images / 255 if in_unit and images.dtype == torch.uint8 else images,
        labels=None if wanted == "top" else labels.padded(classes),
        segments=torch.from_numpy(np.stack(maps)) if maps else None,
        keys=torch.tensor([key(read.item.image_id) for read in reads]),
        top=wanted in ("top", "top+target"),
        keep=keep,
    )
