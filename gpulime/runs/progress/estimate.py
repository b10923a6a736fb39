"""A dry run: images, forwards and estimated time, from a trial with a few images."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

from gpulime.engine.quality import LIME
from gpulime.runs.progress.exits import EndOfRunError
from gpulime.runs.progress.partition import Share
from gpulime.runs.progress.terminal import counted, duration

SECONDS = 15.0  # of a trial, or longer until it has seen a few model batches
BATCHES = 6
WARM = 0.4  # of warm-up at its start: kernels are compiled, the batch size is searched, workers start


def work(images: int, n_samples: int, is_about: bool = False, one: str = "image", per_sample: float = 1.0) -> str:
    """Forwards of some inputs, and those that lime's own settings would take; ``per_sample`` is below 1 if these are shared."""
    about = "about " if is_about else ""
    forwards = round(images * n_samples * per_sample)
    line = f"{about}{forwards:,} forwards: {counted(images, one)} x {about}{n_samples:,} samples"
    if per_sample < 1:
        return f"{line}, shared; lime would take {images * n_samples:,}"
    of_lime = LIME.expected
    return line if n_samples == of_lime and not is_about else f"{line}; quality=lime would take {images * of_lime:,}"


@dataclass(frozen=True)
class Plan:
    """The work of a run that has not started."""

    images: int  # of the run
    done: int  # have rows already
    todo: int  # are left for this process
    again: int  # of ``todo`` have an error row, and are retried
    n_samples: int  # of an image; the mean of the trial if ``is_about``
    is_about: bool
    share: Share
    rate: float | None  # forwards per second, including reading, segmentation and fit; None if no image could be tried
    b: int  # rows of a model batch at the end of the trial
    one: str = "image"  # the kind of inputs
    per_sample: float = 1.0  # forwards of an input for each of its samples

    def __str__(self) -> str:
        forwards = self.todo * self.n_samples * self.per_sample
        part = "" if self.share.is_all else f", {self.share}"
        again = f" ({self.again:,} of them failed before)" if self.again else ""
        lines = [
            f"{counted(self.images, self.one)}{part}; {self.done:,} done already; {self.todo:,} to do{again}",
            work(self.todo, self.n_samples, self.is_about, self.one, self.per_sample),
        ]
        if self.rate is not None:
            time_ = duration(forwards / self.rate)
            lines.append(f"about {time_}, at {self.rate:,.0f} forwards/s in a trial with model batches of {self.b}")
        elif self.todo:
            lines.append(f"no time can be told: none of the {self.one}s that were tried could be explained")
        return "\n".join([*lines, "nothing has been written"])


def rate(
    explain: Callable[[Callable[[int], None]], Generator[object, None, None]], synchronize: Callable[[], None]
) -> tuple[float | None, int]:
    """Forwards per second of a short trial, and the rows of its last model batch.

    ``explain`` explains images as a run does, calls its argument after each model batch of b rows, and is stopped at the end;
    ``synchronize`` waits for the device.
    """
    ticks = [(time.perf_counter(), 0)]  # time at which this many rows had been seen

    def after_model_batch(b: int) -> None:
        synchronize()
        ticks.append((time.perf_counter(), ticks[-1][1] + b))
        if ticks[-1][0] - ticks[0][0] >= SECONDS and len(ticks) > BATCHES:
            raise _EnoughError

    try:
        with closing(explain(after_model_batch)) as rows:
            for _ in rows:
                pass
        ticks.append((time.perf_counter(), ticks[-1][1]))  # the last fit
    except _EnoughError:
        pass
    end, total = ticks[-1]
    batches = [after - before for (_, before), (_, after) in pairwise(ticks) if after > before]
    if not batches:
        return None, 0
    warm = [(moment, seen) for moment, seen in ticks if moment - ticks[0][0] >= WARM * (end - ticks[0][0]) and seen < total]
    moment, seen = warm[0] if warm else ticks[0]
    return (total - seen) / (end - moment), batches[-1]


class _EnoughError(EndOfRunError):
    """The end of a trial; not an image's failure, so no image is isolated."""
