"""The result of a measurement: saved as JSON, printed as lines for a terminal."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpulime.bench.clock import Quantiles
from gpulime.bench.stages import Piece
from gpulime.runs.progress.terminal import duration

FASTER, UNCLEAR, SLOWER, NOTHING, FAILED, NOT_TRIED = "faster", "unclear", "slower", "nothing", "failed", "not tried"
HEADINGS = {
    FASTER: "Faster here",
    UNCLEAR: "Unclear: try again with more --seconds, and with nothing else running",
    SLOWER: "Slower",
    NOTHING: "No difference",
    FAILED: "Failed",
    NOT_TRIED: "Not tried",
}
STAGE_WORDS = {
    "load": "load            read, decode, resize",
    "segment": "segment",
    "prepare": "prepare         to the device, fill colours, normalisation",
    "masking": "masks, masking  masks and masked rows",
    "model": "model           its forwards",
    "fit": "fit             the surrogates",
    "rest": "the rest        the queue, labels, rows of the store",
}
WIDTH = 110
LEAST_ERROR = 1e-5  # smaller errors are rounding


@dataclass(frozen=True)
class Outcome:
    """The outcome of a variant: a verdict of `HEADINGS`, and the gain over the present settings or the reason for having none.

    ``error`` is the largest difference of a coefficient from the present settings', relative to the image's largest, and
    ``top5`` the share of the five strongest segments that both have, for the most probable class. ``once`` are seconds of
    compiling.
    """

    kind: str
    name: str
    action: str
    verdict: str
    gain: Quantiles | None = None
    error: float | None = None
    top5: float | None = None
    reason: str | None = None
    once: float | None = None


@dataclass(frozen=True)
class Result:
    """All numbers; times in seconds, memory in bytes.

    Attributes
    ----------
    images_per_s, forwards_per_s : of a run with the present settings
    bare_forwards_per_s : of the model alone, in the layout ``bare``
    efficiency : the bare forwards' time over the run's, for the same forwards
    stages : seconds an image by stage, which add up to ``an_image``
    memory : the peak of the run; None if unknown
    batch_rates, best_batch : forwards per second of the model by rows of a batch; the smallest batch about as fast as any
    whole_images, whole_seconds : of the whole set; None for random images
    notes : limits of these numbers
    """

    subject: dict[str, str]
    machine: dict[str, Any]
    settings: dict[str, Any]
    images_per_s: Quantiles
    forwards_per_s: Quantiles
    bare: str
    bare_forwards_per_s: Quantiles
    efficiency: Quantiles
    stages: dict[str, float]
    an_image: float
    memory: int | None
    batch_rates: dict[int, float]
    best_batch: int
    whole_images: int | None
    whole_seconds: Quantiles | None
    outcomes: list[Outcome]
    notes: list[str]
    pieces: dict[str, list[Piece]] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write it as JSON; quantiles are objects with their names as keys."""
        spread = {name: value._asdict() for name, value in vars(self).items() if isinstance(value, Quantiles)}
        plain = dataclasses.asdict(self) | spread
        for outcome in plain["outcomes"]:
            outcome["gain"] = outcome["gain"] and outcome["gain"]._asdict()
        file.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        lines = [*self._subject(), "", *self._rates(), "", *self._stages(), "", *self._facts(), *self._advice()]
        return "\n".join(lines)

    def _subject(self) -> Iterator[str]:
        settings, machine = self.settings, self.machine
        threads = "" if machine["kind"] == "cuda" else f", {machine['threads']} threads"
        found = " (found by 'auto')" if settings["batch_size"] == "auto" else ""
        yield f"model     {self.subject['model']}"
        yield f"images    {self.subject['images']}"
        yield (
            f"settings  {settings['n_samples']:,} samples an image, {settings['precision']}, "
            f"model batches of {settings['rows']} rows{found}, {settings['workers']} worker{'s' * (settings['workers'] != 1)}"
        )
        yield f"machine   {machine['device']}{threads}, torch {machine['torch']}"

    def _rates(self) -> Iterator[str]:
        yield f"{'':30}{'20 %':>10}{'median':>10}{'80 %':>10}"
        rows = {
            "run         images/s": self.images_per_s,
            "            forwards/s": self.forwards_per_s,
            "bare model  forwards/s": self.bare_forwards_per_s,
            "efficiency": self.efficiency,
        }
        for name, values in rows.items():
            yield f"{name:30}" + "".join(f"{_number(value):>10}" for value in values)
        yield "  efficiency is the bare model's time over the run's for the same forwards; at 1, explaining adds no time."
        yield f"  The bare model has batches of the same size and precision, in the fastest layout: {self.bare}."

    def _stages(self) -> Iterator[str]:
        yield f"{'where the time goes':60}{'ms an image':>14}{'share':>10}"
        for stage, words in STAGE_WORDS.items():
            seconds = self.stages[stage]
            yield f"  {words:58}{1000 * seconds:>14,.1f}{100 * seconds / self.an_image:>8.1f} %"
        yield f"  {'all':58}{1000 * self.an_image:>14,.1f}{100:>8.1f} %"

    def _facts(self) -> Iterator[str]:
        if self.memory is not None:
            where = "on the GPU" if self.machine["kind"] == "cuda" else "of the whole process, including Python and libraries"
            yield f"{'peak memory':20}{self.memory / 1e6:,.0f} MB {where}"
        rates = ", ".join(f"{b}: {_number(rate)}" for b, rate in self.batch_rates.items())
        yield f"{'best batch size':20}{self.best_batch} rows; forwards/s of the model's fastest calls by rows: {rates}"
        if self.whole_images is not None and self.whole_seconds is not None:
            low, median, high = (duration(seconds) for seconds in self.whole_seconds)
            images = f"{self.whole_images:,} image{'s' * (self.whole_images != 1)}"
            forwards = self.whole_images * self.settings["n_samples"]
            yield f"{'the whole set':20}{median} ({low} to {high}): {images}, {forwards:,} forwards"
        else:
            each = duration(1000 / self.images_per_s.median)
            yield f"{'1,000 images':20}{each}, without reading files: the images are random"
        for note in self.notes:
            yield from _wrapped(note, f"{'note':20}", 20)

    def _advice(self) -> Iterator[str]:
        for verdict, heading in HEADINGS.items():
            some = [outcome for outcome in self.outcomes if outcome.verdict == verdict]
            if verdict in (FASTER, SLOWER):
                some.sort(key=lambda outcome: -(outcome.gain or Quantiles(1, 1, 1)).median)
            if some:
                yield from ("", heading)
            for outcome in some:
                yield from _lines_of(outcome)
        if self.outcomes and not any(outcome.verdict == FASTER for outcome in self.outcomes):
            yield from ("", "No variant is surely faster: keep the settings.")


def _lines_of(outcome: Outcome) -> Iterator[str]:
    """The gain, or the reason for having none; below it the action, its error and its compile time."""
    gain = "" if outcome.gain is None else "x {1:.2f}   ({0:.2f} to {2:.2f})".format(*outcome.gain)
    yield from _wrapped(gain or str(outcome.reason), f"  {outcome.name:20}", 22)
    if outcome.verdict == FASTER:
        yield from _wrapped(outcome.action, " " * 6, 6)
    if outcome.error is not None and outcome.top5 is not None:
        differ = f"up to {100 * outcome.error:.2g}" if outcome.error > LEAST_ERROR else f"less than {100 * LEAST_ERROR:g}"
        same = f"{100 * outcome.top5:.0f} % of the 5 strongest segments stay"
        yield f"      coefficients differ by {differ} % of the largest; {same}"
    if outcome.once is not None:
        yield f"      compiling takes {duration(outcome.once)} at the start of a process"


def _wrapped(text: str, first: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * indent)


def _number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
