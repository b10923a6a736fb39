"""Activations in a graph of torch.fx: the ones that are a ReLU under any name, and the others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import fx, nn

INFINITE = float("inf")
OWN = "own_relus_"  # begins the names of the modules that `gpulime.evaluate.methods.own_relus` puts in place

# Names of functions, and of methods of a tensor, that are activations.
SMOOTH = ("celu", "elu", "gelu", "glu", "logsigmoid", "mish", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh")
BROKEN = ("hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "prelu", "rrelu", "softshrink", "threshold")
BOUNDS = ("clamp", "clamp_max", "clamp_min", "clip", "maximum", "minimum")
ACTIVATIONS = {*SMOOTH, *BROKEN, *BOUNDS, "tanhshrink"}
SCORES = nn.Softmax | nn.Softmax2d | nn.LogSoftmax | nn.Softmin | nn.MultiheadAttention  # beside activations in torch.nn
WHOLE = nn.RNNBase | nn.TransformerEncoderLayer | nn.TransformerDecoderLayer  # layers that torch.fx does not look into

# Functions that are a ReLU with the right settings -> the names of these, and their defaults.
BOUNDED: dict[str, dict[str, Any]] = {
    "clamp": {"min": None, "max": None},
    "clip": {"min": None, "max": None},
    "clamp_min": {"min": None},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "threshold": {"threshold": None, "value": None},
}


_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)  # in `noted`


class NotCoveredWarning(UserWarning):
    """A method has a rule for ReLUs, and the model has other activations."""


def top_of(node: fx.Node, root: nn.Module) -> float | None:
    """The highest output of a node that is a ReLU: infinity, or 6 for instance; None for other nodes."""
    if node.op == "call_module":
        return _top_of_module(root.get_submodule(str(node.target)))
    name = _name(node)
    if name in ("relu", "relu6"):
        return INFINITE if name == "relu" else 6.0
    if name not in BOUNDED:
        return None
    low, *others = _settings(node)
    high = others[0] if others else None
    if not isinstance(low, int | float) or low != 0 or not isinstance(high, int | float | None):
        return None
    if name == "threshold":
        return INFINITE if high == 0 else None
    return INFINITE if high is None else float(high) if high > 0 else None


def _top_of_module(called: nn.Module) -> float | None:
    if isinstance(called, nn.Hardtanh) and called.min_val == 0:  # a ReLU6 is one
        return float(called.max_val)
    is_relu = isinstance(called, nn.ReLU) or (isinstance(called, nn.Threshold) and called.threshold == called.value == 0)
    return INFINITE if is_relu else None


def _name(node: fx.Node) -> str:
    """Name of the function or the method that a node calls, the same if it works in place; empty for other nodes."""
    if node.op not in ("call_function", "call_method"):
        return ""
    return (node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")).strip(
        "_"
    )  # F.threshold is _threshold


def _settings(node: fx.Node) -> list[Any]:
    """Arguments of a function of `BOUNDED` after its input."""
    given = node.args[1:]
    named = BOUNDED[_name(node)].items()
    return [given[i] if i < len(given) else node.kwargs.get(name, default) for i, (name, default) in enumerate(named)]


def other_activations(model: nn.Module) -> list[str]:
    """Names of the activations of a model of `own_relus` that are no ReLU, such as "sigmoid" or "GELU", in order of calls."""
    found: list[str] = []
    for graph in (part for part in model.modules() if isinstance(part, fx.GraphModule)):
        for node in graph.graph.nodes:
            if node.op == "call_module" and not str(node.target).startswith(OWN):
                part = graph.get_submodule(str(node.target))
                of_torch = any(base.__module__ == nn.ReLU.__module__ for base in type(part).__mro__)
                if isinstance(part, WHOLE) or (of_torch and not isinstance(part, SCORES)):
                    found.append(type(part).__name__)
            elif _name(node) in ACTIVATIONS and not _guards(node):
                found.append(_name(node))
    return list(dict.fromkeys(found))


def _guards(node: fx.Node) -> bool:
    """True for ``clamp(min=1e-6)``, which guards a division rather than being an activation."""
    if _name(node) not in ("clamp", "clip", "clamp_min"):
        return False
    low, *high = _settings(node)
    return isinstance(low, float) and low > 0 and high in ([], [None])


def warn_of_others(model: nn.Module, method: str) -> None:
    """Warn the caller of a method, or note, if a model of `own_relus` has activations for which the method has no rule."""
    others = ", ".join(other_activations(model))
    if others:
        message = f"{method} has a rule for ReLUs alone, and takes the plain gradient of the model's {others}"
        notes = _NOTES.get()
        if notes is None:
            warnings.warn(message, NotCoveredWarning, stacklevel=4)
        elif message not in notes:
            notes.append(message)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Collect as notes what `warn_of_others` would warn of.

    Warnings are not caught: after each `warnings.catch_warnings` Python shows all once-per-place warnings again.
    """
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)
