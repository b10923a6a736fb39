"""A dry run: what would be done, how many forwards that is, and about how long it takes, from a few images done for trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

from gpulime.runs.progress.exits import EndOfRunError
from gpulime.runs.progress.partition import Share
from gpulime.runs.progress.status import duration

SECONDS = 15.0  # that a trial takes, and longer until it has seen a few model batches
BATCHES = 6
WARM = 0.4  # of a trial, at its start: kernels are compiled there, the batch size is looked for, workers start


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes
    ----------
    images : those of the run; ``done`` have rows already, ``todo`` are this process's to do now
    again : how many of these have an error row, and are tried again
    n_samples : forwards for each
    rate : forwards per second, reading, segmentation and fit among them; None where no image could be tried
    b : rows of a model batch at the end of the trial
    """

    images: int
    done: int
    todo: int
    again: int
    n_samples: int
    share: Share
    rate: float | None
    b: int

    @property
    def forwards(self) -> int:
        """What the model will see."""
        return self.todo * self.n_samples

    @property
    def seconds(self) -> float | None:
        """How long that takes at the trial's rate."""
        return None if self.rate is None else self.forwards / self.rate

    def __str__(self) -> str:
        part = "" if self.share.is_all else f", {self.share}"
        again = f" ({self.again:,} of them failed before)" if self.again else ""
        lines = [
            f"{self.images:,} images{part}; {self.done:,} done already; {self.todo:,} to do{again}",
            f"{self.forwards:,} forwards: {self.todo:,} images x {self.n_samples:,} samples",
        ]
        if self.seconds is not None:
            lines.append(
                f"about {duration(self.seconds)}, at {self.rate:,.0f} forwards/s in a trial with model batches of {self.b}"
            )
        elif self.todo:
            lines.append("no time can be told: none of the images that were tried could be explained")
        return "\n".join([*lines, "nothing has been written"])


def rate(
    explain: Callable[[Callable[[int], None]], Generator[object, None, None]], synchronize: Callable[[], None]
) -> tuple[float | None, int]:
    """Forwards per second of a short trial, and the rows of its last model batch.

    Parameters
    ----------
    explain : callable (after each model batch of b rows) -> what comes of the images
        Explains images as a run does; it is ended when enough has been seen.
    synchronize : callable
        Waits until the device has done what it was asked for.
    """
    ticks = [(time.perf_counter(), 0)]  # when so many rows had been seen

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
    """The trial has seen what it needs; no fault of an image, so that none is looked for."""
