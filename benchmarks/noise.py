"""How far coefficients may lie from the definition's because a GPU, or bfloat16, rounds what a model finds.

A last layer of random weights tells pictures apart by small differences between large numbers, and so enlarges what rounding
does. How much, is seen of the definition itself: with the model in bfloat16, beside the same in float32.
"""

from __future__ import annotations

from benchmarks.entries.entry import BFLOAT16

TIMES = 2.0  # two roundings of one model may lie on either side of what is right
MOST = 0.9  # coefficients that are all 0 have an error of 1, and must fail
TF32_TIMES = 8  # as fine as bfloat16: 11 bits are kept of every number, in place of 8


def in_bfloat16(noise: float) -> float:
    """The most that an error may be, from the definition's own in that precision: at least what is asked on a CPU."""
    return min(MOST, max(BFLOAT16, TIMES * noise))


def in_tf32(noise: float) -> float:
    """The same of float32 whose convolutions are in TF32, as PyTorch has them by default, from the same error."""
    return in_bfloat16(noise) / TF32_TIMES
