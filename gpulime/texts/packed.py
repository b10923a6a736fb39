"""Rows of functions of strings: the number of a text and its mask, packed into one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from gpulime.texts.words import Words

Array = np.ndarray[Any, np.dtype[Any]]

NUMBER = 8  # bytes of a text's number
STEP = 64  # widths are multiples of this, so that texts of similar lengths share model batches

_NUMBERS = count()
_TEXTS: WeakValueDictionary[int, Words] = WeakValueDictionary()  # a text lives as long as its masked inputs


def number(words: Words) -> int:
    """Give a text a number, by which its rows refer to it."""
    _TEXTS[given := next(_NUMBERS)] = words
    return given


def width(k: int, step: int = STEP) -> int:
    """Columns of the rows of texts with at most k parts or tokens: a multiple of ``step``."""
    return max(1, -(-k // step)) * step


def pack(numbers: Tensor, masks: Tensor, columns: int) -> Tensor:
    """Rows (b, 8 + columns / 8) uint8 from the numbers (b,) int64 of texts and their masks (b, k) bool."""
    bits = np.zeros((len(masks), columns // 8), np.uint8)
    packed = np.packbits(masks.numpy(), axis=1)
    bits[:, : packed.shape[1]] = packed
    return torch.from_numpy(np.concatenate([numbers.numpy().view(np.uint8).reshape(-1, NUMBER), bits], 1))


def distinct(rows: Tensor) -> tuple[Array, Array]:
    """Distinct rows, those of a text together, and for each given row (b,) the place of its equal."""
    array = np.ascontiguousarray(rows.numpy())
    _, first, inverse = np.unique(array.view(f"V{array.shape[1]}").ravel(), return_index=True, return_inverse=True)
    return array[first], inverse


def texts(rows: Array) -> Iterator[tuple[Words, Array]]:
    """Unpack rows: each text with its masks (m, k) bool; rows of a text must stand together."""
    numbers = np.ascontiguousarray(rows[:, :NUMBER]).view(np.int64).ravel()
    bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
    for start, stop in pairwise(bounds):
        words = _TEXTS[int(numbers[start])]
        yield words, np.unpackbits(rows[start:stop, NUMBER:], axis=1, count=len(words)).astype(bool)
