"""Outputs of functions of arrays: probabilities of classes, or the values of a regression."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.engine.outputs import found
from gpulime.errors import GpulimeError, check
from gpulime.tables.bins import Array

MODES = ("classification", "regression")
NO_PROBABILITIES = "LIME does not currently support classifier models without probability scores"


class NoProbabilitiesError(GpulimeError, NotImplementedError):
    """A classifier returned classes in place of probabilities; lime raises NotImplementedError, too."""


def read(output: Any, b: int, mode: str) -> Tensor:
    """Read the outputs of a function for b rows: (b, classes) probabilities, or (b, 1) values of a regression, floating.

    A single probability per row, (b,) or (b, 1), becomes those of two classes.

    Raises
    ------
    NoProbabilitiesError
        If a classifier returned classes.
    GpulimeError
        If the output has another shape, or is no array.
    """
    array = _array(found(output))
    right = f"the model must return (b, classes) probabilities with b = {b}" if mode == "classification" else ""
    right = right or f"the model must return a number per row, (b,) with b = {b}"
    if array is None or array.dtype.kind not in "fiub":
        got = type(output).__name__ if array is None else f"{array.dtype} {array.shape}"
        if mode == "classification" and array is not None and array.ndim == 1:
            raise NoProbabilitiesError(f"{NO_PROBABILITIES}; {right}, as predict_proba does; got {got}")
        raise GpulimeError(f"{right}; got {got}")
    shape = array.shape
    check(shape[:1] == (b,) and array.ndim in (1, 2) and array.size > 0, f"{right}; got {shape}")
    if mode == "regression":
        check(array.ndim == 1 or shape[1] == 1, f"{right}; got {shape}: a classifier needs mode='classification'")
        return _tensor(array.reshape(b, 1))
    if array.ndim == 1 or array.shape[1] == 1:
        one = array.reshape(b, 1)
        if array.dtype.kind != "f" or not (one >= 0).all() or not (one <= 1).all():
            raise NoProbabilitiesError(f"{NO_PROBABILITIES}; {right}, as predict_proba does; got {array.dtype} {array.shape}")
        array = np.concatenate([1 - one, one], axis=1)
    return _tensor(array)


def _tensor(array: Array) -> Tensor:
    floating = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(floating))


def _array(output: Any) -> Array | None:
    if output is None:  # NumPy would convert it to NaN
        return None
    if isinstance(output, Tensor):
        output = output.detach().cpu()
        output = output.float() if output.dtype == torch.bfloat16 else output  # NumPy has no bfloat16
    try:
        return np.asarray(output)
    except (TypeError, ValueError):
        return None
