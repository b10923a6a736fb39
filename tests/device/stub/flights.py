"""Flights of the explainer on the stub of CUDA: calls and the host's time, by parts.

Started by test_stub.py and benchmarks.host_time with the environment of `library.environment`. Each line of standard input is
a question in JSON: the settings of a case, and ``ask``, which is "calls", "times" or "profile". The answer is a line of JSON.
"""

from __future__ import annotations

import cProfile
import gc
import io
import json
import pstats
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import gpulime
from gpulime.segments import Grid, Slic
from tests.device.stub import calls

N, S, B, SIDE, CLASSES = 16, 1000, 500, 224, 1000
REPEATS = 5  # flights that a question about times takes
ROWS, COLUMNS = 7, 7  # of the grid; slic gives as many segments here
SEGMENTS = {"grid": Grid(ROWS, COLUMNS), "slic": Slic(n_segments=ROWS * COLUMNS)}


class Model(nn.Module):
    """A model with the modules and weights of a ResNet-50, whose outputs take no work; each call is looked at."""

    def __init__(self, b: int) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(53)]
        self.layers = nn.Sequential(*layers)
        self.cuda().eval()
        self.outputs = torch.empty(b, CLASSES, device="cuda")
        self.look: Callable[[], Any] = calls.counts
        self.seen: list[Any] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.seen.append(self.look())
        return self.outputs[: len(rows)]


class Seen(NamedTuple):
    """Counts or times at the turns of a flight; ``forwards`` at the start of each."""

    first: Any
    prepared: Any
    forwards: list[Any]
    fitted: Any
    fetched: Any


class Case:
    """An explainer with the same images for each flight, the first of which has passed."""

    def __init__(
        self, segments: str, repeats: int = REPEATS, n: int = N, side: int = SIDE, b: int = B, **settings: Any
    ) -> None:
        self.repeats = repeats
        self.model = Model(b)
        settings = {"n_samples": None if "quality" in settings else S, "mean": 0.5, "std": 0.5, **settings}
        self.explainer = gpulime.Explainer(self.model, segments=SEGMENTS[segments], batch_size=b, **settings)
        self.batch = gpulime.Batch(torch.zeros(n, 3, side, side, dtype=torch.uint8))
        k = ROWS * COLUMNS
        calls.answer([0, k - 1, *[k] * n], [0, k - 1, k])  # lowest and highest id, and segments: now of each image
        self.first = self.flight(calls.counts)

    def flight(self, look: Callable[[], Any]) -> Seen:
        """Explain the images and look at each turn."""
        gc.collect()
        self.model.look, self.model.seen = look, []
        first = look()
        flights = list(self.explainer.prepare(self.batch))
        prepared = look()
        queue = self.explainer.queue()
        results = [one for flight in flights for one in queue.put(flight)] + list(queue.finish())
        fitted = look()
        [fetched] = [one.fetching()() for one in results]  # as in a run
        assert fetched.coefficients.shape == (len(self.batch), 5, ROWS * COLUMNS)
        return Seen(first, prepared, self.model.seen, fitted, look())

    def calls(self) -> dict[str, Any]:
        """Count launches by parts, waits and allocations."""
        seen = self.flight(calls.counts)
        return {
            "prepare": calls.launches(seen.prepared - seen.first),
            "flight": calls.launches(seen.fitted - seen.prepared),
            "batch": max(calls.launches(later - one) for one, later in pairwise(seen.forwards[1:])),
            "waits": calls.waits(seen.fitted - seen.prepared),
            "waits of fetching": calls.waits(seen.fetched - seen.fitted),
            "allocations": calls.allocations(seen.fetched - seen.first),
            "allocations of the first": calls.allocations(self.first.fetched - self.first.first),
        }

    def times(self) -> dict[str, float]:
        """Milliseconds of the host; the fit is what follows the last forward.

        They are the least of several flights: other work on this machine only adds to them.
        """
        flights = [self.flight(time.thread_time) for _ in range(self.repeats)]
        parts = {
            "prepare": [seen.prepared - seen.first for seen in flights],
            "further model batch": [later - one for seen in flights for one, later in pairwise(seen.forwards[1:])],
            "fit": [seen.fitted - seen.forwards[-1] for seen in flights],
            "fetch": [seen.fetched - seen.fitted for seen in flights],
            "fit and fetch": [seen.fetched - seen.forwards[-1] for seen in flights],
        }
        return {name: 1000 * min(seconds) for name, seconds in parts.items()}

    def profile(self) -> str:
        """The functions in which the host spends most time."""
        text, profiler = io.StringIO(), cProfile.Profile()
        for _ in range(10):
            profiler.runcall(self.flight, lambda: None)
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(40)
        return text.getvalue()


def main() -> None:
    """Answer until standard input ends."""
    warnings.simplefilter("ignore")
    gc.freeze()  # PyTorch's own objects, which take the collector most of its time
    cases: dict[str, Case] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        ask, name = asked.pop("ask"), json.dumps(asked)
        if name not in cases:
            cases[name] = Case(**asked)
        print(json.dumps(getattr(cases[name], ask)()), flush=True)


if __name__ == "__main__":
    main()
