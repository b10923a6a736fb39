"""One point of `benchmarks.growth`: explaining with a model that costs nothing, its seconds and its memory."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import gpulime

STATUS = Path("/proc/self/status")
MB = 2**20


@dataclass(frozen=True)
class Point:
    """n images of size x size with k segments, s samples and l labels each, b rows of a model batch."""

    n: int = 8
    s: int = 1_000
    k: int = 50
    size: int = 64
    l: int = 1
    b: int = 64


@dataclass(frozen=True)
class Cost:
    """What a point takes.

    Attributes
    ----------
    seconds : the median of its repeats
    megabytes : the most that memory grew by, over what was held before the first
    """

    seconds: float
    megabytes: float

    def __str__(self) -> str:
        return f"{self.seconds:.4g} s, {self.megabytes:.4g} MB"


class Corner(nn.Module):
    """Classes from a few pixels: the same work for images of every size, and as good as none."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(48, classes, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, classes)."""
        return images[..., :4, :4].flatten(1) @ self.weights


def cost(point: Point, device: str, repeats: int, warm: bool = True) -> Cost:
    """Explain, in a process where nothing else has been; ``warm``: what is loaded and compiled once is not counted."""
    if warm:
        explained(replace(point, n=1, s=20, k=9, size=32, l=1), device)()
    explain = explained(point, device)
    seconds, before = [], reset(device)
    for _ in range(repeats):
        start = time.perf_counter()
        explain()
        seconds.append(time.perf_counter() - start)
    return Cost(statistics.median(seconds), peak(device) - before)


def explained(point: Point, device: str) -> Callable[[], object]:
    """A call that explains and gives everything back to the host."""
    images = torch.rand(point.n, 3, point.size, point.size, generator=torch.Generator().manual_seed(0)).to(device)
    pixels = point.size**2
    labels = (torch.arange(pixels, device=device) * point.k // pixels).view(1, point.size, point.size)
    wanted = torch.arange(point.l, device=device).expand(point.n, -1).contiguous()
    model = Corner(max(2, point.l)).to(device)
    explainer = gpulime.Explainer(model, point.s, batch_size=point.b, alpha=1.0)

    def explain() -> object:
        return explainer.explain(images, labels=wanted, segments=labels.expand(point.n, -1, -1)).cpu()

    return explain


def reset(device: str) -> float:
    """Begin to watch memory: what is held now, in MB."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MB
    Path("/proc/self/clear_refs").write_text("5")  # the highest is forgotten
    return resident("VmRSS")


def peak(device: str) -> float:
    """The most that was held since, in MB."""
    return torch.cuda.max_memory_allocated() / MB if device == "cuda" else resident("VmHWM")


def resident(which: str) -> float:
    """Of this process, as Linux tells, in MB; not getrusage, which a process inherits from the one that starts it."""
    found = re.search(rf"^{which}:\s*(\d+) kB", STATUS.read_text(), re.M)
    assert found
    return int(found[1]) / 1024
