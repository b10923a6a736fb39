"""One pass of torch.fx after which the hooks of captum and zennit see every ReLU of a model."""

from __future__ import annotations

import copy
import operator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from gpulime.errors import line_of
from gpulime.evaluate.methods.activations import INFINITE, OWN, top_of
from gpulime.evaluate.methods.method import Classifier, NotAvailableError, check_outputs


class Tracer(fx.Tracer):
    """Keeps convolutions and linear layers whole, also those of a class of their own, since hooks are for modules."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.Linear) or super().is_leaf_module(m, module_qualified_name)


def own_relus(model: Any, split: bool = True) -> fx.GraphModule:
    """Rebuild a model so that each call of a ReLU is a module of its own, which does not work in place.

    Calls that are a ReLU under another name count, too: ``clamp(min=0)``, ``hardtanh(x, 0, 6)`` or `nn.Threshold` at 0.

    Hooks of captum change the gradient of modules ``nn.ReLU``. They miss functions and `nn.ReLU6`, and fail on a module that is
    called twice or works in place. Without this pass Guided Backprop of such a model equals its gradient.

    Parameters
    ----------
    model : nn.Module
        It is not changed. The new model shares its weights, and is in eval mode.
    split : bool
        If True, ``min(max(x, 0), c)`` of `nn.ReLU6` and `nn.Hardtanh` becomes ``y = relu(x)`` and ``y - excess(y - c)``, where
        ``excess`` is an ``nn.LeakyReLU(0)``: DeepLIFT has a rule for it, and Guided Backprop leaves its gradient alone, so that
        nothing flows back from saturated units.

    Returns
    -------
    fx.GraphModule
        Outputs are the same; with ``split`` up to the rounding of activations above 2 c.

    Raises
    ------
    NotAvailableError
        If torch.fx cannot trace the model, as with control flow that depends on values.
    """
    given = model.model if isinstance(model, Classifier) else model
    if not isinstance(given, nn.Module):
        raise NotAvailableError(f"it needs an nn.Module, to replace its ReLUs; got a {type(given).__name__}")
    try:
        root = _copied(model).eval()
        graph = Tracer().trace(root)
    except Exception as error:
        raise NotAvailableError(f"torch.fx cannot trace {type(model).__name__}: {line_of(error)}") from error
    for part in root.modules():  # a layer in place behind a hook would write into the hook's output
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    calls = [(node, top) for node in graph.nodes if (top := top_of(node, root)) is not None]
    for number, (node, top) in enumerate(calls):
        _replace(node, top, f"{OWN}{number}", root, split)
    graph.lint()
    return fx.GraphModule(root, graph, type(model).__name__)


def _copied(model: nn.Module) -> nn.Module:
    """Copy a model's modules, but not its weights."""
    kept: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, kept)


def _replace(node: fx.Node, top: float, name: str, root: nn.Module, split: bool) -> None:
    """Put own modules in place of a node."""
    graph, source = node.graph, node.args[0] if node.args else node.kwargs["input"]
    is_plain = top == INFINITE
    root.add_module(name, nn.ReLU() if is_plain or split else nn.Hardtanh(0.0, top))
    with graph.inserting_before(node):
        made = graph.call_module(name, (source,))
        if split and not is_plain:
            root.add_module(f"{name}_excess", nn.LeakyReLU(0.0))
            above = graph.call_function(operator.sub, (made, top))
            excess = graph.call_module(f"{name}_excess", (above,))
            made = graph.call_function(operator.sub, (made, excess))
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def traced(classifier: Classifier, example: Tensor) -> Classifier:
    """`own_relus` of a model, compared with it on one input (1, c, h, w), as `matching` does."""
    return matching(Classifier(own_relus(classifier.model)).eval(), classifier, example)


def matching(made: Classifier, classifier: Classifier, example: Tensor) -> Classifier:
    """Compare a model that was made by torch.fx with its origin on one input (1, c, h, w), and return it.

    Raises
    ------
    NotAvailableError
        If the outputs are not finite; or differ, for instance since the model reads a tensor after a ReLU in place, but not the
        ReLU's result.
    """
    with torch.no_grad():
        expected, found = classifier(example), made(example)
    check_outputs(expected)
    near = 1e-4 * float(expected.abs().max())
    if not bool((found - expected).abs().max() <= near):  # NaN, too
        raise NotAvailableError("torch.fx traces a model with other outputs, as if a ReLU in place is used without its result")
    return made
