"""Weights as constants of what is compiled, so that PyTorch's compiler fuses BatchNorm and ReLU into convolutions on a CPU.

torch.compile passes weights as arguments, and its option ``freezing`` alone finds nothing to freeze. The backend here makes
a model's registered parameters and buffers constants of the graph first, and nothing else: those that `unchanged` compares.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary, ref
from zlib import crc32

import torch
from torch import Tensor, fx, nn

# Of each model, the digest of its weights when it was first seen; None from the first change on.
_seen: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()
# Of each model, what holds its constants. PyTorch never drops what it compiled; here it goes with the model or its weights.
_calls: WeakKeyDictionary[nn.Module, list[Callable[..., Any]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Freezing:
    """A backend of torch.compile for one model. Backends of the same model are equal, so nothing is compiled twice."""

    model: ref[nn.Module]

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile a graph whose inputs include weights; what is returned takes all inputs and ignores those weights."""
        import torch._inductor

        model, graph = self._alive(), copy.deepcopy(module.graph)
        weights = {id(tensor) for tensor in chain(model.parameters(), model.buffers())}
        named = {node.target for node in graph.nodes if node.op in ("get_attr", "call_module")}
        constants = {name: attrgetter(name)(module) for name in named}
        kept = []
        for i, node in enumerate([node for node in graph.nodes if node.op == "placeholder"]):
            if id(inputs[i]) in weights:
                node.op, node.target, node.args = "get_attr", f"weight_{i}", ()
                constants[node.target] = inputs[i]
            else:
                kept.append(i)
        frozen = fx.GraphModule(constants, graph)
        calls = _calls.setdefault(model, [])
        calls.append(torch._inductor.compile(frozen, [inputs[i] for i in kept], options={"freezing": True}))
        number = len(calls) - 1
        return lambda *given: _calls[self._alive()][number](*[given[i] for i in kept])

    def _alive(self) -> nn.Module:
        """The model; its caller holds it."""
        model = self.model()
        assert model is not None
        return model


def unchanged(model: nn.Module) -> bool:
    """Tell if the weights are what they were when the model was first seen, and always have been.

    Their content is compared: a write through ``.data`` leaves no other trace. After the first change this is False for good,
    since a model in training changes before each explanation, and compiling takes longer than explaining a batch.
    """
    if _seen.get(model, 0) is not None:
        digest = _digest(model)
        if _seen.setdefault(model, digest) != digest:
            give_up(model)
    return _seen[model] is not None


def give_up(model: nn.Module) -> None:
    """Freeze the model no more."""
    _seen[model] = None
    _calls.pop(model, None)


def _digest(model: nn.Module) -> int | None:
    """A checksum of all weights with their names, dtypes and shapes, in 1 ms for 2 MB; None if one has no plain memory."""
    found = 0
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if type(tensor) not in (Tensor, nn.Parameter):
            return None
        found = crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        try:
            found = crc32(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
        except (RuntimeError, TypeError):  # sparse, on another device
            return None
    return found
