"""Hints that pixels may differ from the user's intention; each is printed once, for the first image that shows it."""

from __future__ import annotations

from collections.abc import Sequence

from gpulime.runs.progress.terminal import note
from gpulime.runs.reading.read import CROPPED, CUT, TURNED, Read

TEXTS = {
    TURNED: "a camera's rotation tag, which is ignored as torchvision's ImageFolder does: data.exif: apply turns the picture",
    CROPPED: "less than a quarter of the picture left by the crop: set data.resize too, the shorter side before it",
    CUT: "colours of 16 bits, of which Pillow reads 8: a .npy file keeps all levels",
}


class Hints:
    """Collect hints from images as they are read."""

    def __init__(self) -> None:
        self._left = dict(TEXTS)

    def look(self, reads: Sequence[Read]) -> None:
        """Print hints that these images show for the first time, with their number and the first image."""
        for hint, text in list(self._left.items()):
            showing = [read.item.image_id for read in reads if hint in read.hints]
            if showing:
                del self._left[hint]
                verb = "has" if len(showing) == 1 else "have"
                note(f"{len(showing)} of {len(reads)} images read together, the first {showing[0]!r}, {verb} {text}")
