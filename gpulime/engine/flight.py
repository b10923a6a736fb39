"""Flight: inputs in the queue, with their masks and the outputs so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpulime.engine.batch_size import Kind, row_bytes
from gpulime.engine.masked import Masked
from gpulime.engine.masks import Sampler
from gpulime.errors import check, stage

# Masks of a fit at once, in entries: each takes some 30 bytes there.
MASK_ENTRIES = defaultdict(lambda: 2**23, cpu=2**21)
# Masks drawn ahead of the queue. On a GPU a whole flight's: without the kernel, a draw is about 130 launches.
AHEAD_ENTRIES = defaultdict(lambda: 2**23, cpu=2**17)
AHEAD_BATCHES = 128  # the most model batches to draw ahead: if a batch is halved for lack of memory, so are its masks


@dataclass(frozen=True)
class Drawn:
    """Input and sample (stop - start,) and mask (stop - start, k) of the places ``start`` to ``stop``; empty by default."""

    start: int = 0
    stop: int = 0
    index: Tensor = field(default_factory=lambda: torch.empty(0))
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    masks: Tensor = field(default_factory=lambda: torch.empty(0))

    def holds(self, start: int, stop: int) -> bool:
        """Tell if all places from ``start`` to ``stop`` have been drawn."""
        return self.start <= start <= stop <= self.stop

    def part(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Input, sample and mask of the places ``start`` to ``stop``."""
        where = slice(start - self.start, stop - self.start)
        return self.index[where], self.samples[where], self.masks[where]


@dataclass
class Flight:
    """Inputs in the queue.

    The places of a flight are (input, sample) pairs: sample 0 of every input, then the rest, input by input. Inputs with a
    shared neighbourhood share the places of samples 1 to s - 1.
    """

    inputs: Masked  # n of them
    n_samples: int  # s
    sampler: Sampler | Tensor  # draws the masks; or given masks (n, s, k) bool
    top_labels: int = 1  # classes explained per input if no labels are given
    ahead_bytes: int = 0  # of rows composed ahead: composing a batch of few small rows is mostly overhead
    taken: int = 0  # places passed to the model so far
    wholes: list[Tensor] = field(default_factory=list)  # outputs for sample 0 so far
    drawn: Drawn = field(default_factory=Drawn)
    composed: tuple[int, Tensor] | None = None  # rows composed ahead, from that place on
    n: int = field(init=False)
    all_classes: bool = field(init=False)  # keep the outputs for all classes, not only those for the labels
    size: int = field(init=False)  # the number of places
    # Set once sample 0 of every input has been passed: columns of the output; labels (n, l) int64; the class (n,) with the
    # highest output, or -1 if there is one column, and that output (n,); outputs (n, l) of the labels for sample 0.
    classes: int = field(init=False)
    labels: Tensor = field(init=False)
    predicted: Tensor = field(init=False)
    predicted_probs: Tensor = field(init=False)
    first: Tensor = field(init=False)
    # Labels and outputs (n * (s - 1), l) of the other places; only these 12 bytes per sample and label grow with s. With a
    # shared neighbourhood outputs are (s - 1, classes), since every input has its own labels; with a plan (places, classes).
    columns: Tensor = field(init=False)
    rest: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.n, self.all_classes = len(self.inputs), self.inputs.shared
        self.size = self.n + (1 if self.inputs.shared else self.n) * (self.n_samples - 1)

    @property
    def kind(self) -> Kind:
        """Shape, dtype and device, which all rows of a model batch share."""
        return self.inputs.kind

    def joins(self, other: Flight) -> bool:
        """Tell if both flights can share a model batch: same kind, and extra inputs of the same shapes and dtypes."""
        mine, others = ([(tensor.shape[1:], tensor.dtype) for tensor in flight.inputs.extra] for flight in (self, other))
        return self.kind == other.kind and mine == others

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the model's input (stop - start, ...) for the places ``start`` to ``stop``."""
        if not self.ahead_bytes:
            return self._composed(start, stop)
        if self.composed is None or not self.composed[0] <= start <= stop <= self.composed[0] + len(self.composed[1]):
            ahead = start + self.ahead_bytes // row_bytes(self.kind)
            self.composed = start, self._composed(start, max(stop, min(self.size, ahead)))
        first, rows = self.composed
        return rows[start - first : stop - first]

    def _composed(self, start: int, stop: int) -> Tensor:
        return self.inputs.rows(*self.window(start, stop))

    def extra_rows(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """The extra inputs (stop - start, ...) of the places ``start`` to ``stop``."""
        if not self.inputs.extra:
            return ()
        index, _ = self.pairs(start, stop)
        return tuple(tensor[index] for tensor in self.inputs.extra)

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Input and sample of the places ``start`` to ``stop``, two (stop - start,) int64 tensors."""
        place = torch.arange(start, stop, device=self.inputs.keys.device)
        rest = place - self.n
        others = max(1, self.n_samples - 1)
        return place.where(rest < 0, rest // others), (1 + rest % others).where(rest >= 0, 0)

    @stage("masks")
    def draw(self, index: Tensor, samples: Tensor) -> Tensor:
        """Masks (..., k) bool of inputs and samples, int64 tensors that broadcast to (...)."""
        if isinstance(self.sampler, Tensor):
            return self.sampler[index, samples]
        return self.inputs.draw(self.sampler, index, samples)

    def window(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Input, sample (stop - start,) and mask (stop - start, k) of the places; masks are drawn for many places at a time."""
        if not self.drawn.holds(start, stop):
            fits = AHEAD_ENTRIES[self.inputs.keys.device.type] // self.inputs.k
            ahead = min(self.size, max(stop, start + min(fits, AHEAD_BATCHES * (stop - start))))
            index, samples = self.pairs(start, ahead)
            self.drawn = Drawn(start, ahead, index, samples, self.draw(index, samples))
        return self.drawn.part(start, stop)

    def receive(self, start: int, outputs: Tensor) -> None:
        """Keep the outputs (b, classes) of the places from ``start`` on, for the labels that are explained."""
        stop = start + outputs.shape[0]
        if start < self.n:
            self.wholes.append(outputs[: self.n - start].clone())  # the model may reuse this memory for its next output
            if stop >= self.n:
                self._begin(torch.cat(self.wholes))
                self.wholes = []
        if stop > self.n:
            begin = max(start, self.n)
            rest, where = outputs[begin - start :], slice(begin - self.n, stop - self.n)
            with stage("model"):
                right = f"the model must return (b, {self.classes}) for each batch, as at first"
                check(rest.shape[1] == self.classes, lambda: f"{right}; got {tuple(rest.shape)}")
            if self.all_classes:
                self.rest[where] = rest
            else:
                torch.gather(rest, 1, self.columns[where], out=self.rest[where])

    def _begin(self, first: Tensor) -> None:
        """Choose the labels from the outputs (n, classes) for sample 0 of every input, and make room for the other outputs."""
        self.classes = first.shape[1]
        wanted = self.inputs.wanted
        self.labels = wanted.choose(first, self.top_labels, self.inputs.one)
        best = self.labels[:, :1] if wanted.top else first.argmax(1, keepdim=True)
        self.predicted, self.predicted_probs = best[:, 0], first.gather(1, best)[:, 0]
        if first.shape[1] == 1:  # a score or a regression: there is no predicted class
            self.predicted = torch.full_like(self.predicted, -1)
        self.first = first.gather(1, self.labels)
        l = self.classes if self.all_classes else self.labels.shape[1]
        self.rest = first.new_empty(self.size - self.n, l)
        if not self.all_classes:
            self.columns = self._columns()

    def _columns(self) -> Tensor:
        return self.labels[:, None].expand(-1, self.n_samples - 1, -1).reshape(-1, self.labels.shape[1])

    def outputs(self, where: slice = slice(None)) -> Tensor:
        """Outputs (m, s, l) of some inputs, by default of all, once the flight is complete."""
        if self.inputs.shared:
            rest = self.rest[:, self.labels[where]].transpose(0, 1)
        else:
            rest = self.rest.view(self.n, self.n_samples - 1, self.labels.shape[1])[where]
        return torch.cat([self.first[where, None], rest], dim=1)

    @property
    def masks(self) -> Tensor | None:
        """Masks (n, s, k) bool; None unless all of them were drawn at once."""
        if self.inputs.shared or not self.drawn.holds(0, self.size):
            return None
        masks = self.drawn.masks
        others = masks[self.n :].view(self.n, self.n_samples - 1, masks.shape[-1])
        return torch.cat([masks[: self.n, None], others], dim=1)


def slices(n: int, together: int) -> Iterator[slice]:
    """Slices of n inputs or samples, ``together`` of them at a time."""
    return (slice(start, start + together) for start in range(0, n, together))
