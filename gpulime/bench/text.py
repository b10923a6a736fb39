"""Print a result as lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from gpulime.bench.clock import Quantiles
from gpulime.bench.result import FAILED, FASTER, NOT_TRIED, NOTHING, SLOWER, UNCLEAR, Outcome, Result
from gpulime.bench.stages import STAGES
from gpulime.runs.progress.status import duration

STAGE_WORDS = {
    "load": "load            read, decode, resize",
    "segment": "segment",
    "prepare": "prepare         to the device, fill colours, normalisation",
    "masking": "masks, masking  masks and masked rows",
    "model": "model           its forwards",
    "fit": "fit             the surrogates",
    "rest": "the rest        the queue, labels, rows of the store",
}
HEADINGS = {
    FASTER: "Faster here",
    UNCLEAR: "Unclear: try again with more --seconds, and with nothing else running",
    SLOWER: "Slower",
    NOTHING: "No difference",
    FAILED: "Failed",
    NOT_TRIED: "Not tried",
}
WIDTH = 110
LEAST_ERROR = 1e-5  # smaller errors are rounding


def text(result: Result) -> str:
    """Text of a result; the advice comes last."""
    return "\n".join([*_subject(result), "", *_rates(result), "", *_stages(result), "", *_facts(result), *_advice(result)])


def _subject(result: Result) -> Iterator[str]:
    settings, machine = result.settings, result.machine
    threads = "" if machine["kind"] == "cuda" else f", {machine['threads']} threads"
    found = " (found by 'auto')" if settings["batch_size"] == "auto" else ""
    yield f"model     {result.subject['model']}"
    yield f"images    {result.subject['images']}"
    yield (
        f"settings  {settings['n_samples']:,} samples an image, {settings['precision']}, "
        f"model batches of {settings['rows']} rows{found}, {settings['workers']} workers"
    )
    yield f"machine   {machine['device']}{threads}, torch {machine['torch']}"


def _rates(result: Result) -> Iterator[str]:
    yield f"{'':30}{'20 %':>10}{'median':>10}{'80 %':>10}"
    rows = {
        "run         images/s": result.images_per_s,
        "            forwards/s": result.forwards_per_s,
        "bare model  forwards/s": result.bare_forwards_per_s,
        "efficiency": result.efficiency,
    }
    for name, values in rows.items():
        yield f"{name:30}" + "".join(f"{_number(value):>10}" for value in values)
    yield "  efficiency is the bare model's time over the run's for the same forwards; at 1, explaining adds no time."
    yield f"  The bare model has batches of the same size and precision, in the fastest layout: {result.bare}."


def _stages(result: Result) -> Iterator[str]:
    yield f"{'where the time goes':60}{'ms an image':>14}{'share':>10}"
    for stage in STAGES:
        seconds = result.stages[stage]
        yield f"  {STAGE_WORDS[stage]:58}{1000 * seconds:>14,.1f}{100 * seconds / result.an_image:>8.1f} %"
    yield f"  {'all':58}{1000 * result.an_image:>14,.1f}{100:>8.1f} %"


def _facts(result: Result) -> Iterator[str]:
    if result.memory is not None:
        where = "on the GPU" if result.machine["kind"] == "cuda" else "of the whole process, including Python and libraries"
        yield f"{'peak memory':20}{result.memory / 1e6:,.0f} MB {where}"
    rates = ", ".join(f"{b}: {_number(rate)}" for b, rate in result.batch_rates.items())
    yield f"{'best batch size':20}{result.best_batch} rows; forwards/s of the model's fastest calls by rows: {rates}"
    if result.whole_images is not None and result.whole_seconds is not None:
        low, median, high = (duration(seconds) for seconds in result.whole_seconds)
        forwards = result.whole_images * result.settings["n_samples"]
        yield f"{'the whole set':20}{median} ({low} to {high}): {_count(result.whole_images)}, {forwards:,} forwards"
    else:
        each = duration(1000 / result.images_per_s.median)
        yield f"{'1,000 images':20}{each}, without reading files: the images are random"
    for note in result.notes:
        yield from textwrap.wrap(note, WIDTH, initial_indent=f"{'note':20}", subsequent_indent=" " * 20)


def _advice(result: Result) -> Iterator[str]:
    for verdict, heading in HEADINGS.items():
        some = [outcome for outcome in result.outcomes if outcome.verdict == verdict]
        if verdict in (FASTER, SLOWER):
            some.sort(key=lambda outcome: -(outcome.gain or Quantiles(1, 1, 1)).median)
        if some:
            yield from ("", heading)
        for outcome in some:
            yield from _outcome(outcome)
    if result.outcomes and not any(outcome.verdict == FASTER for outcome in result.outcomes):
        yield from ("", "No variant is surely faster: keep the settings.")


def _outcome(outcome: Outcome) -> Iterator[str]:
    """The gain, or the reason for having none; below it the action, its error and its compile time."""
    gain = "" if outcome.gain is None else "x {1:.2f}   ({0:.2f} to {2:.2f})".format(*outcome.gain)
    first = f"  {outcome.name:20}"
    yield from textwrap.wrap(gain or str(outcome.reason), WIDTH, initial_indent=first, subsequent_indent=" " * 22)
    if outcome.verdict == FASTER:
        yield from textwrap.wrap(outcome.action, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if outcome.error is not None and outcome.top5 is not None:
        differ = f"up to {100 * outcome.error:.2g}" if outcome.error > LEAST_ERROR else f"less than {100 * LEAST_ERROR:g}"
        same = f"{100 * outcome.top5:.0f} % of the 5 strongest segments stay"
        yield f"      coefficients differ by {differ} % of the largest; {same}"
    if outcome.once is not None:
        yield f"      compiling takes {duration(outcome.once)} at the start of a process"


def _number(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _count(images: int) -> str:
    return f"{images:,} image{'s' * (images != 1)}"
