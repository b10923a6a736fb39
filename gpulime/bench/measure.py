"""The measurement: the present settings, the bare model, and the gain and cost of each variant."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch

from gpulime import device as devices
from gpulime.bench.bare import Bare
from gpulime.bench.clock import TURNS, Quantiles, attempt, in_turns
from gpulime.bench.machine import forget_peak, machine, peak_memory
from gpulime.bench.result import FAILED, FASTER, NOT_TRIED, NOTHING, SLOWER, UNCLEAR, Outcome, Result
from gpulime.bench.side import WORTH, Side
from gpulime.bench.stages import STAGES, Piece
from gpulime.bench.subject import Subject
from gpulime.bench.variants import KINDS, Variant, offers, together, workers
from gpulime.errors import GpulimeError, check, line_of
from gpulime.explanations.batch import Explanations
from gpulime.images.segments import on_device
from gpulime.runs.progress.exits import ModelFailsError
from gpulime.runs.progress.terminal import duration

SECONDS = 6.0  # for each variant
UNSTEADY = 1.1  # noise above this is reported; a possible gain above this is unclear rather than none
CHECKED = 16  # the most images for comparing coefficients
STRONGEST = 5  # segments whose agreement is compared
# of kinds that are not tried
NAMES = {"compile": "torch.compile", "cudnn_benchmark": "cudnn.benchmark", "batch_size": "batch size"}
PRESENT, BARE, APART = "present settings", "bare model", "present settings, stages apart"


def measure(
    subject: Subject,
    seconds: float = SECONDS,
    kinds: Sequence[str] = KINDS,
    say: Callable[[str], object] = lambda line: None,
) -> Result:
    """Measure the present settings, the bare model and variants of some `KINDS`; ``say`` gets lines about the progress.

    Each has some seconds, in `TURNS` pieces; more if a piece takes longer.
    """
    check(seconds > 0, f"seconds must be above 0; got {seconds:g}")
    return _Bench(subject, seconds, kinds, say).run()


class _Bench:
    def __init__(self, subject: Subject, seconds: float, kinds: Sequence[str], say: Callable[[str], object]) -> None:
        self.subject, self.piece_seconds, self.kinds, self.say = subject, seconds / TURNS, kinds, say
        self.s = subject.n_samples
        self.outcomes: list[Outcome] = []
        self.pieces: dict[str, list[Piece]] = {}
        self.won: list[tuple[float, Variant]] = []

    def run(self) -> Result:
        self.say("warming up with the present settings, and looking for the batch size")
        device = devices.named(self.subject.lime["device"])
        forget_peak(device)
        start = time.perf_counter()
        try:
            self.present = present = Side(self.subject, {}, self.piece_seconds)
        except Exception as error:
            if isinstance(error, GpulimeError) or devices.lost(error, device):
                raise
            raise ModelFailsError(f"the present settings fail: {line_of(error)}") from error
        warm_seconds = time.perf_counter() - start
        self.device = present.device
        took, most = present.run().seconds, peak_memory(self.device)
        self.batch = present.some(min(present.images, CHECKED))
        self.reference = present.explain(self.batch, present.samples)
        bare = self._bare()
        rates = present.by_rows(self.batch.images)
        best = min((b for b, rate in rates.items() if rate * WORTH >= max(rates.values())), default=present.b)

        variants = self._variants(best)
        batches = max(1, round(self.piece_seconds / bare.seconds))
        sides: dict[str, Callable[[], Piece]] = {PRESENT: present.run, BARE: partial(_piece, bare, batches, self.s)}
        if not present.waits:
            sides[APART] = partial(present.run, apart=True)
        about = TURNS * took * (len(sides) + len(variants)) + (warm_seconds + took) * len(variants)
        names = ", ".join([PRESENT, BARE, *(variant.name for variant in variants)])
        compiling = "compiling, " if any(variant.kind == "compile" for variant in variants) else ""
        more = f"; {compiling}workers and the combination of faster variants come on top" if variants else ""
        self.say(f"measuring {names}: about {duration(about)}{more}")
        self._round(sides, variants)
        self._try_workers()
        self._try_together()
        return self._result(bare.layout, rates, best, most)

    def _bare(self) -> Bare:
        present, predictor = self.present, self.present.explainer.predictor
        compiled = self.subject.lime.get("compile", False) if present.not_compiled is None else False
        last = predictor.memory_format is torch.channels_last
        return Bare(predictor.model, present.ready(self.batch.images, present.b), predictor.precision, last, compiled)

    def _variants(self, best: int) -> list[Variant]:
        """Variants that change the calls of the model; an outcome with the reason for each one left out."""
        found: list[Variant] = []
        for kind, offer in offers(self.subject, self.device, self.present.b, best).items():
            if kind not in self.kinds:
                continue
            if isinstance(offer, str):
                self.outcomes.append(Outcome(kind, NAMES.get(kind, kind), "", NOTHING, reason=offer))
            else:
                found += offer
        return found

    def _round(self, calls: dict[str, Callable[[], Piece]], variants: Sequence[Variant]) -> None:
        """Measure variants in turns with other sides, including the present settings."""
        sides: dict[str, Side] = {}
        failed: dict[str, str] = {}
        for variant in variants:
            self.say(f"warming up {variant.name}")
            side, why = attempt(partial(self._side, variant), self.device)
            if side is None:
                failed[variant.name] = why
            else:
                sides[variant.name] = side
        self.say(f"measuring {len(calls) + len(sides)} in turns")
        pieces, lost = in_turns(calls | {name: side.run for name, side in sides.items()}, (PRESENT, BARE, APART), self.device)
        failed |= lost
        for name, of_side in pieces.items():
            self.pieces.setdefault(name, []).extend(of_side)
        for variant in variants:
            outcome = Outcome(variant.kind, variant.name, variant.action, FAILED, reason=failed.get(variant.name))
            if variant.name not in failed:
                outcome = self._judged(outcome, sides[variant.name], pieces[PRESENT], pieces[variant.name])
                if outcome.verdict == FASTER and outcome.gain is not None:
                    self.won.append((outcome.gain.median, variant))
            self.outcomes.append(outcome)
        del sides
        gc.collect()  # copies of the model

    def _side(self, variant: Variant) -> Side:
        """Warm up a variant, and compare its coefficients if it changes more than the grouping of rows."""
        side = Side(self.subject, variant.changes, self.piece_seconds)
        check(side.not_compiled is None, f"the model cannot be compiled: {side.not_compiled}")
        if variant.kind not in ("batch_size", "workers"):
            batch = replace(self.batch, labels=self.reference.labels)
            side.error = difference(side.explain(batch, self.present.samples), self.reference)
        return side

    def _judged(self, outcome: Outcome, side: Side, before: Sequence[Piece], after: Sequence[Piece]) -> Outcome:
        gain = Quantiles.of([one.an_image / other.an_image for one, other in zip(before, after, strict=True)])
        error, top5 = side.error or (None, None)
        verdict = judged(gain, noise_of(before))
        return replace(outcome, verdict=verdict, gain=gain, error=error, top5=top5, once=side.compile_seconds)

    def _try_workers(self) -> None:
        """Try worker processes if reading and segmenting on the CPU slow the run down."""
        if "workers" not in self.kinds:
            return
        stages, now, cores = self._stages(), self.subject.data.workers, os.cpu_count() or 1
        on_gpu = on_device(self.present.explainer.segmenter, self.device) is not None
        theirs, total = stages["load"] + (0.0 if on_gpu else stages["segment"]), sum(stages.values())
        work = "reading takes" if on_gpu else "reading and segmenting take"
        reason, verdict = f"{work} {100 * theirs / total:.1f} % of the time", NOTHING
        if theirs / total >= WORTH - 1:
            if now < cores and total <= self.piece_seconds:
                needed = now * 2 if now else math.ceil(1.25 * theirs / (total - theirs))
                self._round({PRESENT: self.present.run}, [workers(min(max(needed, 1), cores))])
                return
            if now >= cores:
                reason += f", and there are as many workers as cores, {cores}"
            else:
                reason += f"; --seconds {math.ceil(total * TURNS)} measures what workers bring"
                verdict = NOT_TRIED
        self.outcomes.append(Outcome("workers", "workers", "", verdict, reason=reason))

    def _try_together(self) -> None:
        """Try the best variant of each faster kind, all together."""
        best = {variant.kind: variant for _, variant in sorted(self.won, key=lambda one: one[0])}
        if best.keys() & {"precision", "compile"}:
            best.pop("batch_size", None)  # the size was found for the unchanged model
        if len(best) > 1:
            self._round({PRESENT: self.present.run}, [together([best[kind] for kind in KINDS if kind in best])])

    def _stages(self) -> dict[str, float]:
        """Seconds per image by stage, over all pieces with separate stages."""
        pieces = self.pieces.get(APART, self.pieces[PRESENT])
        return {stage: statistics.fmean(piece.stages[stage] for piece in pieces) for stage in STAGES}

    def _result(self, layout: str, rates: dict[int, float], best: int, most: int | None) -> Result:
        present, many, lime = self.present, self.subject.images, self.subject.lime
        images, alone = ([piece.an_image for piece in self.pieces[name]] for name in (PRESENT, BARE))
        in_turn = zip(alone, images, strict=False)  # the present settings have further pieces from later rounds
        stages = self._stages()
        return Result(
            subject=self.subject.about,
            machine=machine(self.device),
            settings={
                "n_samples": self.s,
                "precision": lime["precision"],
                "batch_size": lime["batch_size"],
                "rows": present.b,
                "workers": self.subject.data.workers,
                "piece": {"images": present.images, "samples": present.samples},
                "checked": {"images": len(self.batch.images), "samples": present.samples},
            },
            images_per_s=Quantiles.of([1 / one for one in images]),
            forwards_per_s=Quantiles.of([self.s / one for one in images]),
            bare=layout,
            bare_forwards_per_s=Quantiles.of([self.s / one for one in alone]),
            efficiency=Quantiles.of([one / whole for one, whole in in_turn]),
            stages=stages,
            an_image=sum(stages.values()),
            memory=most,
            batch_rates=rates,
            best_batch=best,
            whole_images=many,
            whole_seconds=None if many is None else Quantiles.of([many * one for one in images]),
            outcomes=self.outcomes,
            notes=self._notes(),
            pieces=self.pieces,
        )

    def _notes(self) -> list[str]:
        """List limits of these numbers."""
        notes, present, noise = [], self.present, noise_of(self.pieces[PRESENT])
        if noise > UNSTEADY:
            notes.append(
                f"this machine is unsteady: the time of the same work varies by x {noise:.2f} from turn to turn; "
                "smaller gains do not count"
            )
        if present.samples < self.s:
            notes.append(
                f"timed with {present.samples:,} of the {self.s:,} samples of an image; the time of forwards is scaled up, "
                "the time of work done once per image is not"
            )
        if present.ahead:
            notes.append("these times exclude reading: explaining an image takes so long that workers surely keep up")
        if self.subject.images is not None and self.subject.read > len(self.subject.items):
            notes.append("images were read more than once, the second time from memory: a first reading may be slower")
        if present.unreadable:
            name, why = next(iter(present.unreadable.items()))
            count = f"{len(present.unreadable):,} images"
            notes.append(f"{count} could not be read and are left out, such as {name!r}: {why}")
        return notes


def judged(gain: Quantiles, noise: float) -> str:
    """Judge a gain: within the noise, or with quantiles on both sides of 1, it is unclear."""
    if gain.low > 1 and gain.median >= max(WORTH, noise):
        return FASTER
    if gain.high < 1 and gain.median <= 1 / max(WORTH, noise):
        return SLOWER
    return UNCLEAR if gain.median >= WORTH or gain.high > UNSTEADY else NOTHING


def noise_of(pieces: Sequence[Piece]) -> float:
    """Median ratio of a side's times in two successive turns, at least 1."""
    times = [piece.an_image for piece in pieces]
    return statistics.median(max(before / after, after / before) for before, after in pairwise(times))


def difference(found: Explanations, reference: Explanations) -> tuple[float, float]:
    """For the most probable class: the largest difference, relative to an image's largest coefficient, and the common top 5."""
    ours, theirs = found.coefficients[:, 0], reference.coefficients[:, 0]
    bad = int(found.non_finite.sum())
    check(not bad and bool(ours.isfinite().all()), f"the model's output was NaN or infinite for {bad} samples")
    largest = theirs.abs().amax(1)
    error = ((ours - theirs).abs().amax(1) / largest.where(largest > 0, 1.0)).max()
    shares = []
    for i, count in enumerate(reference.counts.tolist()):
        some = min(STRONGEST, count)
        both = [set(part[i, :count].abs().topk(some).indices.tolist()) for part in (ours, theirs)]
        shares.append(len(both[0] & both[1]) / some)
    return float(error), statistics.fmean(shares)


def _piece(bare: Bare, batches: int, s: int) -> Piece:
    """Time batches of the bare model, for about as long as a piece of a side."""
    forwards = batches * len(bare.rows)
    seconds = bare.forward(forwards).wall
    return Piece(0, forwards, seconds, seconds / forwards * s, {})
