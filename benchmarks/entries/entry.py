"""One entry, and the processes and sides that entries share."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.bounds import Bound
from benchmarks.setups import Setup
from benchmarks.sides import definition, engine
from benchmarks.timer import Process, Side

OURS = Process("gpulime")
BEST = Process("best", keeps_memory=True)
# Beside lime, one image is explained by a new process each time: in one that lives on, lime's time is that of the heap which
# its earlier images left, from as fast as with memory kept to twice as slow.
NEW = Process("new", fresh=True)
NEW_BEST = Process("new, keeps memory", keeps_memory=True, fresh=True)

GPULIME = Side("gpulime", engine, OURS)
GPULIME_NEW = Side("gpulime", engine, NEW)
DEFINITION = Side("definition", definition, BEST)

# Tolerances. Bfloat16 keeps 8 bits of every output: its own noise, a fraction of what another seed's masks would change.
FLOAT32, BFLOAT16 = 1e-5, 0.2
RANDOM = 1e-4  # float32, weights of chance: what a last layer makes of small differences between large numbers


@dataclass(frozen=True)
class Entry:
    """One ratio: ours beside that of theirs which is hardest on it.

    The error is that of our coefficients against the reference's, as a part of the largest, and may not pass ``tolerance``.
    """

    name: str
    about: str
    setup: Setup
    theirs: tuple[Side, ...]
    bound: Bound
    reference: Side
    tolerance: float
    ours: Side = GPULIME
    repeats: int = 9

    def tiny(self) -> Entry:
        """The same with one photograph and few samples, for tests."""
        return replace(self, setup=replace(self.setup, n=1, s=100), repeats=1)


def bfloat16(setup: Setup) -> Setup:
    """The same in the other precision."""
    return replace(setup, precision="bfloat16")
