"""The entries: what is measured beside what, how fast it must be and how exact, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.models import Setup, pixels
from benchmarks.peers import captum, drop_in, drop_in_best, drop_in_many, drop_in_module, lime_best, lime_tutorial
from benchmarks.sides import bare, definition, engine
from benchmarks.timer import Process, Side


@dataclass(frozen=True)
class AtMost:
    """The ratio is our time over theirs."""

    limit: float

    def ratio(self, ours: float, theirs: float) -> float:
        return ours / theirs

    def worst(self, ratios: Sequence[float]) -> float:
        return max(ratios)

    def holds(self, ratio: float) -> bool:
        return ratio <= self.limit

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


@dataclass(frozen=True)
class AtLeast:
    """The ratio is their time over ours: how many times as fast we are."""

    limit: float

    def ratio(self, ours: float, theirs: float) -> float:
        return theirs / ours

    def worst(self, ratios: Sequence[float]) -> float:
        return min(ratios)

    def holds(self, ratio: float) -> bool:
        return ratio >= self.limit

    def __str__(self) -> str:
        return f"at least {self.limit:g}"


OURS = Process("gpulime")
BEST = Process("best", keeps_memory=True)
# Beside lime, one image is explained by a new process each time: in one that lives on, lime's time is that of the heap which
# its earlier images left, from as fast as with memory kept to twice as slow.
NEW = Process("new", fresh=True)
NEW_BEST = Process("new, keeps memory", keeps_memory=True, fresh=True)

GPULIME = Side("gpulime", engine, OURS)
GPULIME_NEW = Side("gpulime", engine, NEW)


@dataclass(frozen=True)
class Entry:
    """One ratio: ours beside that of theirs which is hardest on it.

    The error is that of our coefficients against the reference's, as a part of the largest, and may not pass ``tolerance``.
    """

    name: str
    about: str
    setup: Setup
    theirs: tuple[Side, ...]
    bound: AtMost | AtLeast
    reference: Side
    tolerance: float
    ours: Side = GPULIME
    repeats: int = 9

    def tiny(self) -> Entry:
        """The same with one photograph and few samples, for tests."""
        return replace(self, setup=replace(self.setup, n=1, s=100), repeats=1)


# Tolerances. Bfloat16 keeps 8 bits of every output: its own noise, a fraction of what another seed's masks would change.
FLOAT32, BFLOAT16 = 1e-5, 0.2

# In the engine's own process: where the heap happens to lie moves a forward by a fifth from one process to the next.
BARE = (Side("bare forwards", bare, OURS),)
FIXED = tuple(Side(f"b = {b}", engine, OURS, b) for b in (4, 8, 10, 16, 32, 64))
LIME_TUTORIAL = (Side("lime as in tutorials", lime_tutorial, NEW),)
LIME_BEST = (Side("lime at its best", lime_best, NEW_BEST),)
LIME_ALONE = (Side("lime at its best", lime_best, BEST),)
CAPTUM = tuple(Side(f"captum, {b} a call", captum, BEST, b) for b in (10, 50, 250))

DEFINITION = Side("definition", definition, BEST)
LIME = Side("lime", lime_best, BEST)

FORWARDS = Setup()
AUTO = Setup(n=2, b="auto")
PEER = Setup(n=1, sampler="lime")
PEER_MANY = Setup(sampler="lime")
NOTHING = Setup(pixels, n=1, s=1000, b=16, sampler="lime")


def bfloat16(setup: Setup) -> Setup:
    """The same in the other precision."""
    return replace(setup, precision="bfloat16")


ENTRIES = (
    Entry(
        "engine_over_model_float32",
        "explaining, over the model's bare forwards, float32",
        FORWARDS,
        BARE,
        AtMost(1.05),
        DEFINITION,
        FLOAT32,
        repeats=15,
    ),
    Entry(
        "engine_over_model_bfloat16",
        "the same in bfloat16",
        bfloat16(FORWARDS),
        BARE,
        AtMost(1.08),
        DEFINITION,
        BFLOAT16,
    ),
    Entry(
        "batch_size_auto_float32",
        '`batch_size="auto"`, over the best fixed one, float32',
        AUTO,
        FIXED,
        AtMost(1.1),
        DEFINITION,
        FLOAT32,
        repeats=5,
    ),
    Entry(
        "batch_size_auto_bfloat16",
        "the same in bfloat16",
        bfloat16(AUTO),
        FIXED,
        AtMost(1.1),
        DEFINITION,
        BFLOAT16,
        repeats=5,
    ),
    Entry(
        "lime_tutorial_float32",
        "times as fast as lime as its tutorials call it, float32",
        PEER,
        LIME_TUTORIAL,
        AtLeast(2),
        LIME,
        FLOAT32,
        ours=GPULIME_NEW,
        repeats=7,
    ),
    Entry(
        "lime_tutorial_bfloat16",
        "the same, bfloat16 beside lime's float32",
        bfloat16(PEER),
        LIME_TUTORIAL,
        AtLeast(4),
        LIME,
        BFLOAT16,
        ours=GPULIME_NEW,
        repeats=7,
    ),
    Entry(
        "lime_best_float32",
        "times as fast as lime at its best, float32",
        PEER,
        LIME_BEST,
        AtLeast(1.05),
        LIME,
        FLOAT32,
        ours=GPULIME_NEW,
        repeats=7,
    ),
    Entry(
        "lime_best_bfloat16",
        "the same, bfloat16 beside lime's float32",
        bfloat16(PEER),
        LIME_BEST,
        AtLeast(1.8),
        LIME,
        BFLOAT16,
        ours=GPULIME_NEW,
        repeats=7,
    ),
    Entry(
        "drop_in_tutorial",
        "`gpulime.lime_image` in lime's place, as tutorials call it",
        PEER,
        LIME_TUTORIAL,
        AtLeast(1),
        LIME,
        FLOAT32,
        ours=Side("gpulime.lime_image", drop_in, NEW),
        repeats=5,
    ),
    Entry(
        "drop_in_module",
        "the same, given the model as it is",
        PEER,
        LIME_TUTORIAL,
        AtLeast(1),
        LIME,
        FLOAT32,
        ours=Side("gpulime.lime_image", drop_in_module, NEW),
        repeats=5,
    ),
    Entry(
        "drop_in_many",
        "the same for four photographs: `explain_instances` beside the loop",
        PEER_MANY,
        LIME_TUTORIAL,
        AtLeast(1),
        LIME,
        FLOAT32,
        ours=Side("gpulime.lime_image", drop_in_many, NEW),
        repeats=3,
    ),
    Entry(
        "drop_in_no_model",
        "`gpulime.lime_image` in lime's place, without a model",
        NOTHING,
        LIME_ALONE,
        AtLeast(4),
        LIME,
        FLOAT32,
        ours=Side("gpulime.lime_image", drop_in_best, OURS),
        repeats=9,
    ),
    Entry(
        "no_model_lime",
        "times as fast as lime, without a model",
        NOTHING,
        LIME_ALONE,
        AtLeast(4),
        LIME,
        FLOAT32,
        repeats=9,
    ),
    Entry(
        "no_model_captum",
        "times as fast as captum's Lime, without a model",
        NOTHING,
        CAPTUM,
        AtLeast(6),
        LIME,
        FLOAT32,
        repeats=9,
    ),
)
