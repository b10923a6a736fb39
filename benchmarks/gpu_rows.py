"""Rows of results/gpu/<device>.csv, and the clock that fills them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from statistics import quantiles

import torch

from benchmarks.rows import Placed, keep, results_file, where
from gpulime.device import cupy_wheels

CYCLES = 2e9  # of a GPU in a second, about


@dataclass(frozen=True)
class Row(Placed):
    """One side of an entry; the file holds it as text, empty where there is nothing.

    ``ms`` is the median of one call, ``q20`` and ``q80`` its quantiles. ``rate`` is in ``unit`` a second. ``bytes`` are those
    that must be moved at the least, ``gb_s`` what comes of them, ``at_most`` the rate that the device's memory would allow for
    them, as fast as it takes a plain fill. ``ratio`` is what ``bound`` speaks of. ``error`` is the greatest difference from the
    reference, which may not pass ``error_limit``: of an engine's coefficients, as a part of the largest, of a compiled model's
    probabilities, as a part of themselves, or of a kernel's values. It is empty where a side finds nothing: a bare model, a
    reference itself. ``reason`` says why there is no time, or what else is wrong.
    """

    entry: str
    side: str
    ms: str = ""
    q20: str = ""
    q80: str = ""
    rate: str = ""
    unit: str = ""
    bytes: str = ""
    gb_s: str = ""
    at_most: str = ""
    ratio: str = ""
    bound: str = ""
    ok: str = ""
    error: str = ""
    error_limit: str = ""
    reason: str = ""
    repeats: str = ""
    cupy: str = ""

    def __str__(self) -> str:
        said = {
            "": f"{self.entry}, {self.side}:",
            " ms": self.ms,
            f" {self.unit}/s": self.rate,
            " GB/s": self.gb_s,
            f" {self.unit}/s at most by its bytes": self.at_most,
            f" of what is {self.bound or 'best'}": self.ratio,
        }
        error = f"error {self.error} (at most {self.error_limit})" * bool(self.error)
        verdict = {"yes": "ok", "no": f"FAILED {self.reason}".rstrip(), "": ""}[self.ok]
        return " ".join(filter(None, [*(f"{value}{unit}" for unit, value in said.items() if value), error, verdict]))


@dataclass(frozen=True)
class Times:
    """Seconds of single calls."""

    seconds: tuple[float, ...]

    @cached_property
    def fifths(self) -> tuple[float, float, float]:
        """The quantiles of 20, 50 and 80 %."""
        cuts = quantiles(self.seconds, n=10, method="inclusive") if len(self.seconds) > 1 else [self.seconds[0]] * 9
        return cuts[1], cuts[4], cuts[7]

    @property
    def median(self) -> float:
        return self.fifths[1]

    def row(self, entry: str, side: str, bench: Bench, count: float = 0, unit: str = "", moved: int = 0) -> Row:
        """A row of them; ``count`` of ``unit`` and ``moved`` bytes are those of one call."""
        low, middle, high = (f"{1000 * second:.4g}" for second in self.fifths)
        row = Row(entry, side, middle, low, high, repeats=str(len(self.seconds)), **bench.place)
        if count:
            row = replace(row, rate=f"{count / self.median:.5g}", unit=unit)
        if moved:
            at_most = f"{count * bench.bandwidth / moved:.5g}"
            row = replace(row, bytes=str(moved), gb_s=f"{moved / self.median / 1e9:.5g}", at_most=at_most)
        return row


class Bench:
    """The device that is measured, and how.

    ``tiny``: problems so small that a CPU has them done at once; their times say nothing. ``keeps``: rows are kept, those of
    the instruments that run as stages too.
    """

    def __init__(self, device: torch.device, tiny: bool = False, keeps: bool = False) -> None:
        self.device, self.tiny, self.keeps = device, tiny, keeps

    @cached_property
    def place(self) -> dict[str, str]:
        """The columns that say where and when a row was measured."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "none"
        return {**where(), "device": gpu, "cupy": ", ".join(f"{name} {found}" for name, found in cupy_wheels().items())}

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second that a fill of much memory writes."""
        memory = torch.empty(2**20 if self.tiny else 2**30, dtype=torch.uint8, device=self.device)
        return memory.nbytes / self.times(memory.zero_).median

    def times(self, call: Callable[[], object], seconds: float = 1.0, most: int = 200, ahead: bool = True) -> Times:
        """Call for about that long, after a few calls to warm up; on a GPU its own clock tells, without waiting in between.

        ``ahead``: the GPU sleeps first, for as long as the calls take to launch, so that what is measured is its work alone.
        """
        for _ in range(1 if self.tiny else 3):
            call()
        if self.device.type != "cuda":
            return Times((_wall(call),))
        torch.cuda.synchronize(self.device)
        repeats = max(5, min(most, int(seconds / max(1e-6, _wall(lambda: (call(), torch.cuda.synchronize(self.device)))))))
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        if ahead:
            torch.cuda._sleep(int(repeats * _wall(lambda: (call(), torch.cuda.synchronize(self.device))) * CYCLES))
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        torch.cuda.synchronize(self.device)
        return Times(tuple(a.elapsed_time(b) / 1000 for a, b in pairwise(marks)))

    def verdict(self, entry: str, side: str, reason: str) -> Row:
        """A row without a time; ``reason`` says what is wrong, empty where nothing is."""
        return Row(entry, side, ok="no" if reason else "yes", reason=reason, **self.place)


def kept(row: Row, ratio: float, bound: str, holds: bool | None = None) -> Row:
    """A row with what its bound speaks of, and whether it holds; None where nothing is asked of it."""
    return replace(row, ratio=f"{ratio:.4g}", bound=bound, ok={True: "yes", False: "no", None: ""}[holds])


def equal(row: Row) -> Row:
    """The row of a side that finds, on every value, what the reference finds."""
    return replace(row, error="0", error_limit="0")


def save(rows: Sequence[Row], tiny: bool = False) -> None:
    """Put rows in the place of earlier ones of the same entry and side."""
    keep(results_file(rows[0].device, "gpu", tiny), rows, lambda row: (row.entry, row.side))


def _wall(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
