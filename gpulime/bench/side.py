"""One way of running the model, in pieces: from images on disk to rows of the store, which are not written."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice, pairwise

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.bench.piece import Piece, Size
from gpulime.bench.stages import READING, Staged, Stages
from gpulime.bench.subject import Subject
from gpulime.bench.way import Way
from gpulime.errors import GpulimeError
from gpulime.explanations.batch import fetched
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch
from gpulime.images.segments import describe, segment
from gpulime.runs.isolation import AHEAD, Finished
from gpulime.runs.reading.read import Read, batches
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.workers import read_all
from gpulime.runs.store.recorder import Recorder

SETTLED = 4  # model batches of one size in a row that show the end of the search for it, which takes three of each size
MOST_TICKS = 100  # the most model batches of a warm-up: each of many image sizes has its own search
UNREADABLE = 100  # unreadable images in a row that end the measurement
AT_ONCE_SECONDS = 0.05  # a worker reads at a time images worth this, or a model batch of them: a piece is much longer
LEAST_ROUNDS = 2  # of all workers, in a piece

Group = tuple[list[Read], Batch]


class Side:
    """A way, its Explainer, and pieces of a size that suits it.

    Attributes
    ----------
    image_seconds : of an image, roughly
    size : Size, of a piece
    b : the rows of a model batch
    ahead : bool
        True if images are read before the clock starts: with workers, a run hides reading behind the model, but a piece of
        less than an image cannot.
    not_compiled : str or None, the reason if a model cannot be compiled
    compile_seconds : float or None, of compiling
    load_share : share of loading in the time that a run waits for its workers, the rest being segmentation's
    """

    def __init__(self, subject: Subject, way: Way, seconds: float) -> None:
        self.subject, self.way, self.seconds = subject, way, seconds
        self.unreadable: dict[str, str] = {}
        first = self._explainer(way)
        self.device, self._images, self._in_a_row, self._k = first.device, 0, 0, 1
        self.b, rate = self._settle(first)
        self.not_compiled, self.compile_seconds = first.predictor.not_compiled, first.predictor.compile_seconds
        load, cut = (first.stages.seconds[stage] / self._images for stage in READING)
        self.load_share = load / max(load + cut, 1e-9)
        self.image_seconds = (load + cut) / max(way.workers, 1) + subject.n_samples / rate
        rows = seconds / self.image_seconds * subject.n_samples
        self.size = Size.of(subject.n_samples, self.b, rows, least=self._k + 1)
        self.ahead = way.workers > 0 and self.size.samples < subject.n_samples and self.size.images == 1
        if way.workers and not self.ahead:
            self.size = dataclasses.replace(self.size, samples=subject.n_samples)
        self.explainer = self._explainer(dataclasses.replace(way, batch_size=self.b), n_samples=self.size.samples)
        self.explainer.stages.waits = self.device.type == "cuda" and self.size.samples < subject.n_samples / 2

    @property
    def apart(self) -> bool:
        """Tell if the stages of a piece are timed separately."""
        return self.device.type != "cuda" or self.explainer.stages.waits

    def _explainer(self, way: Way, **changed: int) -> Staged:
        return self.subject.explainer(way, Stages(devices.named(self.subject.lime["device"])), **changed)

    def _settle(self, explainer: Staged) -> tuple[int, float]:
        """Warm up until the batch size is found: the rows of a batch, and rows per second."""
        ticks: list[tuple[float, int]] = []

        def after(b: int) -> None:
            devices.synchronize(self.device)
            ticks.append((time.perf_counter(), b))
            settled = len(ticks) > SETTLED and len({b for _, b in ticks[-SETTLED:]}) == 1
            if settled or len(ticks) >= MOST_TICKS:
                raise _SettledError

        endless = (group for _ in count() for group in self._here(explainer, 1))
        with suppress(_SettledError):
            for _ in explainer.stream((batch for _, batch in endless), after):
                pass
        times = sorted(end - start for (start, _), (end, _) in pairwise(ticks[-SETTLED:]))
        return ticks[-1][1], ticks[-1][1] / times[len(times) // 2]

    def run(self) -> Piece:
        """One piece."""
        with self.way.at_work(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings that the first Explainer has given
            return self._run()

    def run_apart(self) -> Piece:
        """One piece that waits for the device after each stage."""
        stages = self.explainer.stages
        stages.waits = True
        try:
            return self.run()
        finally:
            stages.waits = False

    def _run(self) -> Piece:
        explainer, n, lead = self.explainer, self.size.images, 0
        if self.way.workers and not self.ahead:
            lead, n, groups = self._in_workers(n)
        else:
            groups = self._here(explainer, n)
            if self.ahead:
                groups = iter(list(groups))
        clock, waiting = _Clock(explainer), deque[Read]()
        if not lead:
            clock.start()

        def feed() -> Iterator[Batch]:
            given = 0
            while given < lead + n:
                if lead and not clock.started and given >= lead:
                    clock.start()
                group = next(groups, None)
                if group is None:
                    return
                given += len(group[0])
                waiting.extend(group[0])
                yield group[1]

        recorder = Recorder(
            explainer.n_samples,
            explainer.seed,
            "",
            describe(explainer.segmenter, self.device),
            explainer.predictor.activation,
        )
        for kept in fetched(explainer.stream(feed(), clock.forwards_seen), AHEAD[self.device.type]):
            for i in range(len(kept)):
                recorder.row(Finished(waiting.popleft(), kept, i))
        return clock.stop(self.apart)

    def _in_workers(self, n: int) -> tuple[int, int, Iterator[Group]]:
        """Images before the clock starts, images that count, about ``n``, and all of them from worker processes.

        Workers that start together finish their first reads together. So the clock starts and stops at the end of such a round,
        with whole rounds in between. The workers continue to read afterwards, as in the middle of a run.
        """
        count = self.way.workers
        enough = max(math.ceil(self.b / self.subject.n_samples), round(AT_ONCE_SECONDS / self.image_seconds))
        at_once = min(self.subject.data.batch_size, enough)
        a_round = at_once * count
        n = max(LEAST_ROUNDS, math.ceil(n / a_round)) * a_round
        return a_round, n, self._read(self.explainer, self.subject.next_items(n + 3 * a_round), at_once, count)

    def _here(self, explainer: Staged, n: int) -> Iterator[Group]:
        """The next n images, read in this process."""
        left = n
        while left:
            for group in self._read(explainer, self.subject.next_items(left), min(left, self.subject.data.batch_size), 0):
                left -= len(group[0])
                yield group

    def _read(self, explainer: Staged, items: list[Item], at_once: int, workers: int) -> Iterator[Group]:
        """Items as batches with segments; unreadable ones are left out."""
        reader, stages = _TimedReader(self.subject.reader), explainer.stages
        timeout = self.subject.data.timeout_seconds
        source = read_all(items, reader, explainer.segmenter, explainer.device, at_once, workers, timeout)
        while True:
            before, start = reader.seconds, time.perf_counter()
            reads = next(source, None)
            waited = time.perf_counter() - start
            load = waited * self.load_share if workers else reader.seconds - before
            stages.seconds["load"] += load
            stages.seconds["segment"] += waited - load
            if reads is None:
                return
            for group, batch in batches([read for read in reads if self._sound(read)], "top", in_unit=True):
                if batch is not None:
                    yield group, self._segmented(explainer, batch)

    def _segmented(self, explainer: Staged, batch: Batch) -> Batch:
        """Add segments made on the device, if no reading process has made them."""
        if batch.segments is None:
            images = batch.images.to(explainer.device)
            with explainer.stages.at("segment"), devices.exact(explainer.device):
                made = segment(explainer.segmenter, explainer.normalisation.pictures(images))
            batch = dataclasses.replace(batch, images=images, segments=made.labels)
        assert batch.segments is not None
        self._k = max(self._k, int(batch.segments.max()) + 1)
        return batch

    def _sound(self, read: Read) -> bool:
        if read.pixels is not None:
            self._in_a_row = 0
            self._images += 1
            return True
        self._in_a_row += 1
        self.unreadable[read.item.image_id] = str(read.error)
        if self._in_a_row >= min(UNREADABLE, len(self.subject.items)):
            raise GpulimeError(f"none of {self._in_a_row} images could be read; the last, {read.item.image_id!r}: {read.error}")
        return False

    def images(self, n: int) -> Batch:
        """The next n images of one size, with segments, or fewer if the next has another size."""
        groups = list(islice(self._here(self.explainer, n), n))
        batch = groups[0][1]
        others = [other for _, other in groups[1:] if other.images.shape[1:] == batch.images.shape[1:]]
        assert batch.segments is not None
        return Batch(
            torch.cat([batch.images, *(other.images for other in others)]),
            segments=torch.cat([part.segments for part in [batch, *others] if part.segments is not None]),
            keys=torch.cat([part.keys for part in [batch, *others] if part.keys is not None]),
        )

    def ready(self, images: Tensor, b: int) -> Tensor:
        """Rows (b, c, h, w) ready for the model, on the device: the images, repeated."""
        rows = self.explainer.preparation.for_model(images.to(self.device))
        return rows.repeat(-(-b // len(rows)), 1, 1, 1)[:b]

    def explain(self, batch: Batch, n_samples: int) -> ExplainedImages:
        """Explanations of a batch, on the CPU, with fewer samples than a run takes."""
        explainer = self._explainer(dataclasses.replace(self.way, batch_size=self.b), n_samples=n_samples)
        with self.way.at_work(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ExplainedImages.cat(list(explainer.stream([batch]))).cpu()


class _SettledError(Exception):
    """The batch size is found."""


class _TimedReader:
    """A reader that sums up its own time, in its process."""

    def __init__(self, reader: Callable[[Item], Read]) -> None:
        self.reader, self.seconds = reader, 0.0

    def __call__(self, item: Item) -> Read:
        start = time.perf_counter()
        read = self.reader(item)
        self.seconds += time.perf_counter() - start
        return read


@dataclass
class _Clock:
    """Seconds of a piece, its forwards and its stages."""

    explainer: Staged
    started: float = 0.0
    forwards: int = 0
    model: float = 0.0

    def start(self) -> None:
        devices.synchronize(self.explainer.device)
        self.explainer.stages.clear()
        self.model, self.forwards = self.explainer.predictor.watch.seconds, 0
        self.started = time.perf_counter()

    def forwards_seen(self, b: int) -> None:
        self.forwards += b

    def stop(self, apart: bool) -> Piece:
        explainer = self.explainer
        devices.synchronize(explainer.device)
        seconds = time.perf_counter() - self.started
        stages = {**explainer.stages.seconds, "model": explainer.predictor.watch.seconds - self.model}
        stages["rest"] = seconds - sum(stages.values())
        return Piece(self.forwards / explainer.n_samples, self.forwards, seconds, stages, apart)
