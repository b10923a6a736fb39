"""Convert arrays and lists of users to tensors, and outputs of their functions to arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.errors import GpulimeError


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


def keys(given: Any, n: int) -> Tensor:
    """The user's keys of n inputs as (n,) int64.

    Raises
    ------
    GpulimeError
        If they are no n whole numbers.
    """
    found = tensor(given)
    fits = found is not None and found.shape == (n,) and not found.is_floating_point() and not found.is_complex()
    if found is None or not fits or found.dtype == torch.bool:
        got = type(given).__name__ if found is None else f"{tuple(found.shape)} {found.dtype}"
        raise GpulimeError(f"keys must be {n} whole numbers, one for each input, such as gpulime.key(id); got {got}")
    return found.long()


def numbers(output: Any) -> np.ndarray[Any, np.dtype[Any]] | None:
    """The output of a function, of any kind and device, as an array; None if it is None, or ragged."""
    if output is None:  # NumPy would convert it to NaN
        return None
    if isinstance(output, Tensor):
        output = output.detach().cpu()
        output = output.float() if output.dtype == torch.bfloat16 else output  # NumPy has no bfloat16
    try:
        return np.asarray(output)
    except (TypeError, ValueError):
        return None


def _native(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    fits = array.dtype.isnative and array.flags.writeable and min(array.strides, default=0) >= 0
    return array if fits else array.astype(array.dtype.newbyteorder("="), order="C")
