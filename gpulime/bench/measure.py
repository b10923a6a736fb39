"""The measurement: the present settings, the bare model, and the gain and cost of each variant."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch

from gpulime import device as devices
from gpulime.bench import memory, rows, way
from gpulime.bench.bare import Bare
from gpulime.bench.clock import Quantiles
from gpulime.bench.compare import difference
from gpulime.bench.machine import machine
from gpulime.bench.piece import Piece
from gpulime.bench.result import FAILED, FASTER, NOT_TRIED, NOTHING, SLOWER, UNCLEAR, Outcome, PieceRow, Result
from gpulime.bench.side import Side
from gpulime.bench.stages import STAGES
from gpulime.bench.subject import Subject
from gpulime.bench.turns import TURNS, attempt, in_turns
from gpulime.bench.way import KINDS, Variant
from gpulime.errors import GpulimeError, check, line_of
from gpulime.images.segments import on_device
from gpulime.runs.progress.exits import ModelFailsError
from gpulime.runs.progress.status import duration

SECONDS = 6.0  # for each variant
WORTH = 1.03  # the smallest gain that counts
UNSTEADY = 1.1  # noise above this is reported; a possible gain above this is unclear rather than none
CHECKED = 16  # the most images for comparing coefficients
PRESENT, BARE, APART = "present settings", "bare model", "present settings, stages apart"


def measure(
    subject: Subject,
    seconds: float = SECONDS,
    kinds: Sequence[str] = KINDS,
    say: Callable[[str], object] = lambda line: None,
) -> Result:
    """Measure a subject.

    Parameters
    ----------
    subject : Subject
    seconds : float
        Time for the present settings, the bare model and each variant, in `turns.TURNS` pieces; more if a piece takes longer.
    kinds : sequence of str
        Variants to try, of `way.KINDS`.
    say : callable
        Called with lines about the progress.

    Raises
    ------
    GpulimeError
        If the present settings do not work.
    """
    check(seconds > 0, f"seconds must be above 0; got {seconds:g}")
    return _Bench(subject, seconds, kinds, say).run()


class _Bench:
    def __init__(self, subject: Subject, seconds: float, kinds: Sequence[str], say: Callable[[str], object]) -> None:
        self.subject, self.piece_seconds, self.kinds, self.say = subject, seconds / TURNS, kinds, say
        self.s = subject.n_samples
        self.outcomes: list[Outcome] = []
        self.notes: list[str] = []
        self.pieces: dict[str, list[Piece]] = {}
        self.won: list[Variant] = []

    def run(self) -> Result:
        self.say("warming up with the present settings, and looking for the batch size")
        device = devices.named(self.subject.lime["device"])
        memory.start(device)
        start = time.perf_counter()
        try:
            self.present = Side(self.subject, self.subject.way, self.piece_seconds)
        except Exception as error:
            if isinstance(error, GpulimeError) or devices.lost(error, device):
                raise
            raise ModelFailsError(f"the present settings fail: {line_of(error)}") from error
        self.warm_seconds = time.perf_counter() - start
        self.device = self.present.device
        took = self.present.run().seconds
        most = memory.peak(self.device)
        size = self.present.size
        self.batch = self.present.images(min(size.images, CHECKED))
        self.reference = self.present.explain(self.batch, size.samples)
        bare = self._bare()
        batches = max(1, round(self.piece_seconds / bare.seconds))
        batch_rates = rows.by_rows(self.present, self.batch.images)
        best = rows.best(batch_rates) or self.present.b

        variants = self._variants(best)
        sides: dict[str, Callable[[], Piece]] = {PRESENT: self.present.run, BARE: lambda: _bare(bare, batches)}
        if not self.present.apart:
            sides[APART] = self.present.run_apart
        names = ", ".join(variant.name for variant in variants)
        count = len(sides) + len(variants)
        about = TURNS * took * count + (self.warm_seconds + took) * len(variants)
        compiling = "compiling, " if any(variant.kind == "compile" for variant in variants) else ""
        more = f"; {compiling}workers and the combination of faster variants come on top" if variants else ""
        self.say(f"measuring {PRESENT}, {BARE}{', ' if variants else ''}{names}: about {duration(about)}{more}")
        self._round(sides, variants)
        self._try_workers()
        self._try_together()
        return self._result(bare, batch_rates, best, most)

    def _bare(self) -> Bare:
        side, predictor = self.present, self.present.explainer.predictor
        compiled = side.way.compile if side.not_compiled is None else False
        last = predictor.memory_format is torch.channels_last
        return Bare(predictor.model, side.ready(self.batch.images, side.b), predictor.precision, last, compiled)

    def _variants(self, best: int) -> list[Variant]:
        """Variants that change the calls of the model; an outcome with the reason for each one left out."""
        present, b = self.subject.way, self.present.b
        offers: dict[str, tuple[str, list[Variant] | str]] = {
            "precision": ("precision", way.precisions(present, self.device)),
            "channels_last": ("channels_last", way.memory_formats(self.subject.model)),
            "compile": ("torch.compile", "the model is compiled already" if present.compile else [way.compiling(b)]),
            "batch_size": ("batch size", f"{b} rows, as now, are the fastest" if best == b else [way.batch_size(best)]),
            "threads": ("threads", way.fewer_threads(self.device)),
        }
        found: list[Variant] = []
        for kind, (name, offer) in offers.items():
            if kind not in self.kinds:
                continue
            if isinstance(offer, str):
                self._leave_out(kind, name, offer)
            else:
                found += offer
        return found

    def _leave_out(self, kind: str, name: str, reason: str, verdict: str = NOTHING) -> None:
        self.outcomes.append(Outcome(kind, name, "", verdict, reason=reason))

    def _round(self, sides: dict[str, Callable[[], Piece]], variants: Sequence[Variant]) -> None:
        """Measure the variants in turns with other sides, including the present settings."""
        errors: dict[str, tuple[float, float] | None] = {}
        once: dict[str, float | None] = {}
        failed: dict[str, str] = {}
        for variant in variants:
            self.say(f"warming up {variant.name}")
            side, why = attempt(lambda variant=variant: self._side(variant, errors), self.device)  # type: ignore[misc]
            if side is None:
                failed[variant.name] = why
            else:
                sides[variant.name], once[variant.name] = side.run, side.compile_seconds
        self.say(f"measuring {len(sides)} in turns")
        pieces, lost = in_turns(sides, (PRESENT, BARE, APART), self.device)
        failed |= lost
        for name, of_side in pieces.items():
            self.pieces[name] = [*self.pieces.get(name, []), *of_side]
        for variant in variants:
            self._judge(variant, pieces, failed.get(variant.name), errors.get(variant.name), once.get(variant.name))
        self.subject.forget_models()
        gc.collect()

    def _side(self, variant: Variant, errors: dict[str, tuple[float, float] | None]) -> Side:
        changed = variant.of(self.subject.way)
        with changed.at_work(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model that cannot be compiled is reported as this variant's verdict
            side = Side(self.subject, changed, self.piece_seconds)
        check(side.not_compiled is None, f"the model cannot be compiled: {side.not_compiled}")
        if variant.changes_numbers:
            batch = replace(self.batch, labels=self.reference.labels)
            errors[variant.name] = difference(side.explain(batch, self.present.size.samples), self.reference)
        return side

    def _judge(
        self,
        variant: Variant,
        pieces: dict[str, list[Piece]],
        why: str | None,
        error: tuple[float, float] | None,
        once: float | None,
    ) -> None:
        if why is not None:
            self.outcomes.append(Outcome(variant.kind, variant.name, variant.action, FAILED, reason=why))
            return
        pairs = zip(pieces[PRESENT], pieces[variant.name], strict=True)
        gain = Quantiles.of([before.an_image(self.s) / after.an_image(self.s) for before, after in pairs])
        verdict = judged(gain, noise_of(pieces[PRESENT], self.s))
        if verdict == FASTER:
            self.won.append(variant)
        off, top5 = error or (None, None)
        self.outcomes.append(Outcome(variant.kind, variant.name, variant.action, verdict, gain, off, top5, once=once))

    def _try_workers(self) -> None:
        """Try worker processes if reading and segmenting on the CPU slow the run down."""
        if "workers" not in self.kinds:
            return
        stages, now, cores = self._stages(), self.subject.data.workers, os.cpu_count() or 1
        on_gpu = on_device(self.present.explainer.segmenter, self.device) is not None
        theirs = stages["load"] + (0.0 if on_gpu else stages["segment"])
        total = sum(stages.values())
        what = (
            f"reading{'' if on_gpu else ' and segmenting'} take{'s' if on_gpu else ''} {100 * theirs / total:.1f} % of the time"
        )
        if theirs / total < WORTH - 1:
            self._leave_out("workers", "workers", what)
        elif now >= cores:
            self._leave_out("workers", "workers", f"{what}, and there are as many workers as cores, {cores}")
        elif total > self.piece_seconds:
            least = math.ceil(total * TURNS)
            self._leave_out("workers", "workers", f"{what}; --seconds {least} measures what workers bring", NOT_TRIED)
        else:
            needed = now * 2 if now else math.ceil(1.25 * theirs / (total - theirs))
            self._round({PRESENT: self.present.run}, [way.workers(min(max(needed, 1), cores))])

    def _try_together(self) -> None:
        """Try the best variant of each faster kind, all together."""
        gains = {outcome.name: outcome.gain.median for outcome in self.outcomes if outcome.gain is not None}
        best = {v.kind: v for v in sorted(self.won, key=lambda v: gains[v.name])}
        if best.keys() & {"precision", "compile"}:
            best.pop("batch_size", None)  # the size was found for the unchanged model
        if len(best) > 1:
            self._round({PRESENT: self.present.run}, [way.together([best[kind] for kind in KINDS if kind in best])])

    def _stages(self) -> dict[str, float]:
        """Seconds per image by stage, over all pieces with separate stages."""
        pieces = self.pieces.get(APART, self.pieces[PRESENT])
        each = [piece.stages_of_an_image(self.s) for piece in pieces]
        return {stage: sum(one[stage] for one in each) / len(each) for stage in STAGES}

    def _result(self, bare: Bare, batch_rates: dict[int, float], best: int, most: int | None) -> Result:
        subject, size = self.subject, self.present.size
        images = [piece.an_image(self.s) for piece in self.pieces[PRESENT]]
        alone = [piece.seconds / piece.forwards for piece in self.pieces[BARE]]
        took, stages = Quantiles.of(images), self._stages()
        in_turn = zip(alone, images, strict=False)  # the present settings have further pieces from later rounds
        many = subject.images
        return Result(
            subject=subject.about,
            machine=machine(self.device),
            settings={
                "n_samples": self.s,
                "precision": subject.way.precision,
                "batch_size": subject.way.batch_size,
                "rows": self.present.b,
                "workers": subject.way.workers,
                "piece": {"images": size.images, "samples": size.samples},
                "checked": {"images": len(self.batch.images), "samples": size.samples},
            },
            images_per_s=Quantiles.of([1 / one for one in images]),
            forwards_per_s=Quantiles.of([self.s / one for one in images]),
            bare=bare.layout,
            bare_forwards_per_s=Quantiles.of([1 / one for one in alone]),
            efficiency=Quantiles.of([self.s * one / whole for one, whole in in_turn]),
            stages=stages,
            an_image=sum(stages.values()),
            memory=most,
            batch_rates=batch_rates,
            best_batch=best,
            whole_images=many,
            whole_seconds=None if many is None else Quantiles(*(many * one for one in took)),
            outcomes=self.outcomes,
            notes=[*self.notes, *self._notes()],
            pieces={
                name: [PieceRow(one.images, one.forwards, one.seconds, one.an_image(self.s)) for one in of_side]
                for name, of_side in self.pieces.items()
            },
        )

    def _notes(self) -> list[str]:
        """List limits of these numbers."""
        notes, size, unreadable = [], self.present.size, self.present.unreadable
        if (noise := noise_of(self.pieces[PRESENT], self.s)) > UNSTEADY:
            notes.append(
                f"this machine is unsteady: the time of the same work varies by x {noise:.2f} from turn to turn; "
                "smaller gains do not count"
            )
        if size.samples < self.s:
            notes.append(
                f"timed with {size.samples:,} of the {self.s:,} samples of an image; the time of forwards is scaled up, "
                "the time of work done once per image is not"
            )
        if self.present.ahead:
            notes.append("these times exclude reading: explaining an image takes so long that workers surely keep up")
        if self.subject.repeats and self.subject.images is not None:
            notes.append("images were read more than once, the second time from memory: a first reading may be slower")
        if unreadable:
            first = next(iter(unreadable.items()))
            notes.append(f"{len(unreadable):,} images could not be read and are left out, such as {first[0]!r}: {first[1]}")
        return notes


def judged(gain: Quantiles, noise: float) -> str:
    """Judge a gain: within the noise, or with quantiles on both sides of 1, it is unclear."""
    if gain.low > 1 and gain.median >= max(WORTH, noise):
        return FASTER
    if gain.high < 1 and gain.median <= 1 / max(WORTH, noise):
        return SLOWER
    return UNCLEAR if gain.median >= WORTH or gain.high > UNSTEADY else NOTHING


def noise_of(pieces: Sequence[Piece], s: int) -> float:
    """Median ratio of a piece's times in two successive turns, at least 1."""
    times = [piece.an_image(s) for piece in pieces]
    return statistics.median(max(before / after, after / before) for before, after in pairwise(times))


def _bare(bare: Bare, batches: int) -> Piece:
    """Time the bare model for about as long as a piece of a side."""
    forwards = batches * len(bare.rows)
    seconds = bare.forward(forwards).wall
    return Piece(0, forwards, seconds, {**dict.fromkeys(STAGES, 0.0), "model": seconds})
