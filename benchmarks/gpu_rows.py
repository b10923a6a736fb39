"""Rows of results/gpu/<device>.csv, and the clock that fills them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

import gpulime
from benchmarks.rows import columns, where, yes
from benchmarks.sides import BFLOAT16, Classifier, difference, masked_outputs, ridge, tolerance
from gpulime.bench.clock import Quantiles, timed
from gpulime.device import cupy_wheels

CYCLES = 2e9  # of a GPU in a second, about
BATCH = 250  # of the definition


COLUMNS = "entry side ms q20 q80 rate unit bytes gb_s at_most ratio bound ok error error_limit reason repeats cupy"


class Row(columns(COLUMNS)):
    """One side of an entry; the file holds it as text, empty if there is nothing.

    ``ms`` is the median of one call, ``q20`` and ``q80`` its quantiles. ``rate`` is in ``unit`` a second. ``bytes`` must be
    moved at least, ``gb_s`` follows from them, and ``at_most`` is the rate for them at the speed of a plain fill. ``ratio`` is
    the one that ``bound`` names. ``error`` is the largest difference from the reference, and may not exceed ``error_limit``: of
    an engine's coefficients, relative to the largest; of a compiled model's probabilities, relative to themselves; of a
    kernel's values. A bare model and a reference have none. ``reason``: why there is no time, or any other fault.
    """

    FOLDER = "gpu"

    def __str__(self) -> str:
        said = {
            "": f"{self.entry}, {self.side}:",
            " ms": self.ms,
            f" {self.unit}/s": self.rate,
            " GB/s": self.gb_s,
            f" {self.unit}/s at most by its bytes": self.at_most,
            f" of {self.bound or 'the best'}": self.ratio,
        }
        error = f"error {self.error} (at most {self.error_limit})" * bool(self.error)
        verdict = {"yes": "ok", "no": f"FAILED {self.reason}".rstrip(), "": ""}[self.ok]
        return " ".join(filter(None, [*(f"{value}{unit}" for unit, value in said.items() if value), error, verdict]))

    def kept(self, ratio: float, bound: str, holds: bool | None = None) -> Row:
        """The row with its ratio and bound; ``holds`` is None if nothing is required."""
        return replace(self, ratio=f"{ratio:.4g}", bound=bound, ok="" if holds is None else yes(holds))

    def erring(self, error: float, limit: float) -> Row:
        """The row with its error."""
        return replace(self, error=f"{error:.2g}", error_limit=f"{limit:.2g}")


class Bench:
    """A device. ``tiny``: problems so small that a CPU solves them at once; ``saves``: stages that are commands save rows."""

    def __init__(self, device: torch.device, tiny: bool = False, saves: bool = False) -> None:
        self.device, self.tiny, self.saves = device, tiny, saves
        self.samples = 60 if tiny else 1000

    @cached_property
    def place(self) -> dict[str, str]:
        """The columns that say where and when a row was measured."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "none"
        return {**where(), "device": gpu, "cupy": ", ".join(f"{name} {found}" for name, found in cupy_wheels().items())}

    @cached_property
    def bandwidth(self) -> float:
        """Bytes a second of a plain fill."""
        memory = torch.empty(2**20 if self.tiny else 2**30, dtype=torch.uint8, device=self.device)
        return memory.nbytes / Quantiles.of(self.times(memory.zero_)).median

    @cached_property
    def uncompiled(self) -> str:
        """The reason why nothing can be compiled for the device, such as a missing C compiler; empty if it can."""
        try:
            torch.compile(lambda x: x + 1)(torch.ones(3, device=self.device))
        except Exception as error:  # of any kind: Inductor's, Triton's, that of their C compiler
            return f"torch.compile fails: {type(error).__name__}: {error}".splitlines()[0]
        return ""

    def times(self, call: Callable[[], object], seconds: float = 1.0, most: int = 200, ahead: bool = True) -> tuple[float, ...]:
        """Seconds of single calls, after some to warm up; a GPU is timed by its own clock, without waiting in between.

        ``ahead``: the GPU sleeps first for as long as the calls take to launch, so that only its own work is timed.
        """
        for _ in range(1 if self.tiny else 3):
            call()
        one = timed(call, self.device).wall
        if self.device.type != "cuda":
            return (one,)
        repeats = 2 if self.tiny else max(5, min(most, int(seconds / max(1e-6, one))))
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        if ahead:
            torch.cuda._sleep(int(repeats * timed(call, self.device).wall * CYCLES))
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        torch.cuda.synchronize(self.device)
        return tuple(a.elapsed_time(b) / 1000 for a, b in pairwise(marks))

    def row(self, entry: str, side: str, times: tuple[float, ...], count: float = 0, unit: str = "", moved: int = 0) -> Row:
        """A row of times; ``count`` of ``unit`` and ``moved`` bytes are those of one call."""
        taken = Quantiles.of(times)
        low, middle, high = (f"{1000 * second:.4g}" for second in taken)
        row = Row(entry, side, middle, low, high, repeats=str(len(times)), **self.place)
        if count:
            row = replace(row, rate=f"{count / taken.median:.5g}", unit=unit)
        if moved:
            at_most = f"{count * self.bandwidth / moved:.5g}"
            row = replace(row, bytes=str(moved), gb_s=f"{moved / taken.median / 1e9:.5g}", at_most=at_most)
        return row

    def verdict(self, entry: str, side: str, reason: str = "") -> Row:
        """Make a row without a time; ``reason`` names the fault, and is empty if there is none."""
        return Row(entry, side, ok=yes(not reason), reason=reason, **self.place)

    def error(
        self, explained: gpulime.Explanations, image: Tensor, exact: Classifier, rounded: Classifier, s: int = 0
    ) -> tuple[float, float]:
        """The error of the first image's coefficients of its first label, and the largest allowed one.

        ``image`` (c, h, w) is the model's input, float32; ``exact`` is the model in float32, ``rounded`` the explained one.
        Masks are those of the engine's defaults and s samples.
        """
        labels, target, k = explained.segments[0].long(), int(explained.labels[0, 0]), int(explained.counts[0])
        s = s or self.samples
        masks = gpulime.masks.resolve("bernoulli", 0, s)(torch.tensor(0), torch.arange(s), torch.tensor(k), k)
        expected, same = (
            ridge(masks, masked_outputs(one, image, labels, target, masks, BATCH).double().numpy())[None]
            for one in (exact, rounded)
        )
        found = explained.coefficients[0, :1, :k].cpu().numpy()
        most = tolerance("cuda", "bfloat16", BFLOAT16, lambda: difference(same, expected)[0])
        return difference(found, expected)[0], most

    def wrong(self, entry: str, side: str, error: float, most: float) -> Row:
        """The row of a side whose error is too large: it gets no time."""
        reason = f"its coefficients are wrong by {error:.2g}, and may be by {most:.2g}"
        return self.verdict(entry, side, reason).erring(error, most)
