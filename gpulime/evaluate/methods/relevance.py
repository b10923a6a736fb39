"""Layer-wise relevance propagation: prepares a model by torch.fx, and lets zennit's rules propagate."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gpulime.evaluate.methods.method import Attributor, Classifier
from gpulime.evaluate.methods.own_relus import matching, own_relus

SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
MEANS = (nn.functional.adaptive_avg_pool2d, nn.functional.avg_pool2d, torch.mean, "mean")


class Linear(nn.Module):
    """A linear function without weights, such as a mean, as a module, so that a rule can be attached to it."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.args, self.kwargs = function, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the function's."""
        result: Tensor = self.function(x, *self.args, **self.kwargs)
        return result


def attributor(classifier: Classifier, example: Tensor) -> Attributor:
    """Prepare a model for zennit.

    Raises
    ------
    NotAvailableError
        If torch.fx cannot trace the model, or traces another one.
    """
    from zennit.attribution import Gradient
    from zennit.composites import EpsilonPlus
    from zennit.rules import Norm

    model = matching(Classifier(canonical(own_relus(classifier.model, split=False))).eval(), classifier, example)
    composite = EpsilonPlus(layer_map=[(Linear, Norm())], zero_params="bias")
    attribute = Gradient(model, composite)

    def relevances(images: Tensor, labels: Tensor) -> Tensor:
        images = images.detach().requires_grad_()

        def chosen(outputs: Tensor) -> Tensor:
            return torch.zeros_like(outputs).scatter(1, labels[:, None], outputs.gather(1, labels[:, None]))

        found: Tensor = attribute(images, chosen)[1]
        return found

    return relevances


def canonical(traced: fx.GraphModule) -> fx.GraphModule:
    """Fuse BatchNorm into convolutions, and turn sums and means into modules; outputs are the same up to rounding.

    Without it a sum of two branches would give each the whole relevance, and the rules would miss the signs of BatchNorm.
    """
    graph = traced.graph
    for number, node in enumerate(list(graph.nodes)):
        if node.op == "call_module":
            _fuse(node, traced, f"fused_{number}")
        elif node.target in SUMS and len(_tensors(node)) == 2:
            with graph.inserting_before(node):
                both = graph.call_function(torch.stack, (_tensors(node), -1))
                _become(node, traced, f"sum_{number}", Linear(torch.sum, (), {"dim": -1}), both)
        elif node.target in MEANS and len(_tensors(node)) == 1 == len(node.all_input_nodes):
            source = _tensors(node)[0]
            function = getattr(torch, node.target) if isinstance(node.target, str) else node.target
            kwargs = {name: value for name, value in node.kwargs.items() if value is not source}
            with graph.inserting_before(node):
                _become(node, traced, f"mean_{number}", Linear(function, node.args[1:], kwargs), source)
    graph.lint()
    traced.recompile()
    return traced


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The nodes among the arguments of a function."""
    return [one for one in (*node.args, *node.kwargs.values()) if isinstance(one, fx.Node)]


def _become(node: fx.Node, traced: fx.GraphModule, name: str, module: nn.Module, source: fx.Node) -> None:
    traced.add_module(name, module)
    node.replace_all_uses_with(node.graph.call_module(name, (source,)))
    node.graph.erase_node(node)


def _fuse(node: fx.Node, traced: fx.GraphModule, name: str) -> None:
    """Fuse a BatchNorm with the convolution before it, if nothing else reads that one."""
    norm, source = traced.get_submodule(str(node.target)), node.args[0] if node.args else None
    if not isinstance(norm, nn.BatchNorm2d) or not isinstance(source, fx.Node) or source.op != "call_module":
        return
    convolution = traced.get_submodule(str(source.target))
    if isinstance(convolution, nn.Conv2d) and len(source.users) == 1:
        traced.add_module(name, fuse_conv_bn_eval(convolution, norm))
        with node.graph.inserting_before(node):
            node.replace_all_uses_with(node.graph.call_module(name, source.args))
        node.graph.erase_node(node)
        node.graph.erase_node(source)
