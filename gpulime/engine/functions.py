"""Outputs of functions of arrays or strings, such as ``predict_proba``, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime import arrays
from gpulime.engine.outputs import found
from gpulime.errors import GpulimeError, check

CLASSIFICATION, REGRESSION = MODES = ("classification", "regression")
NO_PROBABILITIES = "LIME does not currently support classifier models without probability scores"


class NoProbabilitiesError(GpulimeError, NotImplementedError):
    """A classifier returned classes or scores in place of probabilities; lime raises NotImplementedError, too."""


def read(output: Any, b: int, name: str = "model", mode: str = CLASSIFICATION) -> Tensor:
    """Read the output of a function for b rows as a floating tensor (b, classes), or (b, 1) for a regression.

    (b,) numbers become a column.

    Raises
    ------
    NoProbabilitiesError
        If a classifier returned labels, which integers are in (b,) and (b, 1), too.
    GpulimeError
        If the output has another shape, or does not consist of numbers; the message names it and the function.
    """
    regression = mode == REGRESSION
    right = f"a number for each, ({b},)" if regression else f"probabilities ({b}, classes)"
    right = f"the {name} was asked for {b} rows and must return {right}"
    given = found(output)
    check(not _holds_dicts(given), f"{right}; got dicts, as of a transformers pipeline: pass that to gpulime.TextExplainer")
    array = arrays.numbers(given)
    if array is None or array.ndim == 0:
        raise GpulimeError(f"{right}; got {type(given).__name__}")
    got = str(array.shape)
    check(array.ndim in (1, 2) and len(array) == b and array.size > 0, f"{right}; got {got}")
    hint = ": a classifier needs mode='classification'"
    check(not regression or array.shape[1:] in ((), (1,)), f"{right}; got {got}{hint}")
    is_label = array.dtype.kind in "OUS" or (array.size == b and array.dtype.kind in "iub")
    if is_label and not regression:
        first = array.ravel()[:1].tolist()[0]
        raise NoProbabilitiesError(f"{NO_PROBABILITIES}; {right}, as predict_proba does; got labels, such as {first!r}")
    check(array.dtype.kind in "fiub", f"{right}; got {array.dtype} {got}")
    floating = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(floating.reshape(b, -1)))


def _holds_dicts(given: Any) -> bool:
    first = given[0] if isinstance(given, list) and given else None
    return isinstance(first[0] if isinstance(first, list) and first else first, dict)
