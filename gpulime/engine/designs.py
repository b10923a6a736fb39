"""Designs: masks that are not independent of each other, so that fewer of them settle the coefficients.

Each row alone shows every part with probability 1/2, as lime's do, so the coefficients are the same in the limit. Rows 1 and 2,
3 and 4, ... are complements of each other; row 0 shows everything and stands outside the design.

References
----------
Hedayat, Sloane and Stufken, "Orthogonal arrays", 1999 (Hadamard matrices, fold-over).
Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", 1995 (random permutations and shifts keep each row uniform).
Covert and Lee, "Improving KernelSHAP", AISTATS 2021 (paired sampling).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpulime.ops.bernoulli import bernoulli

WORD = 24  # bits of a random number


class Design:
    """Draws complement pairs of masks."""

    name: str
    outside = 1  # rows before the design's: sample 0, and the empty input if the estimate needs it

    def __init__(self, seed: int, n_samples: int) -> None:
        self.seed = seed

    def steps(self, counts: Tensor) -> Tensor:
        """Rows (n,) after which a design for ``counts`` (n,) parts may end, and multiples of it: those of a block."""
        return 2 * _above(counts)

    def draw(self, keys: Tensor, counts: Tensor, k: int, start: int, stop: int) -> Tensor:
        """Draw rows ``start`` to ``stop``: (n, stop - start, k) bool, True if a part is shown.

        Row 0 shows everything; values beyond an input's count have no meaning.
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
    sign. Blocks are independent, so the design may end after any of them.
    """

    name = "blocks"

    def draw(self, keys: Tensor, counts: Tensor, k: int, start: int, stop: int) -> Tensor:
        """Draw rows ``start`` to ``stop`` (n, stop - start, k)."""
        masks = torch.ones(len(keys), stop - start, k, dtype=torch.bool, device=keys.device)
        sizes, begin = _above(counts), max(1, start)
        for m in sizes.unique().tolist():
            where = (sizes == m).nonzero().flatten()
            first, last = (begin - 1) // (2 * m), -(-(stop - 1) // (2 * m))
            rows = hadamard(keys[where], m, k, first, last, self.seed)
            masks[where, begin - start :] = rows[:, begin - 1 - 2 * m * first : stop - 1 - 2 * m * first]
        return masks


def hadamard(keys: Tensor, m: int, k: int, first: int, last: int, seed: int) -> Tensor:
    """Blocks ``first`` to ``last`` of inputs with at most m parts, a power of 2: (n, (last - first) 2 m, k) bool."""
    numbers = torch.arange(first, last, device=keys.device) + 1
    bits = bernoulli(keys[:, None], numbers, m * (2 * WORD + 1), seed).unflatten(-1, (m, 2 * WORD + 1))
    powers = 2.0 ** torch.arange(WORD, device=keys.device)
    order = (bits[..., :WORD].float() @ powers).argsort(-1).int()
    column = (bits[..., WORD : 2 * WORD].float() @ powers).argsort(-1).int()
    signs = bits[..., 2 * WORD]
    if k > m:  # columns beyond an input's parts have no meaning
        column, signs = (torch.nn.functional.pad(one, (0, k - m)) for one in (column, signs))
    half = _parity(order[..., :, None] & column[..., None, :k]) ^ signs[..., None, :k]
    return torch.stack([half, ~half], -2).flatten(1, 3)


def exhaustive(counts: Tensor, k: int, s: int) -> Tensor:
    """All masks of each input, row 0 with everything shown: (n, s, k) bool; rows from 2^count on have no meaning."""
    hidden = torch.arange(s, device=counts.device)[:, None] >> torch.arange(k, device=counts.device).clamp(max=62) & 1
    return (hidden == 0).expand(len(counts), s, k)


def _above(counts: Tensor) -> Tensor:
    """The least powers of 2 above the counts."""
    return 2 ** torch.frexp(counts.double()).exponent.long()


def _parity(numbers: Tensor) -> Tensor:
    """True if a number below 2^32 has an odd number of bits."""
    for shift in (16, 8, 4, 2, 1):
        numbers = numbers ^ (numbers >> shift)
    return (numbers & 1).bool()


DESIGNS: dict[str, type[Design]] = {"antithetic": Antithetic, "blocks": Blocks}
