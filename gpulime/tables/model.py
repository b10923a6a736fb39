"""The model of an explainer of tables: an estimator, a function of arrays or DataFrames, or a module."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpulime import device as devices
from gpulime.engine import functions
from gpulime.engine.class_columns import ClassColumns
from gpulime.engine.functions import NO_PROBABILITIES, NoProbabilitiesError
from gpulime.engine.model import Activation, Inputs, Predictor
from gpulime.errors import GpulimeError, check, line_of, unknown
from gpulime.tables.columns import Columns

BATCH_ROWS, BATCH_BYTES = 2**15, 2**26  # rows of a call, and their bytes, at most: calls of estimators are mostly overhead
ROUNDING = 1e-3  # by which the sum of probabilities may miss 1, in float16 too
NOT_ONE = (
    "Prediction probabilities do not sum to 1. Check that your classifier outputs probabilities (not log probabilities, or "
    "actual class predictions)."
)
# Errors of functions that take rows of another kind or dtype.
_REFUSED = re.compile(
    r"data ?frame|feature names|only integers, slices|must be Tensor|to numpy|"
    r"(ndarray|Tensor)' object has no attribute '(columns|i?loc|values|cpu|detach|numpy|float|astype|to)'|"
    r"(same|found) dtype|scalar type|should be the same",
    re.I,
)


@dataclass
class Function:
    """Calls a function of the user's rows with rows (b, d) as a tensor.

    Attributes
    ----------
    function : callable, what `Columns.decode` returns -> (b, classes) or (b,)
    columns : Columns
    mode : "classification" or "regression"
    """

    function: Callable[[Any], Any]
    columns: Columns
    mode: str

    def __call__(self, rows: Tensor) -> Tensor:
        given = self.columns.decode(rows.cpu().numpy())
        try:
            output = self.function(given)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, GpulimeError) or not _REFUSED.search(str(error)) or hasattr(given, "columns"):
                raise
            right = "a function gets rows of the kind and dtype of training_data: pass the DataFrame, tensor or array it takes"
            raise GpulimeError(f"the model failed for {_kind(given)} ({line_of(error)}): {right}") from error
        return functions.read(output, len(rows), mode=self.mode)


class Called(Predictor):
    """A function, called without changes to gradients, autocast or the random state, and without further test rows.

    One probability per row becomes those of two classes.

    Attributes
    ----------
    warns : bool, True warns if the first outputs of a classification are no probabilities
    """

    warns = False

    def __init__(self, function: Function, activation: Activation, precision: str, device: torch.device | str | None) -> None:
        super().__init__(function, activation, precision, device)
        self.columns = ClassColumns(scores=False) if function.mode == functions.CLASSIFICATION else None

    @contextmanager
    def inference(self, device: torch.device) -> Iterator[None]:
        devices.keep_memory()
        yield

    def _look(self, outputs: Tensor, ends: Inputs) -> None:
        """Explain outputs as they are, and warn of those of a classification that do not sum to 1."""
        if self.warns and self.columns is not None and self.activation is None and outputs.shape[1] > 1:
            off = (outputs.double().sum(1) - 1).abs()
            if bool((off > ROUNDING).any()):
                warnings.warn(NOT_ONE, stacklevel=2)


class Series(nn.Module):
    """A module that takes series (b, T, F), as one that takes rows (b, F * T)."""

    def __init__(self, module: nn.Module, steps: tuple[int, int]) -> None:
        super().__init__()
        self.module, self.steps = module, steps

    def forward(self, rows: Tensor) -> Any:
        return self.module(rows.view(len(rows), self.steps[1], self.steps[0]).transpose(1, 2))


def mode_of(model: Any, mode: str | None) -> str:
    """The mode asked for, or that of an estimator; "classification" for a function and a module.

    Raises
    ------
    GpulimeError
        If the mode is unknown.
    """
    if mode is None:
        only_predicts = not isinstance(model, nn.Module) and hasattr(model, "predict") and not hasattr(model, "predict_proba")
        return "regression" if only_predicts and not hasattr(model, "classes_") else "classification"
    if mode not in functions.MODES:
        raise unknown("mode", mode, functions.MODES)
    return mode


def function_of(model: Any, mode: str) -> Callable[[Any], Any]:
    """The function to explain: ``predict_proba`` or ``predict`` of an estimator, or the model itself.

    Raises
    ------
    GpulimeError
        If the model is no function and has none.
    """
    if mode == "classification" and hasattr(model, "predict_proba"):
        return model.predict_proba  # type: ignore[no-any-return]
    if mode == "classification" and hasattr(model, "predict") and hasattr(model, "classes_"):
        right = "give the estimator probabilities, or pass a function that returns (b, classes)"
        raise NoProbabilitiesError(f"{NO_PROBABILITIES}; {type(model).__name__} has no predict_proba: {right}")
    if mode == "regression" and hasattr(model, "predict"):
        return model.predict  # type: ignore[no-any-return]
    right = "model must be an estimator with predict_proba or predict, a function of rows, or an nn.Module"
    check(callable(model), f"{right}; got {type(model).__name__}")
    return model  # type: ignore[no-any-return]


def predictor(
    model: Any,
    columns: Columns,
    mode: str,
    activation: Activation,
    precision: str,
    device: torch.device | str | None,
    compile: bool | str,
) -> Predictor:
    """Make the predictor of a model; ``activation="auto"`` is a softmax for a module that classifies, else none."""
    if not isinstance(model, nn.Module):
        function = Function(function_of(model, mode), columns, mode)
        return Called(function, None if activation == "auto" else activation, precision, device)
    if columns.steps is not None:
        model = Series(model, columns.steps)
    if activation == "auto":
        activation = "softmax" if mode == "classification" else None
    return Predictor(model, activation, precision, device, compile)


def _kind(rows: Any) -> str:
    """The kind of the model's rows in a message, such as "a float64 array (5000, 4)"."""
    shape = tuple(rows.shape)
    return f"a {rows.dtype} tensor {shape}" if isinstance(rows, Tensor) else f"a {rows.dtype} array {shape}"
