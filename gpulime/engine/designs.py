"""Designs: masks that are not independent of each other, so that fewer of them settle the coefficients.

Each row alone shows every part with probability 1/2, as lime's do, so the coefficients are the same in the limit. Rows 1 and 2,
3 and 4, ... are complements of each other; row 0 shows everything and stands outside the design. A design that draws all masks
has no such pairs.

References
----------
Hedayat, Sloane and Stufken, "Orthogonal arrays", 1999 (Hadamard matrices, fold-over).
Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", 1995 (random permutations and shifts keep each row uniform).
Covert and Lee, "Improving KernelSHAP", AISTATS 2021 (paired sampling).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.ops.bernoulli import bernoulli

WORD = 24  # bits of a random number
FEW = 16  # rows of half a block, up to which blocks have no mask in common
ROUNDS = 3  # of mixing
OF_ALL_BLOCKS = 2**31  # number of random bits that an input's blocks share


class Design:
    """Draws masks of an input that depend on each other."""

    name: str
    repeats = True  # if masks of few parts may be equal
    outside = 1  # rows before the design's: sample 0, and the empty input if the estimate needs it

    def __init__(self, seed: int, n_samples: int) -> None:
        self.seed = seed

    def steps(self, counts: Tensor) -> Tensor:
        """Rows (n,) after which a design for ``counts`` (n,) parts may end, and multiples of it: those of a block."""
        return 2 * _above(counts)

    def draw(self, keys: Tensor, counts: Tensor, k: int, start: int, stop: int) -> Tensor:
        """Draw rows ``start`` to ``stop``: (n, stop - start, k) bool, True if a part is shown.

        Row 0 shows everything; values beyond an input's count have no meaning. If ``counts`` are on the CPU, the host does not
        wait for the GPU of the keys.
        """
        raise NotImplementedError


class Antithetic(Design):
    """Independent masks, each followed by its complement."""

    name = "antithetic"

    def draw(self, keys: Tensor, counts: Tensor, k: int, start: int, stop: int) -> Tensor:
        """Draw rows ``start`` to ``stop`` (n, stop - start, k)."""
        del counts  # a longer row begins with the shorter one's bits
        rows = torch.arange(start, stop, device=keys.device)
        return bernoulli(keys[:, None], (rows + 1) // 2, k, self.seed) ^ ((rows > 0) & (rows % 2 == 0))[:, None]


class Blocks(Design):
    """Randomised Hadamard blocks with their complements.

    A block has 2 m rows for m, the least power of 2 above an input's count (128 rows for 32 to 63 parts): m rows of a Hadamard
    matrix, whose columns are orthogonal, in random order, and their complements. Each part gets a random column with a random
    sign. Blocks are independent, so the design may end after any of them. Blocks of less than `FEW` parts have no mask in
    common until all have been drawn.
    """

    name = "blocks"
    repeats = False  # before all masks of few parts are drawn

    def draw(self, keys: Tensor, counts: Tensor, k: int, start: int, stop: int) -> Tensor:
        """Draw rows ``start`` to ``stop`` (n, stop - start, k)."""
        masks = torch.ones(len(keys), stop - start, k, dtype=torch.bool, device=keys.device)
        sizes, begin = _above(counts.cpu()), max(1, start)
        for m in sizes.unique().tolist():
            where = devices.sent((sizes == m).nonzero().flatten(), keys.device)
            first, last = (begin - 1) // (2 * m), -(-(stop - 1) // (2 * m))
            rows = hadamard(keys[where], m, k, first, last, self.seed, devices.sent(counts, keys.device)[where])
            masks[where, begin - start :] = rows[:, begin - 1 - 2 * m * first : stop - 1 - 2 * m * first]
        return masks


def hadamard(keys: Tensor, m: int, k: int, first: int, last: int, seed: int, counts: Tensor | None = None) -> Tensor:
    """Blocks ``first`` to ``last`` of inputs with at most m parts, a power of 2: (n, (last - first) 2 m, k) bool.

    With ``counts`` (n,), blocks of few parts have no mask in common.
    """
    numbers = torch.arange(first, last, device=keys.device)
    bits = bernoulli(keys[:, None], numbers + 1, m * (2 * WORD + 1), seed).unflatten(-1, (m, 2 * WORD + 1))
    order, column = (_words(bits[..., start : start + WORD]).argsort(-1).int() for start in (0, WORD))
    signs = bits[..., 2 * WORD]
    if counts is not None and m <= FEW:
        column, signs = _disjoint(keys, counts, m, numbers, signs, seed)
    if k > m:  # columns beyond an input's parts have no meaning
        column, signs = (torch.nn.functional.pad(one, (0, k - m)) for one in (column, signs))
    half = _parity(order[..., :, None] & column[..., None, :k]) ^ signs[..., None, :k]
    return torch.stack([half, ~half], -2).flatten(1, 3)


def _disjoint(keys: Tensor, counts: Tensor, m: int, numbers: Tensor, signs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Columns (n, 1, m) and signs (n, blocks, m) of blocks that have no mask in common, from random ``signs``.

    All blocks have the same columns. Those of some parts, chosen at random, are 0 and the powers of 2, so the masks of a block
    and their complements show these parts in every way. Blocks differ in the signs of the other parts, which are the bits of
    the blocks' numbers in a random order; and at random in the sign that all parts have in common.
    """
    powers = devices.sent(torch.tensor([0, *(2**i for i in range(m.bit_length() - 1))]), keys.device)
    rest = [column for column in range(m) if column & (column - 1)]  # no powers of 2
    bits = bernoulli(keys, torch.full_like(keys, OF_ALL_BLOCKS), (2 * m + 2 * ROUNDS) * WORD, seed).unflatten(-1, (-1, WORD))
    of_parts, of_columns, factors, shifts = _words(bits).split([m, m, ROUNDS, ROUNDS], -1)
    absent = torch.arange(m, device=keys.device) >= counts[:, None]
    place = (of_parts + absent * 2.0**WORD).argsort(-1).argsort(-1)
    order = devices.sent(torch.tensor(rest), keys.device)[of_columns[:, : len(rest)].argsort(-1)]
    columns = torch.cat([powers.expand(len(keys), -1), order], 1).gather(1, place)
    free = (counts[:, None] - len(powers)).clamp(min=0)  # bits of a block's number
    most = (1 << free) - 1
    number = numbers & most
    for factor, shift in zip(factors.long().split(1, -1), shifts.long().split(1, -1), strict=True):
        number = (number * (2 * factor + 1) + shift) & most  # both steps can be undone, so no mask is predicted twice
        number = number ^ (number >> (free + 1) // 2)
    bit = place - len(powers)
    other = (number[..., None] >> bit.clamp(min=0)[:, None] & 1).bool() & (bit >= 0)[:, None]
    return columns[:, None].int(), signs[..., :1] ^ other


class Exhaustive(Design):
    """All masks of each input: the engine refuses inputs with more of them than samples."""

    name = "exhaustive"
    repeats = False

    def draw(self, keys: Tensor, counts: Tensor, k: int, start: int, stop: int) -> Tensor:
        """Draw rows ``start`` to ``stop`` (n, stop - start, k)."""
        return exhaustive(devices.sent(counts, keys.device), k, stop)[:, start:]


def exhaustive(counts: Tensor, k: int, s: int) -> Tensor:
    """All masks of each input, row 0 with everything shown: (n, s, k) bool; rows from 2^count on have no meaning."""
    hidden = torch.arange(s, device=counts.device)[:, None] >> torch.arange(k, device=counts.device).clamp(max=62) & 1
    return (hidden == 0).expand(len(counts), s, k)


def _above(counts: Tensor) -> Tensor:
    """The least powers of 2 above the counts."""
    return 2 ** torch.frexp(counts.double()).exponent.long()


def _words(bits: Tensor) -> Tensor:
    """Random numbers (...) from bits (..., b), whole and below 2^b."""
    found: Tensor = bits.float() @ 2.0 ** torch.arange(bits.shape[-1], device=bits.device)
    return found


def _parity(numbers: Tensor) -> Tensor:
    """True if a number below 2^32 has an odd number of bits."""
    for shift in (16, 8, 4, 2, 1):
        numbers = numbers ^ (numbers >> shift)
    return (numbers & 1).bool()


DESIGNS: dict[str, type[Design]] = {"antithetic": Antithetic, "blocks": Blocks, "exhaustive": Exhaustive}
