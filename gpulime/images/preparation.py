"""Images -> masked images: all that is done once per image, before its rows are on their way to the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.classes import Names
from gpulime.engine.model import Predictor
from gpulime.engine.wanted import Wanted
from gpulime.explanations.window import stretched
from gpulime.images import fills, pretrained
from gpulime.images.batch import Batch, channels_behind, outside_unit
from gpulime.images.masked_images import MaskedImages
from gpulime.images.normalisation import Normalisation
from gpulime.images.segments import Segments, from_labels, kept_ids, segment
from gpulime.segments import Segmenter

# As many images are prepared at once as these allow, to bound memory.
AT_ONCE_IMAGES, AT_ONCE_BYTES = 64, 2**28


@dataclass(eq=False)
class Preparation:
    """Checks, segments, fill and normalisation, as an `Explainer` was told them.

    Attributes
    ----------
    class_names : the model's own, by which labels may be given
    warned : the kinds of warnings that have been given, each once
    """

    predictor: Predictor
    normalisation: Normalisation
    segmenter: Segmenter
    fill: str | Tensor
    class_names: Names | None = None
    warned: set[str] = field(default_factory=set)

    def masked(self, batch: Batch) -> Iterator[MaskedImages]:
        """The batch's images, a few at a time.

        What the host reads of a GPU it reads here, and waits for it: the range of images and the highest label that came there,
        whether floats need a window to be seen, how many segments there are, pictures for a segmenter on the CPU. It waits for
        these alone: what comes from the host is prepared beside the forwards of earlier images. From a flight's first model
        batch to its solved fit it reads nothing, but for callables of the user's, the lasso's path, the sampler "lime", an
        alpha below 1e-6, the search for a batch size, and once, whether the model's outputs are probabilities and the same for
        the same image.
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
        size = max(1, min(AT_ONCE_IMAGES, AT_ONCE_BYTES // (4 * batch.images[0].numel())))
        for start in range(0, len(batch.images), size):
            where = slice(start, start + size)
            part, fill = batch.part(where), self._fill_of(where)
            with devices.beside(device, given), devices.exact(device):
                ready, filled, parts, pictures = self._ready(part, fill, unit, start)
            made = (ready, filled, parts.labels, parts.counts, parts.ids, pictures, part.keys, part.labels, *part.extra)
            for tensor in made:
                if tensor is not None:
                    devices.read_here(tensor)
            assert part.keys is not None  # `on` put zeros where there were none
            wanted = Wanted(part.labels, part.top, highest)
            yield MaskedImages(ready, filled, parts, pictures, part.keys, wanted, tuple(part.extra), self.class_names)

    def for_model(self, images: Tensor, extra: Sequence[Tensor] = ()) -> Tensor:
        """Images as the model takes them: normalised, in its dtype and memory format."""
        # Not .to(memory_format=), which leaves a tensor of the right dtype in the format it has.
        ready = self.normalisation.ready(images)
        ready = ready.to(self.predictor.dtype(ready, extra))
        return ready.contiguous(memory_format=self.predictor.memory_format)

    def _ready(self, batch: Batch, fill: str | Tensor, unit: float, number: int) -> tuple[Tensor, Tensor, Segments, Tensor]:
        """Images and fill as the model takes them, the segments, and uint8 pictures."""
        pictures = self.normalisation.pictures(batch.images)
        if unit == 1:  # no more than eight bits otherwise
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
