"""Convert arrays and lists of users to tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensor(value: Any) -> Tensor | None:
    """A tensor, an array or a list as a tensor; None if it does not consist of numbers, or is ragged.

    Arrays that torch cannot take as they are (reversed, big-endian, read-only) are copied.
    """
    try:
        if isinstance(value, list | tuple) and any(isinstance(one, np.ndarray | Tensor) for one in value):
            found = [one for one in map(tensor, value) if one is not None]
            return torch.stack(found) if len(found) == len(value) else None
        return torch.as_tensor(_native(value) if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _native(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    fits = array.dtype.isnative and array.flags.writeable and min(array.strides, default=0) >= 0
    return array if fits else array.astype(array.dtype.newbyteorder("="), order="C")
