"""Flight: inputs on their way through the queue, with their masks and the outputs so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpulime.engine.batch_size import Kind
from gpulime.images.segments import Segments

MASK_ENTRIES = 2**21  # masks drawn at once, in entries


# Drawn ahead of the queue: on a GPU a whole flight's, since without the kernel a draw is some 130 launches.
AHEAD_ENTRIES = defaultdict(lambda: MASK_ENTRIES, cpu=MASK_ENTRIES // 16)


AHEAD_BATCHES = 128  # at most, so that a batch that was halved for want of memory halves this too


@dataclass(frozen=True)
class Drawn:
    """Image (stop - start,) and mask (stop - start, k) of the places ``start`` to ``stop`` of a flight; at first of none."""

    start: int = 0
    stop: int = 0
    index: Tensor = field(default_factory=lambda: torch.empty(0))
    masks: Tensor = field(default_factory=lambda: torch.empty(0))

    def holds(self, start: int, stop: int) -> bool:
        """Whether all places from ``start`` to ``stop`` are here."""
        return self.start <= start <= stop <= self.stop

    def part(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Image and mask of those places."""
        where = slice(start - self.start, stop - self.start)
        return self.index[where], self.masks[where]


@dataclass
class Flight:
    """Images on their way through the queue.

    Its places are (image, sample) pairs: sample 0 of every image, then the rest, image by image.

    Attributes
    ----------
    images, fill : (n, c, h, w), ready for the model
    parts : Segments
    keys : (n,) int64
    wanted : (n, l) int64 or None, labels that the caller wants explained
    highest : (image, label), the highest of those in the images' whole batch, by the image's number there
    top : bool, whether the classes with the highest output are explained
    pictures : (n, c, h, w) uint8
    n_samples : int, s
    extra : tensors (n, ...), further inputs of the model
    taken : int, the places that the model has been given
    labels : (n, l) int64, once sample 0 of every image has been seen
    predicted, predicted_probs : (n,), then too: the class with the highest output for the whole image, and that output; of a
        model with one output the class is -1
    composed : (place, rows (b, c, h, w)) or None, rows made ahead, from that place on
    kept : (n * s, l) float32, outputs place by place as they come: 4 bytes a sample and label are all that grows with s
    """

    images: Tensor
    fill: Tensor
    parts: Segments
    keys: Tensor
    wanted: Tensor | None
    top: bool
    pictures: Tensor
    n_samples: int
    highest: tuple[int, int] | None = None
    extra: tuple[Tensor, ...] = ()
    taken: int = 0
    first: list[Tensor] = field(default_factory=list)
    drawn: Drawn = field(default_factory=Drawn)
    composed: tuple[int, Tensor] | None = None
    labels: Tensor = field(init=False)
    predicted: Tensor = field(init=False)
    predicted_probs: Tensor = field(init=False)
    kept: Tensor = field(init=False)

    @property
    def n(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        return self.n * self.n_samples

    @property
    def kind(self) -> Kind:
        """What the rows of one model batch must share: (c, h, w), dtype, device."""
        return tuple(self.images.shape[1:]), self.images.dtype, self.images.device

    def joins(self, other: Flight) -> bool:
        """Tell if rows of both can share a model batch, with extra inputs of the same shapes and dtypes."""
        mine, others = ([(tensor.shape[1:], tensor.dtype) for tensor in flight.extra] for flight in (self, other))
        return self.kind == other.kind and mine == others

    def extra_rows(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The extra inputs (b, ...) of the rows at the places ``start`` to ``stop``."""
        if not self.extra:
            return ()
        index, _ = self.pairs(start, stop)
        return tuple(tensor[index] for tensor in self.extra)

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Image and sample of the places ``start`` to ``stop``, two (stop - start,) int64 tensors."""
        place = torch.arange(start, stop, device=self.keys.device)
        rest = place - self.n
        others = self.n_samples - 1
        return place.where(rest < 0, rest // others), (1 + rest % others).where(rest >= 0, 0)

    def window(self, start: int, stop: int, draw: Callable[[Flight, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Image (b,) and mask (b, k) of the places; masks are drawn for many places at a time."""
        if not self.drawn.holds(start, stop):
            fits = AHEAD_ENTRIES[self.keys.device.type] // self.parts.ids.shape[1]
            ahead = min(self.size, max(stop, start + min(fits, AHEAD_BATCHES * (stop - start))))
            index, rows = self.pairs(start, ahead)
            self.drawn = Drawn(start, ahead, index, draw(self, index, rows))
        return self.drawn.part(start, stop)

    def receive(self, start: int, outputs: Tensor, choose_labels: Callable[[Flight, Tensor], Tensor]) -> None:
        """Keep what is wanted of the outputs (b, classes) of the places from ``start`` on."""
        stop = start + len(outputs)
        whole = outputs[: max(0, self.n - start)]
        if len(whole):
            self.first.append(whole.clone())  # the model may write its next answer to the same memory
            if stop >= self.n:
                first = torch.cat(self.first)
                self.labels = choose_labels(self, first)
                best = self.labels[:, :1] if self.top else first.argmax(1, keepdim=True)
                self.predicted, self.predicted_probs = best[:, 0], first.gather(1, best)[:, 0]
                if first.shape[1] == 1:  # a score or a regression: no class is above another
                    self.predicted = torch.full_like(self.predicted, -1)
                self.kept = first.new_empty(self.size, self.labels.shape[1])
                self.kept[: self.n] = first.gather(1, self.labels)
                self.first = []
        if stop > self.n:
            begin = max(start, self.n)
            drawn = self.drawn.holds(begin, stop)  # not where memory ran out, and they were drawn in halves
            index, _ = self.drawn.part(begin, stop) if drawn else self.pairs(begin, stop)
            torch.gather(outputs[begin - start :], 1, self.labels[index], out=self.kept[begin:stop])

    @property
    def outputs(self) -> Tensor:
        """(n, s, l), once they are all there."""
        return self._by_image(self.kept)

    @property
    def masks(self) -> Tensor | None:
        """(n, s, k) bool, where all of them were drawn at once."""
        return self._by_image(self.drawn.masks) if self.drawn.holds(0, self.size) else None

    def _by_image(self, values: Tensor) -> Tensor:
        """What is there for each place, (n * s, ...), as (n, s, ...)."""
        others = values[self.n :].view(self.n, self.n_samples - 1, -1)
        return torch.cat([values[: self.n, None], others], dim=1)
