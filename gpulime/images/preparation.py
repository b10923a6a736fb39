"""Prepare images for masking: everything done once per image, before its rows enter the queue."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.classes import Names
from gpulime.engine.masked import Wanted
from gpulime.engine.model import Predictor
from gpulime.explanations.window import stretched
from gpulime.images import fills, pretrained
from gpulime.images.batch import Batch, channels_behind, outside_unit
from gpulime.images.masked_images import MaskedImages
from gpulime.images.normalisation import Normalisation
from gpulime.images.segments import Segments, from_labels, kept_ids, segment
from gpulime.segments import Segmenter

# The most images, and bytes of images, prepared at once, to bound memory; on a GPU more of them if they are small.
AT_ONCE_IMAGES, AT_ONCE_BYTES, SMALL_BYTES = 64, 2**28, {"cpu": 0, "cuda": 2**25}


@dataclass(eq=False)
class Preparation:
    """Checks, segments, fills and normalises images by the settings of an `Explainer`."""

    predictor: Predictor
    normalisation: Normalisation
    segmenter: Segmenter
    fill: str | Tensor
    class_names: Names | None = None  # labels may use them
    warned: set[str] = field(default_factory=set)  # kinds of warnings given so far; each is given once

    def masked(self, batch: Batch) -> Iterator[MaskedImages]:
        """Prepare the batch's images, a few at a time.

        Every wait of the host for a GPU happens here. The host reads the range of images and the highest label if they are on
        the GPU, the number of segments, a test if float pictures need a display window, and pictures for a segmenter on the
        CPU. Images from the host are prepared on a second stream, beside the forwards of earlier images.

        Between a flight's first model batch and its solved fit the host reads nothing. Exceptions are the user's callables, the
        lasso's path, the sampler "lime", an alpha below 1e-6, the search for a batch size, and the checks of the model's first
        outputs.
        """
        batch = replace(batch.as_tensors(self.class_names), keep=kept_ids(batch.keep))
        self.normalisation.fits(batch.images)
        fills.fits(self.fill, tuple(batch.images.shape))
        unit = 255.0 if batch.images.dtype == torch.uint8 else 1.0
        (low, high), highest = batch.bounds(), batch.highest_label()
        device = self.predictor.device(batch.images)
        given = (batch.images, batch.labels, batch.segments, batch.keys, self.fill, *batch.extra)
        with devices.beside(device, given):
            batch = batch.on(device)
        if self.predictor.classes is not None:
            Wanted(highest=highest).check(self.predictor.classes, MaskedImages.one)
        if not self.normalisation.normalized:
            outside = outside_unit(low, high)
            self._warn_once("range", outside)
            if self.normalisation.source == "none" and outside is None:
                self._warn_once("normalisation", pretrained.lacking(self.predictor.model))
            self._warn_once("fill", fills.outside(self.fill, unit))
        self._warn_once("layout", channels_behind(batch.images))
        each = 4 * batch.images[0].numel()
        size = max(1, min(AT_ONCE_IMAGES, AT_ONCE_BYTES // each), SMALL_BYTES[device.type] // each)
        for start in range(0, len(batch.images), size):
            where = slice(start, start + size)
            part, fill = batch.part(where), self._fill_of(where)
            with devices.beside(device, given), devices.exact(device):
                ready, filled, parts, pictures = self._ready(part, fill, unit, start)
            made = (ready, filled, parts.labels, parts.counts, parts.ids, pictures, part.keys, part.labels, *part.extra)
            for tensor in made:
                if tensor is not None:
                    devices.read_here(tensor)
            assert part.keys is not None  # `on` sets zeros by default
            wanted = Wanted(part.labels, part.top, highest)
            yield MaskedImages(ready, filled, parts, pictures, part.keys, wanted, tuple(part.extra), self.class_names)

    def for_model(self, images: Tensor, extra: Sequence[Tensor] = ()) -> Tensor:
        """Images ready for the model: normalised, in its dtype and memory format."""
        # Not .to(memory_format=), which does nothing if the dtype is already right.
        ready = self.normalisation.ready(images)
        ready = ready.to(self.predictor.dtype(ready, extra))
        return ready.contiguous(memory_format=self.predictor.memory_format)

    def _ready(self, batch: Batch, fill: str | Tensor, unit: float, number: int) -> tuple[Tensor, Tensor, Segments, Tensor]:
        """Images and fill ready for the model, the segments, and uint8 pictures."""
        pictures = self.normalisation.pictures(batch.images)
        if unit == 1:  # uint8 images need no window
            pictures = stretched(pictures)
        if batch.segments is None:
            parts = segment(self.segmenter, pictures, number, batch.keep)
        else:
            parts = from_labels(batch.segments, batch.keep, number)
        filled = fills.fill(fill, batch.images, parts.labels, parts.ids.shape[1], unit)
        return (
            self.for_model(batch.images, batch.extra),
            self.for_model(filled),
            parts,
            pictures.clamp(0, 1).mul_(255).round_().to(torch.uint8),
        )

    def _fill_of(self, where: slice) -> str | Tensor:
        fill = self.fill
        return fill[where] if isinstance(fill, Tensor) and fill.ndim == 4 and fill.shape[0] > 1 else fill

    def _warn_once(self, kind: str, message: str | None) -> None:
        if message and kind not in self.warned:
            self.warned.add(kind)
            warnings.warn(message, stacklevel=2)
