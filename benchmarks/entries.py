"""The entries of ``benchmarks.run``: sides, bounds and tolerances as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.peers import captum, lime
from benchmarks.rungs import op_inside, op_outside
from benchmarks.setups import Setup
from benchmarks.sides import BFLOAT16, FLOAT32, RANDOM, Process, Side, bare, compiled, definition, engine


@dataclass(frozen=True)
class Bound:
    """A limit for the ratio of the other side's time to ours (speedup), or of ours to the other's (``cost``)."""

    limit: float = 0.0
    cost: bool = False

    def ratio(self, ours: float, theirs: float) -> float:
        return ours / theirs if self.cost else theirs / ours

    def worst(self, rows: Sequence[Any]) -> Any:
        """The row with the worst ratio."""
        return (max if self.cost else min)(rows, key=lambda row: float(row.ratio))

    def holds(self, ratio: float) -> bool:
        return ratio <= self.limit if self.cost else ratio >= self.limit

    def worsened(self, ratio: float, earlier: float) -> float:
        """Factor by which the ratio has become worse."""
        return ratio / earlier if self.cost else earlier / ratio

    def __str__(self) -> str:
        if not self.limit:
            return "whatever it is"
        return f"at {'most' if self.cost else 'least'} {self.limit:g}"


def at_most(limit: float) -> Bound:
    """A bound on our time over the other side's."""
    return Bound(limit, cost=True)


OURS = Process("gpulime")
BEST = Process("best", keeps_memory=True)
# For lime, each image gets a new process: in a long-lived one, lime may be half as fast, depending on the heap left by earlier
# images.
NEW = Process("new", fresh=True)
NEW_BEST = Process("new, keeps memory", keeps_memory=True, fresh=True)

GPULIME = Side("gpulime", engine, OURS)
GPULIME_NEW = Side("gpulime", engine, NEW)
COMPILED = Side("gpulime, compiled", compiled, OURS)
DEFINITION = Side("definition", definition, BEST)


@dataclass(frozen=True)
class Entry:
    """One ratio: our side and the strictest of the others.

    The error is the difference of our coefficients from the reference's, relative to the largest; it may not exceed
    ``tolerance``.
    """

    name: str
    about: str
    setup: Setup
    theirs: tuple[Side, ...]
    bound: Bound
    tolerance: float
    reference: Side = DEFINITION
    ours: Side = GPULIME
    repeats: int = 9

    def tiny(self) -> Entry:
        """The same with one photograph and few samples, for tests."""
        return replace(self, setup=replace(self.setup, n=1, s=100), repeats=1)


def bfloat16(setup: Setup) -> Setup:
    """Make the same entry in bfloat16."""
    return replace(setup, precision="bfloat16")


# In the engine's own process: the heap's layout changes a forward's time by up to a fifth between processes.
BARE = (Side("bare forwards", bare, OURS),)
FIXED = tuple(Side(f"b = {b}", engine, OURS, b) for b in (4, 8, 10, 16, 32, 64))
FORWARDS, AUTO = Setup(), Setup(n=2, b="auto")


def over(
    name: str, about: str, setup: Setup, theirs: tuple[Side, ...], limits: Sequence[float], repeats: Sequence[int]
) -> list[Entry]:
    """An entry in float32 and the same in bfloat16."""
    single = Entry(f"{name}_float32", f"{about}, float32", setup, theirs, at_most(limits[0]), FLOAT32, repeats=repeats[0])
    both = {"name": f"{name}_bfloat16", "about": "the same in bfloat16", "setup": bfloat16(setup), "tolerance": BFLOAT16}
    return [single, replace(single, **both, bound=at_most(limits[1]), repeats=repeats[1])]


OVER_MODEL = (
    *over("engine_over_model", "explaining, over the model's bare forwards", FORWARDS, BARE, (1.05, 1.08), (15, 9)),
    *over("batch_size_auto", '`batch_size="auto"`, over the best fixed one', AUTO, FIXED, (1.1, 1.1), (5, 5)),
)


def efficiency(
    model_name: str, precision: str, least: float, batches: tuple[int, ...], tolerance: float, repeats: int = 3, s: int = 1000
) -> Entry:
    """Time of the model's bare forwards, in the fastest of some batches, over that of explaining one photograph."""
    slug = model_name.lower().replace("-", "_").replace("/", "").replace(" ", "_")
    return Entry(
        f"efficiency_{slug}_{precision}",
        f"bare forwards' time over explaining's, {model_name}, {precision}, {s} samples",
        Setup(model_name, n=1, s=s, b="auto", precision=precision),
        tuple(Side(f"bare, b = {b}", bare, OURS, b) for b in batches),
        Bound(least),
        tolerance,
        repeats=repeats,
    )


EFFICIENCY = (
    efficiency("EfficientNet-Lite0", "float32", 0.96, (8, 10, 16, 32), FLOAT32, repeats=7),
    efficiency("EfficientNet-Lite0", "bfloat16", 0.94, (8, 16, 32, 64), BFLOAT16, repeats=7),
    efficiency("28x28 CNN", "float32", 0, (32, 128, 512), RANDOM, repeats=9),
    efficiency("ResNet-18", "float32", 0, (8, 32), RANDOM),
    efficiency("ResNet-50", "float32", 0, (8, 32), RANDOM),
    efficiency("ViT-B/16", "float32", 0, (8, 32), RANDOM, s=300),  # with 1000 samples half an hour
    efficiency("ConvNeXt-Tiny", "float32", 0, (8, 32), RANDOM),
)

OP_COMPILED = Entry(
    "op_compiled_bfloat16",
    "one compiled graph of rows and model, over gpulime's op and then the compiled model, EfficientNet-Lite0, bfloat16",
    Setup(n=1, s=304, b=16, precision="bfloat16"),
    (Side("one graph", op_inside, BEST),),
    Bound(),
    BFLOAT16,
    ours=Side("the model compiled", op_outside, BEST),
    repeats=7,
)

LIME = Side("lime", lime.lime_best, BEST)
LIME_TUTORIAL = (Side("lime as in tutorials", lime.lime_tutorial, NEW, precision="float32"),)
LIME_BEST = (Side("lime at its best", lime.lime_best, NEW_BEST, b=10, precision="float32"),)
LIME_ALONE = (Side("lime at its best", lime.lime_best, BEST, b=10, precision="float32"),)
CAPTUM_BEST = tuple(Side(f"captum, {b} a call", captum.captum, NEW, b, "float32") for b in (5, 10, 50))
CAPTUM_KEPT = tuple(Side(f"captum, {b} a call, memory kept", captum.captum, NEW_BEST, b, "float32") for b in (5, 10, 50))
CAPTUM = tuple(Side(f"captum, {b} a call", captum.captum, BEST, b) for b in (10, 50, 250))

PEER, PEER_MANY = Setup(n=1, sampler="lime"), Setup(sampler="lime")
NOTHING = Setup("pixels", n=1, s=1000, b=16, sampler="lime")
DROP_IN, DROP_IN_MODULE, DROP_IN_MANY = (
    Side("gpulime.lime_image", make, NEW) for make in (lime.drop_in, lime.drop_in_module, lime.drop_in_many)
)
DROP_IN_BEST = Side("gpulime.lime_image", lime.drop_in_best, OURS, b=10)


def peer(name: str, about: str, setup: Setup, theirs: tuple[Side, ...], least: float, ours: Side, repeats: int) -> Entry:
    """An entry beside lime or captum; the reference is lime with the same masks."""
    tolerance = BFLOAT16 if setup.precision == "bfloat16" else FLOAT32
    return Entry(name, about, setup, theirs, Bound(least), tolerance, LIME, ours, repeats)


COMPILE = "with `compile=True` (compiled before the clock starts)"
LIKE_LIME = "the same, bfloat16 beside lime's float32"
KEPT = "the same, captum's process keeping its memory as gpulime's does"
PEERS = (
    peer(
        "lime_tutorial_float32",
        "times as fast as lime as its tutorials call it, float32",
        PEER,
        LIME_TUTORIAL,
        2,
        GPULIME_NEW,
        7,
    ),
    peer("lime_tutorial_bfloat16", LIKE_LIME, bfloat16(PEER), LIME_TUTORIAL, 4, GPULIME_NEW, 7),
    peer("lime_best_float32", "times as fast as lime at its best, float32", PEER, LIME_BEST, 1.05, GPULIME_NEW, 7),
    peer("lime_best_bfloat16", LIKE_LIME, bfloat16(PEER), LIME_BEST, 1.8, GPULIME_NEW, 7),
    peer("captum_float32", "times as fast as captum's Lime at its best batch, float32", PEER, CAPTUM_BEST, 1, GPULIME_NEW, 5),
    peer("captum_bfloat16", "the same, bfloat16 beside captum's float32", bfloat16(PEER), CAPTUM_BEST, 3, GPULIME_NEW, 5),
    peer("captum_kept_bfloat16", KEPT, bfloat16(PEER), CAPTUM_KEPT, 1.8, GPULIME_NEW, 5),
    peer("lime_compiled_float32", f"times as fast as lime at its best, {COMPILE}, float32", PEER, LIME_BEST, 0, COMPILED, 7),
    peer("lime_compiled_bfloat16", LIKE_LIME, bfloat16(PEER), LIME_BEST, 0, COMPILED, 7),
    peer("captum_compiled_float32", f"times as fast as captum's Lime, {COMPILE}, float32", PEER, CAPTUM_BEST, 0, COMPILED, 5),
    peer("captum_compiled_bfloat16", "the same, bfloat16 beside captum's float32", bfloat16(PEER), CAPTUM_BEST, 0, COMPILED, 5),
    peer("drop_in_tutorial", "`gpulime.lime_image` in lime's place, as tutorials call it", PEER, LIME_TUTORIAL, 1, DROP_IN, 5),
    peer("drop_in_module", "the same, given the model as it is", PEER, LIME_TUTORIAL, 1, DROP_IN_MODULE, 5),
    peer(
        "drop_in_many",
        "the same for four photographs: `explain_instances` beside the loop",
        PEER_MANY,
        LIME_TUTORIAL,
        1,
        DROP_IN_MANY,
        3,
    ),
    peer("drop_in_no_model", "`gpulime.lime_image` in lime's place, without a model", NOTHING, LIME_ALONE, 4, DROP_IN_BEST, 9),
    peer("no_model_lime", "times as fast as lime, without a model", NOTHING, LIME_ALONE, 4, GPULIME, 9),
    peer("no_model_captum", "times as fast as captum's Lime, without a model", NOTHING, CAPTUM, 6, GPULIME, 9),
)

ENTRIES = (*OVER_MODEL, *EFFICIENCY, OP_COMPILED, *PEERS)
