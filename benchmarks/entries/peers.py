"""gpulime beside lime and captum, and `gpulime.lime_image` in lime's place."""

from __future__ import annotations

from benchmarks.bounds import AtLeast
from benchmarks.entries.entry import BEST, BFLOAT16, FLOAT32, GPULIME_NEW, NEW, NEW_BEST, OURS, Entry, bfloat16
from benchmarks.peers.captum import captum
from benchmarks.peers.drop_in import drop_in, drop_in_best, drop_in_many, drop_in_module
from benchmarks.peers.lime import lime_best, lime_tutorial
from benchmarks.setups import Setup
from benchmarks.timer import Side

LIME_TUTORIAL = (Side("lime as in tutorials", lime_tutorial, NEW, precision="float32"),)
LIME_BEST = (Side("lime at its best", lime_best, NEW_BEST, b=10, precision="float32"),)
LIME_ALONE = (Side("lime at its best", lime_best, BEST, b=10, precision="float32"),)
CAPTUM_BEST = tuple(Side(f"captum, {b} a call", captum, NEW, b, "float32") for b in (5, 10, 50))
CAPTUM_KEPT = tuple(Side(f"captum, {b} a call, memory kept", captum, NEW_BEST, b, "float32") for b in (5, 10, 50))
CAPTUM = tuple(Side(f"captum, {b} a call", captum, BEST, b) for b in (10, 50, 250))
LIME = Side("lime", lime_best, BEST)

PEER = Setup(n=1, sampler="lime")
PEER_MANY = Setup(sampler="lime")
NOTHING = Setup("pixels", n=1, s=1000, b=16, sampler="lime")

PEERS = (
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
        "captum_float32",
        "times as fast as captum's Lime at its best batch, float32",
        PEER,
        CAPTUM_BEST,
        AtLeast(1),
        LIME,
        FLOAT32,
        ours=GPULIME_NEW,
        repeats=5,
    ),
    Entry(
        "captum_bfloat16",
        "the same, bfloat16 beside captum's float32",
        bfloat16(PEER),
        CAPTUM_BEST,
        AtLeast(3),
        LIME,
        BFLOAT16,
        ours=GPULIME_NEW,
        repeats=5,
    ),
    Entry(
        "captum_kept_bfloat16",
        "the same, captum's process keeping its memory as gpulime's does",
        bfloat16(PEER),
        CAPTUM_KEPT,
        AtLeast(1.8),
        LIME,
        BFLOAT16,
        ours=GPULIME_NEW,
        repeats=5,
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
        ours=Side("gpulime.lime_image", drop_in_best, OURS, b=10),
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
