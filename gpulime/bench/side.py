"""One way of running the model, timed in pieces: from images on disk to rows of the store, which are not written."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count, pairwise
from typing import Any

from torch import Tensor

from gpulime import device as devices
from gpulime.bench.bare import channels_last
from gpulime.bench.clock import timed
from gpulime.bench.stages import Piece, Staged, size_of
from gpulime.bench.subject import Subject
from gpulime.bench.variants import benchmarking, threads
from gpulime.engine.isolate import Explained
from gpulime.errors import GpulimeError
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch
from gpulime.images.segments import describe, segment
from gpulime.runs.isolation import Isolation, Recorder
from gpulime.runs.reading.batches import batches
from gpulime.runs.reading.images import columns
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.workers import read_all

SETTLED = 4  # model batches of one size in a row that show the end of the search for it, which takes three of each size
MOST_TICKS = 100  # the most model batches of a warm-up: each of many image sizes has its own search
UNREADABLE = 100  # unreadable images in a row that end the measurement
AT_ONCE_SECONDS = 0.05  # a worker reads at a time images worth this, or a model batch of them: a piece is much longer
LEAST_ROUNDS = 2  # of all workers, in a piece
CALLS, CALLS_SECONDS = 2, 0.2  # the least calls and seconds to time a batch size; the seconds never exceed those of a piece
MOST_BYTES = 2**29  # of rows
WORTH = 1.03  # the smallest gain that counts

Group = tuple[list[Read], Batch]


class Side:
    """A subject with changed settings (as in `Variant`), and pieces of some ``images`` and ``samples`` that take some seconds.

    ``waits`` tells if the host waits for the device after each stage of a piece, and ``ahead`` if images are read before the
    clock starts: with workers, a run hides reading behind the model, but a piece of less than an image cannot.
    """

    error: tuple[float, float] | None = None  # of coefficients, from those of the present settings

    def __init__(self, subject: Subject, changes: Mapping[str, Any], seconds: float) -> None:
        self.subject, self.seconds = subject, seconds
        apart = ("workers", "threads", "channels_last", "cudnn_benchmark")
        self.lime = {**subject.lime, **{name: value for name, value in changes.items() if name not in apart}}
        self.workers, self.threads = changes.get("workers", subject.data.workers), changes.get("threads")
        self.benchmarks = "cudnn_benchmark" in changes
        self.model = channels_last(subject.model) if changes.get("channels_last") else subject.model
        self.unreadable: dict[str, str] = {}
        self._read_well, self._in_a_row, self._k, self._load_share = 0, 0, 1, 0.0
        with self._at_work(quiet=bool(changes)):  # a variant's warnings are its verdict
            self._warm_up()

    def _warm_up(self) -> None:
        """Find the rows of a model batch, the time of an image, and so the size of a piece."""
        s = self.subject.n_samples
        self.explainer = first = self._explainer()
        self.device = first.home
        self.b, rate = self._settle()
        self.not_compiled, self.compile_seconds = first.predictor.not_compiled, first.predictor.compile_seconds
        load, cut = (first.seconds[stage] / self._read_well for stage in ("load", "segment"))
        self._load_share = load / max(load + cut, 1e-9)  # of the time that a run waits for its workers
        self.image_seconds = (load + cut) / max(self.workers, 1) + s / rate
        self.images, self.samples = size_of(s, self.b, self.seconds / self.image_seconds * s, least=self._k + 1)
        self.ahead = self.workers > 0 and self.samples < s
        self.explainer = self._explainer(batch_size=self.b, n_samples=self.samples)
        self.waits = self.device.type == "cpu" or self.samples < s / 2  # which costs little, and the stages are known apart

    def _explainer(self, **changes: int) -> Staged:
        return Staged(self.model, **{**self.lime, **changes})

    @contextmanager
    def _at_work(self, quiet: bool = True) -> Iterator[None]:
        with threads(self.threads), benchmarking(self.benchmarks), warnings.catch_warnings():
            if quiet:  # the first Explainer has given its warnings
                warnings.simplefilter("ignore")
            yield

    def _settle(self) -> tuple[int, float]:
        """Warm up until the batch size is found: the rows of a batch, and rows per second."""
        ticks: list[tuple[float, int]] = []

        def after(b: int) -> None:
            devices.synchronize(self.device)
            ticks.append((time.perf_counter(), b))
            settled = len(ticks) > SETTLED and len({b for _, b in ticks[-SETTLED:]}) == 1
            if settled or len(ticks) >= MOST_TICKS:
                raise _SettledError

        endless = (batch for _ in count() for _, batch in self._here(1))
        with suppress(_SettledError):
            for _ in self.explainer.stream(endless, after):
                pass
        times = sorted(end - start for (start, _), (end, _) in pairwise(ticks[-SETTLED:]))
        return ticks[-1][1], ticks[-1][1] / times[len(times) // 2]

    def run(self, apart: bool = False) -> Piece:
        """Explain a piece; with ``apart`` the host waits for the device after each stage."""
        with self._at_work():
            return self._run(apart or self.waits)

    def _run(self, waits: bool) -> Piece:
        explainer, lead, n = self.explainer, 0, self.images
        explainer.waits = waits
        if self.ahead:
            groups = iter(list(self._here(n)))
        elif self.workers:
            lead, n, groups = self._in_workers(n)
        else:
            groups = self._here(n)
        explainer.clear()

        def feed() -> Iterator[Group]:
            given = 0
            for group in groups:
                given += len(group[0])
                yield group
                if given >= lead + n:
                    return
                if given - len(group[0]) < lead <= given:
                    explainer.clear()

        segmenter = describe(explainer.segmenter, self.device)
        recorder = Recorder(
            explainer.n_samples,
            explainer.seed,
            "",
            explainer.predictor.activation,
            lambda piece, i, read: columns(piece, i, read.segmenter or segmenter),
        )
        isolation = Isolation(explainer, _alone, explainer.count, proven=False)
        for outcome in isolation.explain(feed()):
            if not isinstance(outcome, Explained):
                raise GpulimeError(str(outcome.error))
            recorder.row(outcome)
        isolation.end()
        return explainer.piece(self.subject.n_samples)

    def _here(self, n: int) -> Iterator[Group]:
        """The next n images, read in this process."""
        while n:
            items = self.subject.next_items(min(n, self.subject.data.batch_size))
            with self.explainer.at("load"):
                reads = [self.subject.reader(item) for item in items]
            for group in self._batches(reads):
                n -= len(group[0])
                yield group

    def _in_workers(self, n: int) -> tuple[int, int, Iterator[Group]]:
        """Images before the clock starts, images that count, about ``n``, and all of them from worker processes.

        Workers that start together finish their first reads together. So the clock starts and stops at the end of such a round,
        with whole rounds in between. The workers continue to read afterwards, as in the middle of a run.
        """
        enough = max(math.ceil(self.b / self.subject.n_samples), round(AT_ONCE_SECONDS / self.image_seconds))
        at_once = min(self.subject.data.batch_size, enough)
        a_round = at_once * self.workers
        n = max(LEAST_ROUNDS, math.ceil(n / a_round)) * a_round
        return a_round, n, self._awaited(self.subject.next_items(n + 3 * a_round), at_once)

    def _awaited(self, items: list[Item], at_once: int) -> Iterator[Group]:
        """Images from worker processes, with the time of waiting for them."""
        explainer, reader, timeout = self.explainer, self.subject.reader, self.subject.data.timeout_seconds
        source = read_all(items, reader, explainer.segmenter, explainer.home, at_once, self.workers, timeout)
        while True:
            start = time.perf_counter()
            reads = next(source, None)
            waited = time.perf_counter() - start
            explainer.seconds["load"] += waited * self._load_share
            explainer.seconds["segment"] += waited * (1 - self._load_share)
            if reads is None:
                return
            yield from self._batches(reads)

    def _batches(self, reads: list[Read]) -> Iterator[Group]:
        """Batches with segments; unreadable images are left out."""
        for group, batch in batches([read for read in reads if self._sound(read)], "top", in_unit=True):
            if batch is not None:
                yield group, self._segmented(batch)

    def _segmented(self, batch: Batch) -> Batch:
        """Add segments, if no worker has made them."""
        explainer = self.explainer
        if batch.segments is None:
            images = batch.images.to(explainer.home)
            with explainer.at("segment"), devices.exact(explainer.home):
                made = segment(explainer.segmenter, explainer.normalisation.pictures(images))
            batch = dataclasses.replace(batch, images=images, segments=made.labels)
        assert batch.segments is not None
        self._k = max(self._k, int(batch.segments.max()) + 1)
        return batch

    def _sound(self, read: Read) -> bool:
        if read.pixels is not None:
            self._in_a_row = 0
            self._read_well += 1
            return True
        self._in_a_row += 1
        self.unreadable[read.item.image_id] = str(read.error)
        if self._in_a_row >= min(UNREADABLE, len(self.subject.items)):
            raise GpulimeError(f"none of {self._in_a_row} images could be read; the last, {read.item.image_id!r}: {read.error}")
        return False

    def some(self, n: int) -> Batch:
        """The next images of one size, with segments: n at most."""
        return next(self._here(n))[1]

    def ready(self, images: Tensor, b: int) -> Tensor:
        """Rows (b, c, h, w) ready for the model, on the device: the images, repeated."""
        rows = self.explainer.preparation.for_model(images.to(self.device))
        return rows.repeat(-(-b // len(rows)), 1, 1, 1)[:b]

    def by_rows(self, images: Tensor) -> dict[int, float]:
        """Forwards per second of the model, called as in a run, by the rows of a batch.

        Tries the present size, then doubles and halves it while that is faster and a batch takes less time than a piece.
        """
        found = {self.b: self._rate(images, self.b)}
        for grow in (True, False):
            b, fastest = self.b, max(found.values())
            while fastest and (b := b * 2 if grow else b // 2):
                if grow and (4 * b * images[0].numel() > MOST_BYTES or b / fastest > self.seconds):
                    break
                found[b] = self._rate(images, b)
                if found[b] < fastest * WORTH:
                    break
                fastest = found[b]
        return {b: rate for b, rate in sorted(found.items()) if rate}

    def _rate(self, images: Tensor, b: int) -> float:
        """Rows per second; 0 if the model fails with this many rows."""
        predictor = self.explainer.predictor
        most = predictor.most
        try:
            with warnings.catch_warnings(), predictor.inference(self.device):
                warnings.simplefilter("ignore")
                rows = self.ready(images, b).contiguous(memory_format=predictor.memory_format)
                predictor(rows)
                times: list[float] = []
                while len(times) < CALLS or sum(times) < min(CALLS_SECONDS, self.seconds):
                    times.append(timed(lambda: predictor(rows), self.device).wall)
        except (RuntimeError, MemoryError):  # usually out of memory
            return 0.0
        if predictor.most < most:
            predictor.most = most
            return 0.0
        return b / min(times)

    def explain(self, batch: Batch, n_samples: int) -> ExplainedImages:
        """Explanations of a batch, on the CPU, with fewer samples than a run takes."""
        explainer = self._explainer(batch_size=self.b, n_samples=n_samples)
        with self._at_work():
            return ExplainedImages.cat(list(explainer.stream([batch]))).cpu()


def _alone(read: Read) -> Batch:
    [(_, batch)] = batches([read], "top", in_unit=True)
    assert batch is not None
    return batch


class _SettledError(Exception):
    """The batch size is found."""
