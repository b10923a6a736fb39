"""``python -m benchmarks.convergence.cost [--save]``: the time of drawing designs and of estimating, without a model.

Bounds are those of a CPU with two cores. The flops of an estimate stand beside those of ResNet-50 for the same samples.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rows import columns, parser, save, where, yes
from gpulime.engine import gaussian_process, pairs
from gpulime.engine.designs import DESIGNS
from gpulime.engine.rounds import ENTRIES
from gpulime.engine.settings import Settings

N, L, K, S, CLASSES = 64, 5, 60, 256, 1000
TOGETHER = ENTRIES["cpu"] // (S + 1) ** 2  # inputs of an estimate, as in the engine
DRAWN_K, DRAWN_S = 100, 1000
RESNET50 = 8.2e9  # flops of a forward at 224 x 224
TURNS = 5
DRAW = 0.005  # seconds of an input
ESTIMATE = {"identity": 1.2, "logit": 3.0, "auto": 4.2}  # seconds of N inputs


class Row(columns("entry seconds bound ok share_of_resnet50")):
    """The best of some turns in seconds, its bound, and the share of the flops of ResNet-50 with as many samples."""

    FOLDER = "convergence/cost"
    KEY = ("entry",)


def drawing(name: str) -> Callable[[], object]:
    """Draw a design for N inputs."""
    counts, keys, design = torch.full((N,), DRAWN_K), torch.arange(N), DESIGNS[name](0, DRAWN_S)
    return lambda: design.draw(keys, counts, DRAWN_K, 0, DRAWN_S + 1)


def estimating(link: str) -> Callable[[], object]:
    """Estimate N inputs with outputs of a linear model behind a softmax, and noise."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.full((N,), K)
    masks = DESIGNS["blocks"](0, S).draw(torch.arange(N), counts, K, 0, S + 1)
    slopes = torch.randn(N, K, CLASSES, generator=generator) * (torch.rand(N, K, 1, generator=generator) < 0.3)
    scores = 0.3 * (2 * masks.float() - 1) @ slopes
    outputs = (scores + 0.2 * torch.randn(scores.shape, generator=generator)).softmax(-1)
    labels, settings = outputs[:, 0].topk(L).indices, Settings(estimator="gp", link=link)
    fresh = torch.ones_like(labels, dtype=torch.bool)

    def estimate() -> None:
        for start in range(0, N, TOGETHER):
            some = slice(start, start + TOGETHER)
            pairs.solved(masks[some], outputs[some], labels[some], fresh[some], counts[some], settings)

    return estimate


def flops(call: Callable[[], object], links: int) -> float:
    """Flops of the matrix products that PyTorch counts, and of the factorisations, which it does not."""
    with FlopCounterMode(display=False) as counter:
        call()
    m = min(S // 2, gaussian_process.SEARCHED)
    grid = len(gaussian_process.ODD) + len(gaussian_process.EVEN)
    factors = grid * m**3 / 3 + 2 * gaussian_process.KEPT * (S // 2) ** 3 * 4 / 3
    return counter.get_total_flops() + links * N * factors


def best(call: Callable[[], object]) -> float:
    """Wall time of the fastest turn."""
    call()
    times = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def row(entry: str, call: Callable[[], object], bound: float, share: str = "") -> Row:
    """Measure one entry."""
    seconds = best(call)
    found = Row(entry, f"{seconds:.4f}", f"{bound:.4f}", yes(seconds <= bound), share, **where())
    print(f"{entry}: {seconds:.3f} s, at most {bound:.3f}" + (f", {float(share):.2%} of ResNet-50's flops" if share else ""))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; status 1 if a bound is missed."""
    made = parser("convergence.cost", __doc__)
    given = made.parse_args(argv)
    rows = [
        row(f"draw {name}, {N} inputs, k = {DRAWN_K}, s = {DRAWN_S}", drawing(name), N * DRAW)
        for name in ("antithetic", "blocks")
    ]
    for link, bound in ESTIMATE.items():
        call, links = estimating(link), {"identity": 1, "logit": 2, "auto": 3}[link]
        share = flops(call, links) / (N * (S + 1) * RESNET50)
        rows.append(row(f"estimate {link}, {N} inputs, {L} labels, k = {K}, s = {S}", call, bound, f"{share:.5f}"))
    if given.save:
        save(rows)
    return int(any(one.ok != "yes" for one in rows))


if __name__ == "__main__":
    sys.exit(main())
