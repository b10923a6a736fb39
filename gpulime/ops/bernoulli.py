"""Masks whose segments are shown with probability 1/2 each, drawn by counters: equal bits on every device.

References
----------
Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpulime import device
from gpulime.ops import source

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_THREADS = 256


def bernoulli(keys: Tensor, rows: Tensor, k: int, seed: int) -> Tensor:
    """Draw the masks of given rows.

    Segment j of a row is bit ``j % 128`` of the Philox block with the counter (j // 128, row, key) and the key ``seed``.

    Parameters
    ----------
    keys, rows : int64 tensors that broadcast to (...)
        The image's key and the number of the sample in it; 0 shows everything.
    k : int
        Segments, 1 or more.
    seed : int
        Its lower 64 bits count.

    Returns
    -------
    (..., k) bool tensor, True where a segment is shown
    """
    if not source.available(rows.device):
        return bernoulli_reference(keys, rows, k, seed)
    keys, rows = (tensor.contiguous() for tensor in torch.broadcast_tensors(keys, rows))
    masks = device.empty(*rows.shape, k, dtype=torch.bool, device=rows.device)
    if masks.numel():
        signed = (seed + 2**63) % 2**64 - 2**63
        grid = (-(-masks.numel() // _THREADS),)
        args = (keys, rows, masks, rows.numel(), k, signed)
        source.launch("bernoulli.cu", "bernoulli", grid, (_THREADS,), args, device=rows.device)
    return masks


def bernoulli_reference(keys: Tensor, rows: Tensor, k: int, seed: int) -> Tensor:
    """The definition; runs on any device, as some 130 operations."""
    blocks = torch.arange(-(-k // 128), device=rows.device)
    rows, keys = rows[..., None], keys[..., None]
    counter = torch.broadcast_tensors(blocks, rows & _WORD, keys & _WORD, keys >> 32 & _WORD)
    used = min(4, -(-k // 32))  # words of a block
    words = torch.stack(philox4x32(counter, (seed & _WORD, seed >> 32 & _WORD))[:used], dim=-1)
    bits = words[..., None] >> torch.arange(32, device=rows.device) & 1
    return (bits.flatten(-3)[..., :k] | (rows == 0)).bool()


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor | int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 in integer tensor operations, so that every device gives the same bits.

    Parameters
    ----------
    counter : four int64 tensors that broadcast, values in [0, 2**32)
    key : two int64 tensors or ints, values in [0, 2**32)

    Returns
    -------
    four int64 tensors of random words in [0, 2**32)
    """
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        # A product of two 32-bit words fits 64 bits unsigned; int64 wraps to the same bits, and the mask
        # after the arithmetic shift takes the high word out of them.
        p0, p1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = (p1 >> 32 & _WORD) ^ x1 ^ k0, p1 & _WORD, (p0 >> 32 & _WORD) ^ x3 ^ k1, p0 & _WORD
        k0, k1 = k0 + _WEYL[0] & _WORD, k1 + _WEYL[1] & _WORD
    return x0, x1, x2, x3
